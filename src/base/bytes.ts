/**
 * Bytes of text protocols: character classes as tables, comparisons without decoding, and latin1 slices.
 *
 * A table look-up answers both "is it allowed" and "what is its lower case", so that a scan reads each byte once.
 */
import { Buffer } from 'node:buffer'

export const TAB = 0x09
export const LF = 0x0a
export const CR = 0x0d
export const SPACE = 0x20
export const COMMA = 0x2c
export const COLON = 0x3a
export const SEMICOLON = 0x3b

/** Lower-case form of each byte that may stand in a token (RFC 9110 section 5.6.2); 0 for all others. */
export const TOKEN_LOWER: Uint8Array = tokenTable()

/** 1 for each byte that may stand in a field value: tab, space, visible ASCII and 0x80..0xff (RFC 9110 section 5.5). */
export const FIELD_VALUE: Uint8Array = fieldValueTable()

/** Value of each hexadecimal digit; 255 for all other bytes. */
export const HEX_VALUE: Uint8Array = hexTable()

type Latin1Slice = (this: Uint8Array, start: number, end: number) => string
type Latin1Write = (this: Uint8Array, text: string, offset: number, length: number) => number
type Copy = (this: Uint8Array, target: Uint8Array, targetStart: number, start: number, end: number) => number

// Node gives these to Buffer only, but they work on any Uint8Array: borrowed, they need no wrapper object per slice.
const bufferMethods = Buffer.prototype as unknown as { latin1Slice: Latin1Slice; latin1Write: Latin1Write; copy: Copy }
const borrowedCopy = bufferMethods.copy
const borrowedSlice = bufferMethods.latin1Slice
const borrowedWrite = bufferMethods.latin1Write

/** Text of `bytes[start..end)`, one character per byte. */
export function latin1Slice(bytes: Uint8Array, start: number, end: number): string {
  return start >= end ? '' : borrowedSlice.call(bytes, start, end)
}

/** Writes `text`, one byte per character, at `offset`. The caller has made room; characters above 0xff are cut. */
export function latin1Write(bytes: Uint8Array, text: string, offset: number): void {
  borrowedWrite.call(bytes, text, offset, text.length)
}

/** Up to here a loop is quicker than a call into native code. */
const LOOP_BYTES_MAX = 32

/**
 * Copies `length` bytes into `target` at `targetStart`. The caller has made room, and the two do not overlap. Unlike
 * `set` with `subarray` it makes no view object, of which a request would need half a dozen at 100 bytes each.
 */
export function copyBytes(
  source: Uint8Array,
  start: number,
  length: number,
  target: Uint8Array,
  targetStart: number,
): void {
  if (length <= LOOP_BYTES_MAX) for (let i = 0; i < length; i++) target[targetStart + i] = source[start + i]!
  else borrowedCopy.call(source, target, targetStart, start, start + length)
}

/** Bytes of `text`, one per character. */
export function latin1Bytes(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length)
  latin1Write(bytes, text, 0)
  return bytes
}

/** True when `text` stands at `start`. The caller has checked that the range is as long as `text`. */
export function equalsText(bytes: Uint8Array, start: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) if (bytes[start + i] !== text.charCodeAt(i)) return false
  return true
}

/** Like `equalsText`, but ASCII case of `bytes` does not count. `text` is a lower-case token. */
export function equalsTokenLower(bytes: Uint8Array, start: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) if (TOKEN_LOWER[bytes[start + i]!] !== text.charCodeAt(i)) return false
  return true
}

/** Puts `bytes[start..end)` into lower case (ASCII letters only), in place. */
export function lowerCaseInPlace(bytes: Uint8Array, start: number, end: number): void {
  for (let i = start; i < end; i++) {
    const byte = bytes[i]!
    if (byte >= 0x41 && byte <= 0x5a) bytes[i] = byte | 0x20
  }
}

function tokenTable(): Uint8Array {
  const table = new Uint8Array(256)
  for (const character of "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz") {
    table[character.charCodeAt(0)] = character.charCodeAt(0)
  }
  for (let byte = 0x41; byte <= 0x5a; byte++) table[byte] = byte | 0x20
  return table
}

function fieldValueTable(): Uint8Array {
  const table = new Uint8Array(256).fill(1, SPACE)
  table[TAB] = 1
  table[0x7f] = 0
  return table
}

function hexTable(): Uint8Array {
  const table = new Uint8Array(256).fill(255)
  for (let value = 0; value < 16; value++) {
    const digit = value.toString(16)
    table[digit.charCodeAt(0)] = value
    table[digit.toUpperCase().charCodeAt(0)] = value
  }
  return table
}
