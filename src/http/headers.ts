// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The header fields of one message, the same for every HTTP version (RFC 9110 section 5).
 *
 * Fields that came from the wire stay bytes: one owned copy of the head, four offsets per field, values decoded only
 * when someone asks. Edits are text on top: a removal moves offsets down, an addition goes to a second list, and
 * nothing is serialised again until the head is written.
 *
 *     bytes   |host: a\r\nx-id: 7\r\n...|        slots  [nameStart nameEnd valueStart valueEnd] [...]
 *     texts   ['x-added', 'value', ...]          then what many messages share: constant-fields.ts
 *
 * Invariants: names are lower-case tokens; values contain no CR, LF or NUL; the byte part never contains a name of
 * NOT_FORWARDED, because the engine that builds it takes them out (what they said is in the fields of the head).
 */
import { equalsText, FIELD_VALUE, latin1Slice, TOKEN_LOWER } from '../base/bytes.ts'
import { WeftError } from '../base/errors.ts'
import type { ConstantFields } from './constant-fields.ts'

/** Where `writeTo` writes. */
export interface FieldOutput {
  writeBytes(bytes: Uint8Array, offset: number, length: number): void
  /** One byte per character. */
  writeText(text: string): void
}

/**
 * Names that HeaderList.writeTo leaves out: those that concern one connection only (RFC 9110 section 7.6.1), and those
 * that the engine writes itself from the head's own fields.
 */
export const NOT_FORWARDED: ReadonlySet<string> = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'te',
  'transfer-encoding',
  'upgrade',
  'host',
  'content-length',
  'expect',
])

const SLOT_INTS = 4
const NO_BYTES = new Uint8Array(0)
const NO_SLOTS = new Int32Array(0)

export class HeaderList {
  private readonly bytes: Uint8Array
  /** May be shared with other lists; ours are the ints from `base` for `parsedCount` fields. */
  private readonly slots: Int32Array
  private readonly base: number
  private parsedCount: number
  /** Added fields: name, value, name, value. Null until there is one. */
  private texts: string[] | null
  /** Come last; shared by many lists. Null nearly always on a list that nobody has passed on yet. */
  private constant: ConstantFields | null

  /** Without arguments an empty list. The arguments are for engines: see `fromWire`. */
  constructor(bytes: Uint8Array = NO_BYTES, slots: Int32Array = NO_SLOTS, base = 0, count = 0) {
    this.bytes = bytes
    this.slots = slots
    this.base = base
    this.parsedCount = count
    this.texts = null
    this.constant = null
  }

  /**
   * A list over checked bytes of the wire. Takes ownership of the bytes and of the ints from `base`: for each of `count`
   * fields nameStart, nameEnd, valueStart, valueEnd. Names are lower-case and none is in NOT_FORWARDED.
   */
  static fromWire(bytes: Uint8Array, slots: Int32Array, base: number, count: number): HeaderList {
    return new HeaderList(bytes, slots, base, count)
  }

  /**
   * A list over names and values, alternating, that an engine has checked as `add` would. Takes ownership of the array.
   */
  static fromFields(fields: string[]): HeaderList {
    const list = new HeaderList()
    if (fields.length > 0) list.texts = fields
    return list
  }

  /** A list of name and value pairs, each checked as by `add`. */
  static of(pairs: Iterable<readonly [string, string]>): HeaderList {
    const list = new HeaderList()
    for (const [name, value] of pairs) list.add(name, value)
    return list
  }

  /** Number of fields. */
  get length(): number {
    const constantCount = this.constant === null ? 0 : this.constant.texts.length >>> 1
    return this.addedCount + constantCount
  }

  /** Number of fields without the constant ones. */
  private get addedCount(): number {
    return this.parsedCount + (this.texts === null ? 0 : this.texts.length >>> 1)
  }

  nameAt(index: number): string {
    if (index >= this.parsedCount) return this.textAt(index, 0)
    const slot = this.base + index * SLOT_INTS
    return latin1Slice(this.bytes, this.slots[slot]!, this.slots[slot + 1]!)
  }

  valueAt(index: number): string {
    if (index >= this.parsedCount) return this.textAt(index, 1)
    const slot = this.base + index * SLOT_INTS
    return latin1Slice(this.bytes, this.slots[slot + 2]!, this.slots[slot + 3]!)
  }

  /** Name (`part` 0) or value (1) of a field that did not come from the wire. */
  private textAt(index: number, part: number): string {
    const at = index - this.parsedCount
    const texts = this.texts
    const added = texts === null ? 0 : texts.length >>> 1
    return at < added ? texts![at * 2 + part]! : this.constant!.texts[(at - added) * 2 + part]!
  }

  /** The first value of `name` (lower case); null when there is none. */
  get(name: string): string | null {
    const index = this.indexOf(name, 0)
    return index < 0 ? null : this.valueAt(index)
  }

  /** All values of `name` (lower case), joined by ", " in order; null when there is none. */
  getJoined(name: string): string | null {
    let index = this.indexOf(name, 0)
    if (index < 0) return null
    let joined = this.valueAt(index)
    for (index = this.indexOf(name, index + 1); index >= 0; index = this.indexOf(name, index + 1)) {
      joined += `, ${this.valueAt(index)}`
    }
    return joined
  }

  has(name: string): boolean {
    return this.indexOf(name, 0) >= 0
  }

  /** Replaces all fields of that name by one. Throws as `add` does. */
  set(name: string, value: string): void {
    const lower = checkedName(name)
    checkValue(lower, value)
    this.remove(lower)
    this.append(lower, value)
  }

  /**
   * Adds a field; the name is put into lower case. Throws WeftError WEFT_PROTOCOL when the name is not a token, or the
   * value has a control byte or a character above U+00FF: such a field would let its author write headers of his own.
   */
  add(name: string, value: string): void {
    const lower = checkedName(name)
    checkValue(lower, value)
    this.append(lower, value)
  }

  /** Adds a field without checking it: for engines that have checked both parts. `name` is lower-case. */
  append(name: string, value: string): void {
    if (this.texts === null) this.texts = [name, value]
    else this.texts.push(name, value)
  }

  /** Adds fields that many messages share, after all others. None is in NOT_FORWARDED. */
  appendConstant(fields: ConstantFields): void {
    this.constant = this.constant === null ? fields : fields.after(this.constant)
  }

  /** Removes all fields of that name (any case). */
  remove(name: string): void {
    const lower = lowerName(name)
    this.removeParsed(lower)
    if (this.constant !== null && this.constant.indexOf(lower) >= 0) this.dissolveConstant()
    if (this.texts !== null) this.removeTexts(this.texts, lower)
  }

  // --- by position, without decoding a name ---

  /** The first field from `from` on whose name begins with `prefix` (lower case), without the constant ones; or -1. */
  indexOfPrefix(prefix: string, from: number): number {
    const { bytes, slots, base, parsedCount, texts } = this
    for (let i = from; i < parsedCount; i++) {
      const start = slots[base + i * SLOT_INTS]!
      if (slots[base + i * SLOT_INTS + 1]! - start >= prefix.length && equalsText(bytes, start, prefix)) return i
    }
    if (texts === null) return -1
    for (let i = Math.max(from - parsedCount, 0) * 2; i < texts.length; i += 2) {
      if (texts[i]!.startsWith(prefix)) return parsedCount + (i >>> 1)
    }
    return -1
  }

  /** Length of a name. The field is not a constant one. */
  nameLengthAt(index: number): number {
    if (index >= this.parsedCount) return this.texts![(index - this.parsedCount) * 2]!.length
    const slot = this.base + index * SLOT_INTS
    return this.slots[slot + 1]! - this.slots[slot]!
  }

  /** True when the field at `index`, whose name is as long, is called `name` (lower case). It is not a constant one. */
  isNamed(index: number, name: string): boolean {
    if (index >= this.parsedCount) return this.texts![(index - this.parsedCount) * 2] === name
    return equalsText(this.bytes, this.slots[this.base + index * SLOT_INTS]!, name)
  }

  /** Removes one field, not a constant one. Those after it move down. */
  removeAt(index: number): void {
    if (index >= this.parsedCount) {
      this.texts!.splice((index - this.parsedCount) * 2, 2)
      return
    }
    const slot = this.base + index * SLOT_INTS
    this.slots.copyWithin(slot, slot + SLOT_INTS, this.base + this.parsedCount * SLOT_INTS)
    this.parsedCount--
  }

  /** A copy whose edits do not show in this one. The bytes are shared: they never change. */
  clone(): HeaderList {
    const end = this.base + this.parsedCount * SLOT_INTS
    const copy = new HeaderList(this.bytes, this.slots.slice(this.base, end), 0, this.parsedCount)
    copy.texts = this.texts === null ? null : this.texts.slice()
    copy.constant = this.constant
    return copy
  }

  /** Writes every field that goes to the next hop as `name: value CRLF`, in order. */
  writeTo(output: FieldOutput): void {
    this.writeParsed(output)
    if (this.texts !== null) writeTexts(this.texts, output)
    const constant = this.constant
    if (constant !== null) output.writeBytes(constant.bytes, 0, constant.bytes.length)
  }

  /** Appends every field that goes to the next hop, name and value, in order: for engines whose heads are lists. */
  appendTo(fields: string[]): void {
    for (let i = 0; i < this.parsedCount; i++) fields.push(this.nameAt(i), this.valueAt(i))
    const texts = this.texts
    if (texts !== null) {
      for (let i = 0; i < texts.length; i += 2) {
        if (!NOT_FORWARDED.has(texts[i]!)) fields.push(texts[i]!, texts[i + 1]!)
      }
    }
    if (this.constant === null) return
    const constants = this.constant.texts
    for (let i = 0; i < constants.length; i += 2) fields.push(constants[i]!, constants[i + 1]!)
  }

  /** Neighbours that are spelled `name: value CRLF` on the wire, as nearly all are, go out as one run of bytes. */
  private writeParsed(output: FieldOutput): void {
    const { bytes, slots } = this
    const end = this.base + this.parsedCount * SLOT_INTS
    let runStart = -1
    let runEnd = -1
    for (let slot = this.base; slot < end; slot += SLOT_INTS) {
      const nameStart = slots[slot]!
      const nameEnd = slots[slot + 1]!
      const valueStart = slots[slot + 2]!
      const valueEnd = slots[slot + 3]!
      const isPlain = valueStart === nameEnd + 2 && bytes[nameEnd + 1] === 0x20 && bytes[valueEnd] === 0x0d
      if (isPlain && nameStart === runEnd) {
        runEnd = valueEnd + 2
        continue
      }
      if (runStart >= 0) output.writeBytes(bytes, runStart, runEnd - runStart)
      runStart = isPlain ? nameStart : -1
      runEnd = isPlain ? valueEnd + 2 : -1
      if (isPlain) continue
      output.writeBytes(bytes, nameStart, nameEnd - nameStart)
      output.writeText(': ')
      output.writeBytes(bytes, valueStart, valueEnd - valueStart)
      output.writeText('\r\n')
    }
    if (runStart >= 0) output.writeBytes(bytes, runStart, runEnd - runStart)
  }

  private indexOf(name: string, from: number): number {
    const { bytes, slots, base, parsedCount } = this
    for (let i = from; i < parsedCount; i++) {
      const start = slots[base + i * SLOT_INTS]!
      if (slots[base + i * SLOT_INTS + 1]! - start === name.length && equalsText(bytes, start, name)) return i
    }
    const texts = this.texts
    if (texts !== null) {
      for (let i = Math.max(from - parsedCount, 0) * 2; i < texts.length; i += 2) {
        if (texts[i] === name) return parsedCount + (i >>> 1)
      }
    }
    return this.constant === null ? -1 : this.indexOfConstant(this.constant, name, from)
  }

  private indexOfConstant(constant: ConstantFields, name: string, from: number): number {
    const added = this.addedCount
    const at = constant.indexOf(name, Math.max(from - added, 0) * 2)
    return at < 0 ? -1 : added + (at >>> 1)
  }

  /** Makes the constant fields ordinary ones, which can be edited. */
  private dissolveConstant(): void {
    if (this.constant === null) return
    if (this.texts === null) this.texts = this.constant.texts.slice()
    else this.texts.push(...this.constant.texts)
    this.constant = null
  }

  private removeParsed(name: string): void {
    const { bytes, slots, base } = this
    let kept = 0
    for (let i = 0; i < this.parsedCount; i++) {
      const slot = base + i * SLOT_INTS
      const start = slots[slot]!
      if (slots[slot + 1]! - start === name.length && equalsText(bytes, start, name)) continue
      if (kept !== i) slots.copyWithin(base + kept * SLOT_INTS, slot, slot + SLOT_INTS)
      kept++
    }
    this.parsedCount = kept
  }

  private removeTexts(texts: string[], name: string): void {
    let kept = 0
    for (let i = 0; i < texts.length; i += 2) {
      if (texts[i] === name) continue
      texts[kept] = texts[i]!
      texts[kept + 1] = texts[i + 1]!
      kept += 2
    }
    texts.length = kept
  }
}

function writeTexts(texts: readonly string[], output: FieldOutput): void {
  for (let i = 0; i < texts.length; i += 2) {
    if (NOT_FORWARDED.has(texts[i]!)) continue
    output.writeText(texts[i]!)
    output.writeText(': ')
    output.writeText(texts[i + 1]!)
    output.writeText('\r\n')
  }
}

/** `name` in lower case. `toLowerCase` makes room for another string also where there is nothing to change. */
function lowerName(name: string): string {
  for (let i = 0; i < name.length; i++) {
    const code = name.charCodeAt(i)
    if (code >= 0x41 && code <= 0x5a) return name.toLowerCase()
  }
  return name
}

/** `name` in lower case. Throws when it is not a token. */
function checkedName(name: string): string {
  let isLower = true
  for (let i = 0; i < name.length; i++) {
    const code = name.charCodeAt(i)
    const lower = code > 0xff ? 0 : TOKEN_LOWER[code]!
    if (lower === 0) throw badField(name, 'its name has a character that header names must not have')
    if (lower !== code) isLower = false
  }
  if (name === '') throw badField(name, 'its name is empty')
  return isLower ? name : name.toLowerCase()
}

function checkValue(name: string, value: string): void {
  for (let i = 0; i < value.length; i++) {
    const code = value.charCodeAt(i)
    if (code > 0xff || FIELD_VALUE[code] === 0) {
      throw badField(name, 'its value has a control character or one above U+00FF')
    }
  }
}

function badField(name: string, why: string): WeftError {
  return new WeftError(
    'WEFT_PROTOCOL',
    `header ${JSON.stringify(name)} was not set: ${why}; correct the rule that sets it`,
  )
}
