/**
 * Bytes of HTTP/2 fixtures: a line is a frame, `TYPE stream FLAG,FLAG payload...`. The payload is made of hexadecimal bytes,
 * "text", and fields `name: value` in quotes behind `=`, which are literals without index. Lines of another form are
 * `PREFACE`, and `RAW` with a payload. The length is that of the payload unless the line ends in `length=N`.
 */
import assert from 'node:assert/strict'
import * as frames from '../../src/http/h2/frame.ts'
import { frame } from './scripted-h2-peer.ts'

const TYPES: Readonly<Record<string, number>> = {
  DATA: frames.FRAME_DATA,
  HEADERS: frames.FRAME_HEADERS,
  PRIORITY: frames.FRAME_PRIORITY,
  RST_STREAM: frames.FRAME_RST_STREAM,
  SETTINGS: frames.FRAME_SETTINGS,
  PUSH_PROMISE: frames.FRAME_PUSH_PROMISE,
  PING: frames.FRAME_PING,
  GOAWAY: frames.FRAME_GOAWAY,
  WINDOW_UPDATE: frames.FRAME_WINDOW_UPDATE,
  CONTINUATION: frames.FRAME_CONTINUATION,
  PRIORITY_UPDATE: 0x10,
  UNKNOWN: 0xfa,
}

const FLAGS: Readonly<Record<string, number>> = {
  '-': 0,
  ACK: frames.FLAG_ACK,
  END_STREAM: frames.FLAG_END_STREAM,
  END_HEADERS: frames.FLAG_END_HEADERS,
  PADDED: frames.FLAG_PADDED,
  PRIORITY: frames.FLAG_PRIORITY,
}

/** The bytes that the lines of a fixture stand for. */
export function framesOf(lines: readonly string[]): Uint8Array {
  return new Uint8Array(Buffer.concat(lines.map(bytesOfLine)))
}

function bytesOfLine(line: string): Uint8Array {
  const words = line.match(/="[^"]*"|"[^"]*"|\S+/g) ?? []
  const [kind, stream, flags, ...payload] = words
  if (kind === 'PREFACE') return frames.PREFACE
  if (kind === 'RAW') return payloadOf(words.slice(1))
  assert.ok(kind !== undefined && TYPES[kind] !== undefined, `not a frame: ${line}`)
  const last = payload.at(-1)
  const told = last?.startsWith('length=') === true ? Number(payload.pop()!.slice(7)) : -1
  const bits = flags!.split(',').reduce((sum, flag) => {
    assert.ok(FLAGS[flag] !== undefined, `not a flag: ${flag}`)
    return sum | FLAGS[flag]
  }, 0)
  const bytes = frame(TYPES[kind], bits, Number(stream), payloadOf(payload))
  if (told >= 0) bytes.writeUIntBE(told, 0, 3)
  return bytes
}

function payloadOf(words: readonly string[]): Uint8Array {
  return Buffer.concat(
    words.map((word) => {
      if (word.startsWith('="')) return literal(word.slice(2, -1))
      if (word.startsWith('"')) return Buffer.from(word.slice(1, -1), 'latin1')
      assert.match(word, /^([0-9a-f]{2})+$/)
      return Buffer.from(word, 'hex')
    }),
  )
}

/** A field as a literal without indexing, plain (RFC 7541 section 6.2.2). */
function literal(field: string): Buffer {
  const at = field.indexOf(': ')
  const [name, value] = [field.slice(0, at), field.slice(at + 2)]
  assert.ok(at > 0 && name.length < 127 && value.length < 127, `not a short field: ${field}`)
  return Buffer.concat([
    Buffer.from([0, name.length]),
    Buffer.from(name, 'latin1'),
    Buffer.from([value.length]),
    Buffer.from(value, 'latin1'),
  ])
}
