// Hot path: see ARCHITECTURE.md, "Hot path rules".
/** Input that came before its turn, in one piece. Empty on nearly all connections, so it is joined rather than queued. */
export class HeldInput {
  /** Null when nothing is held; else what is held lies at `bytes[start..end)`. */
  bytes: Uint8Array | null
  start: number
  end: number

  constructor() {
    this.bytes = null
    this.start = 0
    this.end = 0
  }

  get isEmpty(): boolean {
    return this.bytes === null
  }

  get length(): number {
    return this.end - this.start
  }

  /** Puts input before what is held. Takes ownership of `bytes`. */
  putFirst(bytes: Uint8Array, start: number, end: number): void {
    if (this.bytes === null) {
      this.bytes = bytes
      this.start = start
      this.end = end
    } else {
      this.join(bytes.subarray(start, end), this.bytes.subarray(this.start, this.end))
    }
  }

  /** Puts a copy of input behind what is held. */
  putLast(/* lent */ bytes: Uint8Array, start: number, end: number): void {
    if (this.bytes === null) this.putFirst(bytes.slice(start, end), 0, end - start)
    else this.join(this.bytes.subarray(this.start, this.end), bytes.subarray(start, end))
  }

  clear(): void {
    this.bytes = null
    this.start = 0
    this.end = 0
  }

  private join(first: Uint8Array, second: Uint8Array): void {
    const joined = new Uint8Array(first.length + second.length)
    joined.set(first)
    joined.set(second, first.length)
    this.bytes = joined
    this.start = 0
    this.end = joined.length
  }
}
