import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  copyBytes,
  equalsText,
  equalsTokenLower,
  FIELD_VALUE,
  HEX_VALUE,
  latin1Bytes,
  latin1Slice,
  latin1Write,
  lowerCaseInPlace,
  TOKEN_LOWER,
} from '../../src/base/bytes.ts'

const EVERY_BYTE = Array.from({ length: 256 }, (_, byte) => byte)

test('a token byte is a letter, a digit or one of the marks of RFC 9110, and knows its lower case', () => {
  for (const byte of EVERY_BYTE) {
    const character = String.fromCharCode(byte)
    const isToken = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]$/.test(character)
    assert.equal(TOKEN_LOWER[byte], isToken ? character.toLowerCase().charCodeAt(0) : 0, `byte ${byte}`)
  }
})

test('a field value byte is a tab, a space, visible ASCII or above ASCII', () => {
  for (const byte of EVERY_BYTE) {
    assert.equal(FIELD_VALUE[byte], byte === 9 || (byte >= 32 && byte !== 127) ? 1 : 0, `byte ${byte}`)
  }
})

test('hexadecimal digits have their value in either case and nothing else has one', () => {
  for (const byte of EVERY_BYTE) {
    const digit = String.fromCharCode(byte)
    assert.equal(HEX_VALUE[byte], /^[0-9a-fA-F]$/.test(digit) ? Number.parseInt(digit, 16) : 255, `byte ${byte}`)
  }
})

test('bytes are copied from and to the middle, short runs and long ones, and nothing around them is touched', () => {
  const source = Uint8Array.from({ length: 600 }, (_, index) => (index * 7) % 251)
  for (const length of [0, 1, 31, 32, 33, 64, 500]) {
    const target = new Uint8Array(600).fill(255)
    copyBytes(source.subarray(3), 10, length, target, 20)
    assert.deepEqual(target.subarray(20, 20 + length), source.subarray(13, 13 + length), `${length} bytes`)
    assert.ok(target.subarray(0, 20).every((byte) => byte === 255))
    assert.ok(target.subarray(20 + length).every((byte) => byte === 255))
  }
})

test('latin1 text and bytes are each other, on views that do not begin at the start of their buffer too', () => {
  const text = String.fromCharCode(...EVERY_BYTE)
  const bytes = latin1Bytes(text)
  assert.deepEqual([...bytes], EVERY_BYTE)
  assert.equal(latin1Slice(bytes, 0, 256), text)
  const view = new Uint8Array(bytes.buffer, 65, 10)
  assert.equal(latin1Slice(view, 1, 4), 'BCD')
  assert.equal(latin1Slice(view, 4, 4), '')
  latin1Write(view, 'xyz', 2)
  assert.equal(latin1Slice(bytes, 65, 75), 'ABxyzFGHIJ')
})

test('text is compared in place', () => {
  const bytes = latin1Bytes('..Content-Length..')
  assert.equal(equalsText(bytes, 2, 'Content-Length'), true)
  assert.equal(equalsText(bytes, 2, 'content-length'), false)
  assert.equal(equalsTokenLower(bytes, 2, 'content-length'), true)
  assert.equal(equalsTokenLower(bytes, 1, 'content-length'), false)
  lowerCaseInPlace(bytes, 2, 10)
  assert.equal(latin1Slice(bytes, 0, bytes.length), '..content-Length..')
})
