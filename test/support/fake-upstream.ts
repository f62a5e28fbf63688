/** An upstream whose resolvers answer when the test says so. */
import type { Cancellation, ForwardFailure, ReplyHandler, Upstream } from '../../src/dns/upstream.ts'

/** One query that was sent out. */
export class Forwarded implements Cancellation {
  readonly source: string
  readonly resolverAddress: string
  readonly bytes: Uint8Array
  readonly isTcp: boolean
  cancelCount = 0
  private readonly handler: ReplyHandler

  constructor(source: string, resolverAddress: string, bytes: Uint8Array, isTcp: boolean, handler: ReplyHandler) {
    this.source = source
    this.resolverAddress = resolverAddress
    this.bytes = new Uint8Array(bytes)
    this.isTcp = isTcp
    this.handler = handler
  }

  get id(): number {
    return (this.bytes[0]! << 8) | this.bytes[1]!
  }

  /** Sends `bytes` back; the id in them is replaced by the query's unless told otherwise. */
  reply(bytes: Uint8Array, id = this.id): void {
    // A Buffer, as sockets give them.
    const copy = Buffer.from(bytes)
    copy[0] = id >>> 8
    copy[1] = id & 255
    this.handler.onReply(copy)
  }

  fail(reason: ForwardFailure): void {
    this.handler.onFailure(reason)
  }

  cancel(): void {
    this.cancelCount++
  }
}

export class FakeUpstream implements Upstream {
  readonly sent: Forwarded[] = []
  /** Called for each query before `forward` returns; null for resolvers that answer later. */
  onForward: ((forwarded: Forwarded) => void) | null = null

  forward(
    source: string,
    resolverAddress: string,
    bytes: Uint8Array,
    isTcp: boolean,
    handler: ReplyHandler,
  ): Cancellation {
    const forwarded = new Forwarded(source, resolverAddress, bytes, isTcp, handler)
    this.sent.push(forwarded)
    this.onForward?.(forwarded)
    return forwarded
  }

  get last(): Forwarded {
    return this.sent[this.sent.length - 1]!
  }
}
