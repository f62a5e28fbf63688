/**
 * HPACK. Byte 0 chooses: blocks for the decoder, each behind its length (two bytes), compared with a decoder that is
 * written for plainness alone; or lists for the encoder, which must come back, over changes of the table's size.
 */
import assert from 'node:assert/strict'
import { HpackDecoder } from '../../../src/http/h2/hpack-decoder.ts'
import { HpackEncoder } from '../../../src/http/h2/hpack-encoder.ts'
import { STATIC_TABLE, STATIC_TABLE_LENGTH, TABLE_BYTES_DEFAULT } from '../../../src/http/h2/hpack-table.ts'
import { decodeHuffman } from '../../../src/http/h2/huffman.ts'
import { bytesOf, concat, type Target } from '../target.ts'

const IS_ENCODER = 1
const LIST_BYTES_MAX = 2_000

interface Plain {
  readonly fields: string[]
  readonly listBytes: number
}

/** RFC 7541 word by word. Null where a block is in error; the connection then ends. */
class PlainDecoder {
  /** Newest first. */
  private table: (readonly [string, string])[] = []
  private limit = TABLE_BYTES_DEFAULT

  decode(bytes: Uint8Array): Plain | null {
    const fields: string[] = []
    let listBytes = 0
    let updates = 0
    let at = 0
    const integer = (bits: number): number => {
      const mask = 2 ** bits - 1
      let value = bytes[at++]! & mask
      if (value < mask) return value
      for (let factor = 1; ; factor *= 128) {
        const byte = bytes[at++]
        // The engine reads four bytes at most and values of 24 bits at most.
        if (byte === undefined || factor > 128 ** 3) throw new RangeError('integer')
        value += (byte & 127) * factor
        if (value > 0xff_ffff) throw new RangeError('integer')
        if (byte < 128) return value
      }
    }
    const string = (): string => {
      const first = bytes[at]
      if (first === undefined) throw new RangeError('string')
      const end = integer(7) + at
      if (end > bytes.length) throw new RangeError('string')
      const room = new Uint8Array(Math.ceil(((end - at) * 8) / 5) + 1)
      const count = first < 128 ? -1 : decodeHuffman(bytes, at, end, room, 0)
      if (first >= 128 && count < 0) throw new RangeError('huffman')
      const text = Buffer.from(first < 128 ? bytes.subarray(at, end) : room.subarray(0, count)).toString('latin1')
      at = end
      return text
    }
    const entry = (index: number): readonly [string, string] => {
      if (index >= 1 && index <= STATIC_TABLE_LENGTH)
        return [STATIC_TABLE[index * 2 - 2]!, STATIC_TABLE[index * 2 - 1]!]
      const found = this.table[index - STATIC_TABLE_LENGTH - 1]
      if (index < 1 || found === undefined) throw new RangeError('index')
      return found
    }
    try {
      while (at < bytes.length) {
        const first = bytes[at]!
        let pair: readonly [string, string]
        if (first >= 0x80) {
          pair = entry(integer(7))
        } else if (first >= 0x20 && first < 0x40) {
          const limit = integer(5)
          if (fields.length > 0 || ++updates > 2 || limit > TABLE_BYTES_DEFAULT) return null
          this.limit = limit
          this.shrink()
          continue
        } else {
          const index = integer(first >= 0x40 ? 6 : 4)
          const name = index === 0 ? string() : entry(index)[0]
          pair = [name, string()]
          if (first >= 0x40) this.insert(pair)
        }
        listBytes += sizeOf(pair)
        fields.push(...pair)
      }
    } catch (error) {
      if (error instanceof RangeError) return null
      throw error
    }
    return { fields, listBytes }
  }

  private insert(pair: readonly [string, string]): void {
    this.table.unshift(pair)
    this.shrink()
  }

  private shrink(): void {
    while (this.table.reduce((sum, pair) => sum + sizeOf(pair), 0) > this.limit) this.table.pop()
  }
}

function sizeOf(pair: readonly [string, string]): number {
  return pair[0].length + pair[1].length + 32
}

function runDecoder(input: Uint8Array): string {
  const decoder = new HpackDecoder()
  const plain = new PlainDecoder()
  let seen = ''
  for (let at = 0; at + 2 <= input.length; ) {
    const length = (input[at]! << 8) | input[at + 1]!
    const block = input.subarray(at + 2, at + 2 + length)
    at += 2 + length
    const expected = plain.decode(block)
    const fields = decoder.decode(input, at - length, at - length + block.length, LIST_BYTES_MAX)
    assert.equal(fields === null, expected === null, 'one decoder accepts what the other refuses')
    if (fields === null || expected === null) return `${seen} refused`
    const listBytes = fields.reduce((sum, text, i) => sum + text.length + (i % 2 === 0 ? 32 : 0), 0)
    assert.ok(listBytes <= LIST_BYTES_MAX, `a list of ${listBytes} bytes`)
    assert.equal(decoder.isOversized, expected.listBytes > LIST_BYTES_MAX)
    if (!decoder.isOversized) {
      assert.deepEqual(fields, expected.fields)
      assert.equal(decoder.isMalformed, isMalformed(fields))
    }
    if (seen.length < 8) seen += decoder.isOversized ? 'o' : decoder.isMalformed ? 'm' : 'g'
  }
  return seen
}

/** RFC 9113 section 8.2.1 and RFC 9110 section 5.5. */
function isMalformed(fields: readonly string[]): boolean {
  return fields.some((text, i) =>
    i % 2 === 0
      ? !/^:?[!#$%&'*+\-.^_`|~0-9a-z]+$/.test(text)
      : // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
        /[\x00-\x08\x0a-\x1f\x7f]|^[ \t]|[ \t]$/.test(text),
  )
}

/** Lines: `name=value` is a field, an empty line ends a block, `~n` sets the limit of the table. */
function runEncoder(input: Uint8Array): string {
  const encoder = new HpackEncoder()
  const decoder = new HpackDecoder()
  const plain = new PlainDecoder()
  const seen = new Set<string>()
  let fields: string[] = []
  for (const line of [...Buffer.from(input).toString('latin1').split('\n'), '']) {
    const middle = line.indexOf('=')
    if (line.startsWith('~')) {
      encoder.setTableLimit(Number.parseInt(line.slice(1), 10) || 0)
      seen.add('~')
    } else if (line !== '') {
      // The encoder's callers write names in lower case.
      fields.push((middle < 0 ? line : line.slice(0, middle)).toLowerCase(), middle < 0 ? '' : line.slice(middle + 1))
    } else {
      const length = encoder.encode(fields)
      const block = encoder.block.slice(0, length)
      assert.deepEqual(decoder.decode(block, 0, length, 1 << 24), fields)
      assert.deepEqual(plain.decode(block)?.fields, fields)
      seen.add(fields.length === 0 ? 'empty' : length < fields.length ? 'indexed' : 'literal')
      fields = []
    }
  }
  return `encoder ${[...seen].sort().join()}`
}

function block(hex: string): Uint8Array {
  const bytes = Buffer.from(hex.replaceAll(' ', ''), 'hex')
  return concat(new Uint8Array([bytes.length >>> 8, bytes.length]), bytes)
}

function decoderSeed(...hex: string[]): Uint8Array {
  return concat(new Uint8Array([0x40]), ...hex.map(block))
}

export const target: Target = {
  sources: ['src/http/h2/hpack-', 'src/http/h2/huffman.ts'],
  bytesMax: 20_000,
  testIterations: 8_000,
  tokens: [
    ...[
      '82',
      '80',
      'be',
      'bf',
      'ff00',
      'ff8001',
      '7f',
      '3f',
      '20',
      '3fe11f',
      '3fe21f',
      '400161 0162',
      '0f',
      '10',
      '8118',
    ].map((hex) => new Uint8Array(Buffer.from(hex.replaceAll(' ', ''), 'hex'))),
    ...['00018141ff', '4001410178', '8cf1e3c2e5f23a6ba0ab90f4ff', '84ffffffff', '000a41', '83640eff'].map(
      (hex) => new Uint8Array(Buffer.from(hex, 'hex')),
    ),
    ...['\n', '\n\n', '~0\n', '~100\n', '~4096\n', 'a=b\n', ':path=/\n', 'cookie=x\n', 'baggage=y\n', '='].map(bytesOf),
  ],
  seeds: () => [
    decoderSeed(
      '8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff',
      '8286 84be 5886 a8eb 1064 9cbf',
      '8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf',
    ),
    decoderSeed(
      '3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff',
      '4883 640e ffc1 c0',
    ),
    decoderSeed(
      '400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572',
      'be 20 be',
      '3f45 0004 6162 6364 0178',
    ),
    decoderSeed('4001 4101 78', '0f2f 0179', 'bebebebe'),
    bytesOf(
      `A${':method=GET\n:path=/a\nbaggage=x\ncookie=secret\n\n:method=GET\nbaggage=x\n\n~100\nbaggage=x\n\n~4096\nx=y\n'}`,
    ),
    // Names that come once and again after they were evicted.
    bytesOf(`A${Array.from({ length: 60 }, (_, i) => `x-${i % 30}=${'v'.repeat(300)}\n\n`).join('')}`),
    bytesOf(
      `A${Array.from({ length: 80 }, (_, i) => `x-${i % 7}=${'v'.repeat((i * 37) % 300)}${i % 11}\n\n`).join('')}`,
    ),
  ],
  run: (input) =>
    ((input[0] ?? 0) & IS_ENCODER) === 0 ? runDecoder(input.subarray(1)) : runEncoder(input.subarray(1)),
  mutate: null,
}
