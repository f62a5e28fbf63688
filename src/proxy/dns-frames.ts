/**
 * DNS messages on a byte stream, each behind its length in two bytes (RFC 1035 section 4.2.2). Sans-I/O: bytes in, whole
 * messages out, whichever way they were cut.
 */

/** Bytes of the length before each message. */
const PREFIX_BYTES = 2

/** First room for a message: what nearly every one needs. It grows with what has really come, not with what was announced. */
const ROOM_BYTES = 512

/** Who gets the messages. */
export interface MessageSink {
  /** A whole message, which is the sink's from now on. False ends the reading: what follows is dropped. */
  onMessage(message: Uint8Array): boolean
}

/** Reads one direction of one connection. */
export class DnsFrames {
  private readonly sink: MessageSink
  /** Bytes of the prefix that have come. */
  private prefixCount: number
  private length: number
  private room: Uint8Array
  private count: number
  private isOver: boolean

  constructor(sink: MessageSink) {
    this.sink = sink
    this.prefixCount = 0
    this.length = 0
    this.room = NO_BYTES
    this.count = 0
    this.isOver = false
  }

  /** True when the stream may end here: no message is begun. */
  get isBetweenMessages(): boolean {
    return this.prefixCount === 0
  }

  push(/* lent */ bytes: Uint8Array, offset: number, end: number): void {
    let at = offset
    while (at < end && !this.isOver) {
      if (this.prefixCount < PREFIX_BYTES) {
        this.length = (this.length << 8) | bytes[at]!
        this.prefixCount++
        at++
        if (this.prefixCount < PREFIX_BYTES || this.length > 0) continue
      } else {
        const taken = Math.min(end - at, this.length - this.count)
        this.keep(bytes, at, taken)
        at += taken
        if (this.count < this.length) return
      }
      this.finish()
    }
  }

  private keep(bytes: Uint8Array, at: number, length: number): void {
    const needed = this.count + length
    if (needed > this.room.length) {
      // Exact when the whole message is there: it is handed over without another copy.
      const size = needed === this.length ? needed : Math.min(this.length, Math.max(ROOM_BYTES, 2 * needed))
      const room = new Uint8Array(size)
      room.set(this.room.subarray(0, this.count))
      this.room = room
    }
    this.room.set(bytes.subarray(at, at + length), this.count)
    this.count = needed
  }

  private finish(): void {
    const message = this.room.subarray(0, this.count)
    this.room = NO_BYTES
    this.prefixCount = 0
    this.length = 0
    this.count = 0
    this.isOver = !this.sink.onMessage(message)
  }
}

const NO_BYTES = new Uint8Array(0)

/** The message with its length before it. At most 65,535 bytes, as the prefix can say. */
export function frameMessage(message: Uint8Array): Uint8Array {
  const framed = new Uint8Array(PREFIX_BYTES + message.length)
  framed[0] = message.length >> 8
  framed[1] = message.length & 0xff
  framed.set(message, PREFIX_BYTES)
  return framed
}
