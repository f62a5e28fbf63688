/**
 * A first-in first-out queue of bytes in blocks, for output that must wait and input that nobody takes yet.
 *
 * Small pieces share a block, so that a peer who sends single bytes cannot make one object per byte. A block is never
 * overwritten once it is given out, and is dropped as soon as it is read.
 */
import { Buffer } from 'node:buffer'

/** First block of a queue. 2 KiB: most queues that exist at all hold one small message. */
const BLOCK_BYTES_FIRST = 2048

/** Further blocks. 64 KiB: one read of a socket; the waste at the tail is at most this. */
const BLOCK_BYTES = 65_536

class Block {
  readonly bytes: Uint8Array
  start = 0
  end = 0
  next: Block | null = null

  constructor(size: number) {
    // Not zeroed (a tenth of the cost of bulk): only what was pushed is ever read.
    this.bytes = Buffer.allocUnsafeSlow(size)
  }
}

export class ByteQueue {
  /** Bytes in the queue. */
  length = 0
  private head: Block | null = null
  private tail: Block | null = null

  /** Copies `length` bytes from `offset` to the tail. */
  push(bytes: Uint8Array, offset: number, length: number): void {
    let from = offset
    const end = offset + length
    this.length += length
    while (from < end) {
      const tail = this.tailFor(end - from)
      const count = Math.min(end - from, tail.bytes.length - tail.end)
      tail.bytes.set(bytes.subarray(from, from + count), tail.end)
      tail.end += count
      from += count
    }
  }

  /** The bytes of the first block lie at `headBytes[headStart..headStart + headLength)`. Only while `length` > 0. */
  get headBytes(): Uint8Array {
    return this.head!.bytes
  }

  get headStart(): number {
    return this.head!.start
  }

  get headLength(): number {
    return this.head!.end - this.head!.start
  }

  /** Takes `count` bytes off the first block; at most `headLength`. */
  shift(count: number): void {
    const head = this.head!
    head.start += count
    this.length -= count
    if (head.start < head.end) return
    this.head = head.next
    if (this.head === null) this.tail = null
  }

  clear(): void {
    this.head = null
    this.tail = null
    this.length = 0
  }

  private tailFor(length: number): Block {
    const tail = this.tail
    if (tail !== null && tail.end < tail.bytes.length) return tail
    const block = new Block(tail === null && length <= BLOCK_BYTES_FIRST ? BLOCK_BYTES_FIRST : BLOCK_BYTES)
    if (tail === null) this.head = block
    else tail.next = block
    this.tail = block
    return block
  }
}
