// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * HPACK encoding: a flat list of names and values to one header block (RFC 7541).
 *
 * Names and values that repeat go to the dynamic table; those that change with every message are written as literals, so
 * that they do not push the useful ones out; secrets are marked never to be indexed, by us or by whoever passes them on.
 * Strings are written plain (see huffman.ts) and must be latin-1.
 */
import { ENTRY_OVERHEAD_BYTES, STATIC_TABLE, STATIC_TABLE_LENGTH, TABLE_BYTES_DEFAULT } from './hpack-table.ts'

/** Entries larger than this are not indexed: one of them would empty half of the table. */
const INDEXED_BYTES_MAX = TABLE_BYTES_DEFAULT / 2

/** Different for (nearly) every message. */
const VOLATILE: ReadonlySet<string> = new Set([
  ':path',
  'content-length',
  'content-range',
  'date',
  'etag',
  'expires',
  'forwarded',
  'grpc-timeout',
  'if-modified-since',
  'if-none-match',
  'last-modified',
  'location',
  'traceparent',
  'tracestate',
  'x-b3-spanid',
  'x-b3-traceid',
  'x-forwarded-for',
  'x-request-id',
])

const SECRET: ReadonlySet<string> = new Set(['authorization', 'cookie', 'proxy-authorization', 'set-cookie'])

/** One entry of the dynamic table; entries of one name are chained, newest first. */
class Entry {
  readonly name: string
  readonly value: string
  /** Number of the insertion, from 1. */
  readonly sequence: number
  older: Entry | null = null
  newer: Entry | null = null
  /** Next in the order of insertion. */
  following: Entry | null = null

  constructor(name: string, value: string, sequence: number) {
    this.name = name
    this.value = value
    this.sequence = sequence
  }
}

/** First static index of each name. */
const staticNames = new Map<string, number>()
for (let index = STATIC_TABLE_LENGTH; index > 0; index--) staticNames.set(STATIC_TABLE[2 * index - 2]!, index)

/** Where blocks are written, shared by all encoders: a block is copied into frames before the next one is made. */
let block = Buffer.allocUnsafeSlow(16_384)

export class HpackEncoder {
  private readonly newest = new Map<string, Entry>()
  private oldest: Entry | null = null
  private latest: Entry | null = null
  private inserted = 0
  private tableBytes = 0
  private tableLimit = TABLE_BYTES_DEFAULT
  /** Smallest limit since the last block, to be announced at the start of the next; -1 when there is nothing to say. */
  private announceMin = -1
  private length = 0

  /** The block that `encode` made last: valid until any encoder makes the next. */
  get block(): Uint8Array {
    return block
  }

  /** The peer's SETTINGS_HEADER_TABLE_SIZE. We never use more than the default. */
  setTableLimit(limit: number): void {
    const used = Math.min(limit, TABLE_BYTES_DEFAULT)
    if (used === this.tableLimit) return
    this.announceMin = this.announceMin < 0 ? used : Math.min(this.announceMin, used)
    this.tableLimit = used
    this.evict(0)
  }

  /** Encodes names and values, alternating, names in lower case. Returns the length of the block. */
  encode(fields: readonly string[]): number {
    this.length = 0
    reserve(fields)
    if (this.announceMin >= 0) {
      if (this.announceMin < this.tableLimit) this.writeInteger(0x20, 5, this.announceMin)
      this.writeInteger(0x20, 5, this.tableLimit)
      this.announceMin = -1
    }
    for (let i = 0; i < fields.length; i += 2) this.writeField(fields[i]!, fields[i + 1]!)
    return this.length
  }

  private writeField(name: string, value: string): void {
    let nameIndex = 0
    const staticIndex = staticNames.get(name)
    if (staticIndex !== undefined) {
      nameIndex = staticIndex
      for (let index = staticIndex; index <= STATIC_TABLE_LENGTH; index++) {
        if (STATIC_TABLE[2 * index - 2] !== name) break
        if (STATIC_TABLE[2 * index - 1] === value) {
          this.writeInteger(0x80, 7, index)
          return
        }
      }
    }
    if (SECRET.has(name)) {
      this.writeLiteral(0x10, 4, nameIndex, name, value)
      return
    }
    if (VOLATILE.has(name)) {
      this.writeLiteral(0x00, 4, nameIndex, name, value)
      return
    }
    const newest = this.newest.get(name)
    for (let entry = newest ?? null; entry !== null; entry = entry.older) {
      if (entry.value === value) {
        this.writeInteger(0x80, 7, this.indexOf(entry))
        return
      }
    }
    if (nameIndex === 0 && newest !== undefined) nameIndex = this.indexOf(newest)
    const size = name.length + value.length + ENTRY_OVERHEAD_BYTES
    if (size > INDEXED_BYTES_MAX || size > this.tableLimit) {
      this.writeLiteral(0x00, 4, nameIndex, name, value)
      return
    }
    this.writeLiteral(0x40, 6, nameIndex, name, value)
    this.insert(name, value, size)
  }

  private indexOf(entry: Entry): number {
    return STATIC_TABLE_LENGTH + 1 + this.inserted - entry.sequence
  }

  private insert(name: string, value: string, size: number): void {
    this.evict(size)
    const entry = new Entry(name, value, ++this.inserted)
    const older = this.newest.get(name) ?? null
    entry.older = older
    if (older !== null) older.newer = entry
    this.newest.set(name, entry)
    if (this.latest === null) this.oldest = entry
    else this.latest.following = entry
    this.latest = entry
    this.tableBytes += size
  }

  /** Makes room for `size` bytes. The oldest entry is always the last of its name's chain. */
  private evict(size: number): void {
    while (this.oldest !== null && this.tableBytes + size > this.tableLimit) {
      const entry: Entry = this.oldest
      this.oldest = entry.following
      if (this.oldest === null) this.latest = null
      if (entry.newer !== null) entry.newer.older = null
      else this.newest.delete(entry.name)
      this.tableBytes -= entry.name.length + entry.value.length + ENTRY_OVERHEAD_BYTES
    }
  }

  // --- primitives (RFC 7541 section 5) ---

  private writeLiteral(pattern: number, prefixBits: number, nameIndex: number, name: string, value: string): void {
    this.writeInteger(pattern, prefixBits, nameIndex)
    if (nameIndex === 0) this.writeString(name)
    this.writeString(value)
  }

  private writeInteger(pattern: number, prefixBits: number, value: number): void {
    const mask = (1 << prefixBits) - 1
    if (value < mask) {
      block[this.length++] = pattern | value
      return
    }
    block[this.length++] = pattern | mask
    let rest = value - mask
    while (rest >= 0x80) {
      block[this.length++] = (rest & 0x7f) | 0x80
      rest >>>= 7
    }
    block[this.length++] = rest
  }

  private writeString(text: string): void {
    this.writeInteger(0, 7, text.length)
    this.length += block.write(text, this.length, 'latin1')
  }
}

/** Room for the block: a literal takes its characters and at most ten bytes of lengths; two size updates before it. */
function reserve(fields: readonly string[]): void {
  let room = 16
  for (let i = 0; i < fields.length; i++) room += fields[i]!.length + 10
  if (block.length < room) block = Buffer.allocUnsafeSlow(2 * room)
}
