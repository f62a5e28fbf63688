/** Damage to inputs: bits, bytes, blocks, numbers at the edges, tokens of the protocol, and pieces of other inputs. */
import type { SeededRandom } from '../support/seeded-random.ts'
import { concat, type Target } from './target.ts'

/** Numbers on which lengths, counts and windows turn over, as bytes in network order. */
const NUMBERS: readonly Uint8Array[] = [
  0, 1, 2, 9, 16, 31, 32, 63, 64, 127, 128, 255, 256, 1000, 4095, 4096, 16_383, 16_384, 16_385, 32_768, 65_535, 65_536,
  0xff_ffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff,
].flatMap((value) => {
  const wide = new Uint8Array([value >>> 24, value >>> 16, value >>> 8, value])
  return value < 256 ? [wide.slice(3), wide] : value < 65_536 ? [wide.slice(2), wide.slice(1), wide] : [wide]
})

/** One to a few mutations of `input`; `others` are what splices are taken from. */
export function mutate(
  target: Target,
  random: SeededRandom,
  input: Uint8Array,
  others: readonly Uint8Array[],
): Uint8Array {
  let bytes = input
  for (let count = random.pick([1, 1, 1, 2, 2, 3, 5, 8]); count > 0; count--) {
    bytes =
      target.mutate !== null && random.next() < 0.6 ? target.mutate(random, bytes) : once(target, random, bytes, others)
  }
  return bytes.length > target.bytesMax ? bytes.slice(0, target.bytesMax) : bytes
}

function once(target: Target, random: SeededRandom, bytes: Uint8Array, others: readonly Uint8Array[]): Uint8Array {
  const at = random.integer(0, bytes.length)
  // Short blocks mostly: long ones take whole messages away.
  const end = Math.min(bytes.length, at + random.integer(1, random.pick([1, 2, 4, 8, 32, 200])))
  switch (random.integer(0, 10)) {
    case 0:
      return overwrite(bytes, at, new Uint8Array([(bytes[at] ?? 0) ^ (1 << random.integer(0, 7))]))
    case 1:
      return overwrite(bytes, at, new Uint8Array([random.integer(0, 255)]))
    case 2:
      return insert(bytes, at, new Uint8Array([random.integer(0, 255)]))
    case 3:
      return concat(bytes.subarray(0, at), bytes.subarray(end))
    case 4:
      return insert(bytes, random.integer(0, bytes.length), bytes.subarray(at, end))
    case 5:
      return overwrite(bytes, at, random.pick(NUMBERS))
    case 6:
    case 7:
      return target.tokens.length === 0 ? bytes : insert(bytes, at, random.pick(target.tokens))
    case 8:
      return target.tokens.length === 0 ? bytes : overwrite(bytes, at, random.pick(target.tokens))
    case 9:
      return splice(random, bytes, at, random.pick(others))
    default:
      // The same block many times: counts and sizes beyond their limits.
      return insert(bytes, at, repeated(bytes.subarray(at, end), random.pick([2, 4, 16, 150, 1100])))
  }
}

function splice(random: SeededRandom, bytes: Uint8Array, at: number, other: Uint8Array): Uint8Array {
  const from = random.integer(0, other.length)
  const piece = other.subarray(from, random.boolean() ? other.length : random.integer(from, other.length))
  return random.boolean() ? concat(bytes.subarray(0, at), piece) : insert(bytes, at, piece)
}

function repeated(block: Uint8Array, count: number): Uint8Array {
  return concat(...new Array<Uint8Array>(count).fill(block))
}

function insert(bytes: Uint8Array, at: number, piece: Uint8Array): Uint8Array {
  return concat(bytes.subarray(0, at), piece, bytes.subarray(at))
}

function overwrite(bytes: Uint8Array, at: number, piece: Uint8Array): Uint8Array {
  return concat(bytes.subarray(0, at), piece, bytes.subarray(at + piece.length))
}
