/** A connection that failed before there was a socket must tell its owner, or a request waits for ever. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { WeftError } from '../../src/base/errors.ts'
import { FailedConn } from '../../src/proxy/failed-conn.ts'
import type { Conn, Handler } from '../../src/transport/conn.ts'
import { NodeTransport } from '../../src/transport/node-transport.ts'

describe('FailedConn', () => {
  it('reports its error at the end of the batch: not inside the call that made it, and once', async () => {
    const error = new WeftError('WEFT_CONNECT', 'no socket to be had')
    const seen: (WeftError | null)[] = []
    const closed = new Promise<void>((resolve) => {
      const handler = new Recorder((reason) => {
        seen.push(reason)
        resolve()
      })
      new FailedConn(new NodeTransport(), handler, '198.18.0.1', 80, error)
      assert.deepEqual(seen, [])
    })
    await closed
    await new Promise((resolve) => setImmediate(resolve))
    assert.deepEqual(seen, [error])
  })
})

class Recorder implements Handler {
  private readonly tell: (error: WeftError | null) => void

  constructor(tell: (error: WeftError | null) => void) {
    this.tell = tell
  }

  onOpen(): void {
    assert.fail('it never opens')
  }

  onBytes(): void {
    assert.fail('it has no bytes')
  }

  onEnd(): void {
    assert.fail('it does not end in order')
  }

  onDrain(): void {}

  onClose(_conn: Conn, error: WeftError | null): void {
    this.tell(error)
  }
}
