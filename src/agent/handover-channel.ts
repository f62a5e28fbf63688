/**
 * One connection between an agent and its successor: lines with a limit, and one word for every way in which it ends.
 * What is in the lines is handover-messages.ts.
 */
import type { Socket } from 'node:net'
import { encodeMessage, type HandoverMessage, LINE_BYTES_MAX } from './handover-messages.ts'

const NEWLINE = 0x0a

/** Bytes that may wait for a reader. Reports stop above it: they are sums, and nothing is lost by sending them later. */
const BACKLOG_BYTES_MAX = 8 * LINE_BYTES_MAX

/** Who is told what a channel does. */
export interface ChannelOwner {
  /** A throw ends the channel with its message as the reason. */
  onLine(line: string): void
  /** Once. `reason` is for the log. */
  onClosed(reason: string): void
}

/** See the head of the file. */
export class HandoverChannel {
  private readonly socket: Socket
  private readonly owner: ChannelOwner
  private held: Buffer[] = []
  private heldBytes = 0
  private isClosed = false

  /** Takes the socket over. */
  constructor(socket: Socket, owner: ChannelOwner) {
    this.socket = socket
    this.owner = owner
    socket.on('data', (bytes: Buffer) => this.receive(bytes))
    socket.on('error', (error) => this.lost(error.message))
    socket.on('close', () => this.lost('it closed the connection'))
  }

  /** True while the other side does not read what it is sent. */
  get isCongested(): boolean {
    return this.socket.writableLength > BACKLOG_BYTES_MAX
  }

  send(message: HandoverMessage): void {
    if (!this.isClosed) this.socket.write(`${encodeMessage(message)}\n`)
  }

  /** Sends what was written, then closes; the owner hears nothing more. */
  end(): void {
    this.isClosed = true
    this.socket.end()
    // Whoever does not read must not keep the process.
    this.socket.unref()
  }

  /** Ends at once; the owner is told. */
  fail(reason: string): void {
    this.lost(reason)
  }

  private receive(bytes: Buffer): void {
    let start = 0
    for (let end = bytes.indexOf(NEWLINE); end >= 0 && !this.isClosed; end = bytes.indexOf(NEWLINE, start)) {
      this.line(bytes.subarray(start, end))
      start = end + 1
    }
    if (this.isClosed || start === bytes.length) return
    this.heldBytes += bytes.length - start
    this.held.push(bytes.subarray(start))
    if (this.heldBytes > LINE_BYTES_MAX) this.lost(`it sent a line of more than ${LINE_BYTES_MAX} bytes`)
  }

  private line(bytes: Buffer): void {
    const line = this.held.length === 0 ? bytes : Buffer.concat([...this.held, bytes])
    this.held = []
    this.heldBytes = 0
    if (line.length > LINE_BYTES_MAX) {
      this.lost(`it sent a line of more than ${LINE_BYTES_MAX} bytes`)
      return
    }
    try {
      this.owner.onLine(line.toString('utf8'))
    } catch (error) {
      this.lost(`its message is not usable: ${error instanceof Error ? error.message : String(error)}`)
    }
  }

  private lost(reason: string): void {
    if (this.isClosed) return
    this.isClosed = true
    this.held = []
    this.socket.destroy()
    this.owner.onClosed(reason)
  }
}
