/**
 * Bytes that are kept to be read more than once, in the pieces in which they came. Small pieces share a block, so that a
 * peer who sends single bytes cannot make an object of a hundred bytes out of each.
 */

/** Pieces below this are gathered, but for the first: most lists have only one, which is kept as it is. */
const SMALL_BYTES = 1024

/** A block of gathered pieces. 4 KiB: the waste at the end of a list is at most this. */
const BLOCK_BYTES = 4096

/** A list that only grows. */
export class BytePieces {
  private readonly pieces: Uint8Array[] = []
  /** The block that small pieces go to, behind `pieces`; null when there is none. */
  private block: Uint8Array | null = null
  private blockLength = 0

  /** Copies `bytes[offset..end)`. */
  add(bytes: Uint8Array, offset: number, end: number): void {
    const length = end - offset
    if (this.block !== null && length <= this.block.length - this.blockLength) {
      this.block.set(bytes.subarray(offset, end), this.blockLength)
      this.blockLength += length
      return
    }
    this.closeBlock()
    if (length >= SMALL_BYTES || this.pieces.length === 0) {
      // Not `slice`: that of a Buffer does not copy.
      const piece = new Uint8Array(length)
      piece.set(bytes.subarray(offset, end))
      this.pieces.push(piece)
      return
    }
    this.block = new Uint8Array(BLOCK_BYTES)
    this.block.set(bytes.subarray(offset, end))
    this.blockLength = length
  }

  /** Everything, in order. */
  all(): readonly Uint8Array[] {
    this.closeBlock()
    return this.pieces
  }

  private closeBlock(): void {
    if (this.block === null) return
    this.pieces.push(this.block.subarray(0, this.blockLength))
    this.block = null
  }
}
