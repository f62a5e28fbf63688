// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * HPACK decoding: one whole header block to a flat list of names and values (RFC 7541).
 *
 * Two kinds of failure are told apart. A block that is not valid HPACK leaves the two dynamic tables out of step: the
 * connection must end. A block that is valid but breaks HTTP's rules (bad characters, too large a list) is decoded to
 * its end, so that the tables stay in step, and only its stream must end.
 *
 * Strings are latin-1. What they may contain is checked once, when a literal is read; an entry of the table remembers.
 */

import { ENTRY_OVERHEAD_BYTES, STATIC_TABLE, STATIC_TABLE_LENGTH, TABLE_BYTES_DEFAULT } from './hpack-table.ts'
import { decodeHuffman } from './huffman.ts'

/** Slots of the ring: as many entries as fit, each counting at least 32 bytes. A power of two. */
const RING_SLOTS = TABLE_BYTES_DEFAULT / ENTRY_OVERHEAD_BYTES
const RING_MASK = RING_SLOTS - 1

/** Integers with more than this are refused: no length or index of ours comes near, and shifts stay exact. */
const INTEGER_MAX = 0xff_ffff

/** Table size updates at the start of a block: two can be needed (RFC 7541 section 4.2). */
const TABLE_UPDATES_MAX = 2

/** What may be in a name: 1 for the lower-case token characters. A colon may only come first (pseudo-headers). */
const nameBytes = new Uint8Array(256)
for (const char of "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") nameBytes[char.charCodeAt(0)] = 1
const COLON = 0x3a

/** Where Huffman strings are unpacked, shared by all decoders: the result is copied into a string at once. */
let unpacked = Buffer.allocUnsafeSlow(4096)

const NO_SLOTS: string[] = []
const NO_FLAGS = new Uint8Array(0)

export class HpackDecoder {
  /** Of the last block: it had a name or value with characters that HTTP/2 forbids (RFC 9113 section 8.2.1). */
  isMalformed = false
  /** Of the last block: its list was larger than allowed; what came beyond the limit was dropped. */
  isOversized = false

  /** The ring, which comes with the first entry: 2.4 KB that a connection without requests does not need. */
  private names: string[] = NO_SLOTS
  private values: string[] = NO_SLOTS
  private isBad: Uint8Array = NO_FLAGS
  /** Entries ever inserted; the newest is at (inserted - 1) & RING_MASK. */
  private inserted = 0
  private count = 0
  private tableBytes = 0
  private tableLimit = TABLE_BYTES_DEFAULT

  private bytes: Buffer
  private at = 0
  private end = 0
  private hasFailed = false
  /** Of the string read last. */
  private isStringBad = false

  constructor() {
    this.bytes = unpacked
  }

  /**
   * Decodes the block `bytes[offset..end)`, which is only read during the call. Null when it is not valid HPACK.
   * `listBytesMax` limits names and values plus 32 for each pair (RFC 9113 section 6.5.2).
   */
  decode(bytes: Uint8Array, offset: number, end: number, listBytesMax: number): string[] | null {
    this.bytes = asBuffer(bytes)
    this.at = offset
    this.end = end
    this.hasFailed = false
    this.isMalformed = false
    this.isOversized = false
    const fields: string[] = []
    let listBytes = 0
    let updates = 0
    while (this.at < this.end) {
      const first = this.bytes[this.at]!
      let name: string
      let value: string
      if (first >= 0x80) {
        const index = this.readInteger(7)
        if (!this.hasEntry(index)) return this.fail()
        name = this.nameAt(index)
        value = this.valueAt(index)
        if (this.isEntryBad(index)) this.isMalformed = true
      } else if (first >= 0x20 && first < 0x40) {
        const limit = this.readInteger(5)
        updates++
        if (this.hasFailed || fields.length > 0 || this.isOversized) return this.fail()
        if (updates > TABLE_UPDATES_MAX || limit > TABLE_BYTES_DEFAULT) return this.fail()
        this.tableLimit = limit
        this.evict(0)
        continue
      } else {
        const isIndexed = first >= 0x40
        const index = this.readInteger(isIndexed ? 6 : 4)
        let isBad = false
        if (index !== 0) {
          if (!this.hasEntry(index)) return this.fail()
          name = this.nameAt(index)
          isBad = this.isNameBad(index)
        } else {
          name = this.readString(true)
          isBad = this.isStringBad
        }
        const isBadName = isBad
        value = this.readString(false)
        if (this.hasFailed) return this.fail()
        isBad = isBad || this.isStringBad
        if (isBad) this.isMalformed = true
        if (isIndexed) this.insert(name, value, isBadName ? 2 : isBad ? 1 : 0)
      }
      listBytes += name.length + value.length + ENTRY_OVERHEAD_BYTES
      if (listBytes > listBytesMax) this.isOversized = true
      else fields.push(name, value)
    }
    this.bytes = unpacked
    return fields
  }

  private fail(): null {
    this.bytes = unpacked
    return null
  }

  // --- the tables ---

  private hasEntry(index: number): boolean {
    return !this.hasFailed && index > 0 && index <= STATIC_TABLE_LENGTH + this.count
  }

  private slotOf(index: number): number {
    return (this.inserted - (index - STATIC_TABLE_LENGTH)) & RING_MASK
  }

  private nameAt(index: number): string {
    return index <= STATIC_TABLE_LENGTH ? STATIC_TABLE[2 * index - 2]! : this.names[this.slotOf(index)]!
  }

  private valueAt(index: number): string {
    return index <= STATIC_TABLE_LENGTH ? STATIC_TABLE[2 * index - 1]! : this.values[this.slotOf(index)]!
  }

  private isEntryBad(index: number): boolean {
    return index > STATIC_TABLE_LENGTH && this.isBad[this.slotOf(index)] !== 0
  }

  private isNameBad(index: number): boolean {
    return index > STATIC_TABLE_LENGTH && this.isBad[this.slotOf(index)] === 2
  }

  /** `badness`: 0 good, 1 bad value, 2 bad name. */
  private insert(name: string, value: string, badness: number): void {
    const size = name.length + value.length + ENTRY_OVERHEAD_BYTES
    this.evict(size)
    // An entry larger than the table empties it and is not kept (RFC 7541 section 4.4).
    if (size > this.tableLimit) return
    if (this.isBad === NO_FLAGS) this.makeRing()
    const slot = this.inserted++ & RING_MASK
    this.names[slot] = name
    this.values[slot] = value
    this.isBad[slot] = badness
    this.tableBytes += size
    this.count++
  }

  private makeRing(): void {
    this.names = new Array<string>(RING_SLOTS).fill('')
    this.values = new Array<string>(RING_SLOTS).fill('')
    this.isBad = new Uint8Array(RING_SLOTS)
  }

  /** Makes room for `size` bytes. */
  private evict(size: number): void {
    while (this.count > 0 && this.tableBytes + size > this.tableLimit) {
      const slot = (this.inserted - this.count) & RING_MASK
      this.tableBytes -= this.names[slot]!.length + this.values[slot]!.length + ENTRY_OVERHEAD_BYTES
      this.names[slot] = ''
      this.values[slot] = ''
      this.count--
    }
  }

  // --- primitives (RFC 7541 section 5) ---

  private readInteger(prefixBits: number): number {
    const mask = (1 << prefixBits) - 1
    let value = this.bytes[this.at++]! & mask
    if (value < mask) return value
    let shift = 0
    while (this.at < this.end && shift <= 21) {
      const byte = this.bytes[this.at++]!
      value += (byte & 0x7f) << shift
      if (value > INTEGER_MAX) break
      if (byte < 0x80) return value
      shift += 7
    }
    this.hasFailed = true
    return 0
  }

  private readString(isName: boolean): string {
    if (this.hasFailed || this.at >= this.end) {
      this.hasFailed = true
      return ''
    }
    const isHuffman = this.bytes[this.at]! >= 0x80
    const length = this.readInteger(7)
    const start = this.at
    const end = start + length
    if (this.hasFailed || end > this.end) {
      this.hasFailed = true
      return ''
    }
    this.at = end
    if (!isHuffman) return this.takeString(this.bytes, start, end, isName)
    // The shortest code has five bits.
    const room = Math.ceil((length * 8) / 5)
    if (unpacked.length < room) unpacked = Buffer.allocUnsafeSlow(2 * room)
    const count = decodeHuffman(this.bytes, start, end, unpacked, 0)
    if (count < 0) {
      this.hasFailed = true
      return ''
    }
    return this.takeString(unpacked, 0, count, isName)
  }

  private takeString(bytes: Buffer, start: number, end: number, isName: boolean): string {
    this.isStringBad = isName ? !isNameValid(bytes, start, end) : !isValueValid(bytes, start, end)
    return start === end ? '' : bytes.toString('latin1', start, end)
  }
}

function isNameValid(bytes: Uint8Array, start: number, end: number): boolean {
  const first = end > start && bytes[start] === COLON ? start + 1 : start
  for (let i = first; i < end; i++) if (nameBytes[bytes[i]!] === 0) return false
  return end > first
}

/** No NUL, CR or LF, nor other controls but tab, and no white space at either end (RFC 9113 section 8.2.1, RFC 9110 section 5.5). */
function isValueValid(bytes: Uint8Array, start: number, end: number): boolean {
  if (start === end) return true
  for (let i = start; i < end; i++) {
    const byte = bytes[i]!
    if ((byte < 0x20 && byte !== 0x09) || byte === 0x7f) return false
  }
  return !isBlank(bytes[start]!) && !isBlank(bytes[end - 1]!)
}

function isBlank(byte: number): boolean {
  return byte === 0x20 || byte === 0x09
}

function asBuffer(bytes: Uint8Array): Buffer {
  return bytes instanceof Buffer ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
