// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Counts the messages of one direction of a gRPC call, by their prefixes: a byte of flags and four of length (gRPC over
 * HTTP/2, "Length-Prefixed-Message"). Looks at five bytes per message and at no message; keeps none.
 */

/** One byte of flags, four of length. */
const PREFIX_BYTES = 5

export class MessageCounter {
  /** Messages that have begun: their prefix is here. */
  count: number
  private toldCount: number
  /** Bytes of the current message still to come; 0 between messages. */
  private left: number
  /** Bytes of a prefix that is not complete, and what they say so far. */
  private prefixBytes: number
  private length: number

  constructor() {
    this.count = 0
    this.toldCount = 0
    this.left = 0
    this.prefixBytes = 0
    this.length = 0
  }

  /** Messages since `take`. */
  get untold(): number {
    return this.count - this.toldCount
  }

  take(): number {
    const untold = this.untold
    this.toldCount = this.count
    return untold
  }

  /** Returns the count. */
  add(/* lent */ bytes: Uint8Array, offset: number, end: number): number {
    let at = offset
    while (at < end) {
      if (this.left > 0) {
        const passed = Math.min(this.left, end - at)
        this.left -= passed
        at += passed
        continue
      }
      // The flags are shifted out by the four bytes after them.
      this.length = ((this.length << 8) | bytes[at]!) >>> 0
      at++
      if (++this.prefixBytes < PREFIX_BYTES) continue
      this.count++
      this.left = this.length
      this.length = 0
      this.prefixBytes = 0
    }
    return this.count
  }
}
