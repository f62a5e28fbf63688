// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The memory into which all connections of a transport copy their small writes, so that a turn's output leaves from
 * one place without an allocation per write.
 */

import { copyBytes } from '../base/bytes.ts'

/** Size of a slab. 64 KiB: a batch of small answers fits, and it is four TLS records. */
export const SLAB_BYTES = 65_536

/** Shared output memory of one transport. Bytes are only ever appended; `rewind` when nobody refers to them. */
export class OutputSlab {
  bytes: Buffer
  position = 0
  /** Some socket still holds a part of this slab. */
  isRetained = false

  constructor() {
    this.bytes = Buffer.allocUnsafeSlow(SLAB_BYTES)
  }

  /** Copies `length` bytes (at most SLAB_BYTES) in and returns where they begin; may change `bytes`. */
  append(source: Uint8Array, offset: number, length: number): number {
    if (this.position + length > SLAB_BYTES) {
      this.bytes = Buffer.allocUnsafeSlow(SLAB_BYTES)
      this.position = 0
      this.isRetained = false
    }
    const start = this.position
    copyBytes(source, offset, length, this.bytes, start)
    this.position = start + length
    return start
  }

  rewind(): void {
    if (!this.isRetained) this.position = 0
  }
}

/** Bytes of their own, for writes too large to be staged. */
export function copyOf(bytes: Uint8Array, offset: number, length: number): Uint8Array {
  const copy = Buffer.allocUnsafeSlow(length)
  copyBytes(bytes, offset, length, copy, 0)
  return copy
}
