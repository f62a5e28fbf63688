/** A raw HTTP/1 client: what it sends is spelled out, what it gets is text. */
import assert from 'node:assert/strict'
import { connect, type Socket } from 'node:net'
import type { Target } from './web-clients.ts'

export class Talk {
  readonly socket: Socket
  /** Received and not yet taken by `expect`; one character a byte. */
  text = ''
  /** The server has ended its side, or reset the connection. */
  isEnded = false
  /** Code of the socket's error, ECONNRESET among them; empty without one. */
  error = ''
  private wake: () => void = () => {}

  constructor(target: Target) {
    this.socket = connect({ ...target, allowHalfOpen: true })
    this.socket.setEncoding('latin1')
    this.socket.on('data', (chunk: string) => {
      this.text += chunk
      this.wake()
    })
    this.socket.on('end', () => this.ended(''))
    this.socket.on('error', (error: NodeJS.ErrnoException) => this.ended(error.code ?? error.message))
  }

  send(text: string): this {
    this.socket.write(text, 'latin1')
    return this
  }

  /** Takes everything up to and including the first match. */
  async expect(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.text)
      if (match !== null) {
        this.text = this.text.slice(match.index + match[0].length)
        return match
      }
      assert.ok(
        !this.isEnded,
        `ended (${this.error}) without ${pattern}; got ${JSON.stringify(this.text.slice(0, 500))}`,
      )
      await this.change()
    }
  }

  /** The server's end, in order or not. */
  async end(): Promise<void> {
    while (!this.isEnded) await this.change()
  }

  close(): void {
    this.socket.destroy()
  }

  private change(): Promise<void> {
    return new Promise((resolve) => {
      this.wake = resolve
    })
  }

  private ended(error: string): void {
    this.isEnded = true
    this.error = error
    this.wake()
  }
}
