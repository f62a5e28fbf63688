// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Memory for the heads that outlive their input: pieces of slabs that all connections of a thread share.
 *
 * A typed array of its own costs several times the copy of a usual head. A slab lives as long as any head on it, so its
 * size is also what one long-lived head (a WebSocket) may pin. Pieces are never given back or overwritten.
 */

/** 16 KiB: some fifty usual heads; a thousand tunnels pin 16 MiB at worst. */
const SLAB_BYTES = 16_384

/** Larger heads get memory of their own, so that they do not waste the rest of a slab. */
const PIECE_BYTES_MAX = 4096

/** Ints of a slot slab: four per field, some fifty heads of ten fields. */
const SLAB_INTS = 2048

const PIECE_INTS_MAX = 512

/** A piece of memory that is the caller's alone. The object itself is reused by the next claim. */
export interface ClaimedBytes {
  bytes: Uint8Array
  offset: number
}

export interface ClaimedSlots {
  slots: Int32Array
  offset: number
}

let byteSlab = new Uint8Array(SLAB_BYTES)
let byteSlabUsed = 0
let slotSlab = new Int32Array(SLAB_INTS)
let slotSlabUsed = 0
const claimedBytes: ClaimedBytes = { bytes: byteSlab, offset: 0 }
const claimedSlots: ClaimedSlots = { slots: slotSlab, offset: 0 }

/** Memory for `length` bytes. */
export function claimBytes(length: number): ClaimedBytes {
  if (length > PIECE_BYTES_MAX) {
    claimedBytes.bytes = new Uint8Array(length)
    claimedBytes.offset = 0
    return claimedBytes
  }
  if (byteSlabUsed + length > SLAB_BYTES) {
    byteSlab = new Uint8Array(SLAB_BYTES)
    byteSlabUsed = 0
  }
  claimedBytes.bytes = byteSlab
  claimedBytes.offset = byteSlabUsed
  byteSlabUsed += length
  return claimedBytes
}

/** Memory for `count` ints. */
export function claimSlots(count: number): ClaimedSlots {
  if (count > PIECE_INTS_MAX) {
    claimedSlots.slots = new Int32Array(count)
    claimedSlots.offset = 0
    return claimedSlots
  }
  if (slotSlabUsed + count > SLAB_INTS) {
    slotSlab = new Int32Array(SLAB_INTS)
    slotSlabUsed = 0
  }
  claimedSlots.slots = slotSlab
  claimedSlots.offset = slotSlabUsed
  slotSlabUsed += count
  return claimedSlots
}
