/** HPACK: the examples of RFC 7541 appendix C, malformed blocks, the limits, and both sides against each other. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { HpackDecoder } from '../../../src/http/h2/hpack-decoder.ts'
import { HpackEncoder } from '../../../src/http/h2/hpack-encoder.ts'
import { SeededRandom } from '../../support/seeded-random.ts'

const LIST_BYTES_MAX = 16_384

function bytesOf(hex: string): Buffer {
  return Buffer.from(hex.replaceAll(' ', ''), 'hex')
}

function decode(decoder: HpackDecoder, hex: string, listBytesMax = LIST_BYTES_MAX): string[] | null {
  const bytes = bytesOf(hex)
  return decoder.decode(bytes, 0, bytes.length, listBytesMax)
}

function encode(encoder: HpackEncoder, fields: readonly string[]): Buffer {
  const length = encoder.encode(fields)
  return Buffer.from(encoder.block.subarray(0, length))
}

const FIRST_REQUEST = [':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'www.example.com']
const SECOND_REQUEST = [...FIRST_REQUEST, 'cache-control', 'no-cache']
const THIRD_REQUEST = [
  ...[':method', 'GET', ':scheme', 'https', ':path', '/index.html', ':authority', 'www.example.com'],
  ...['custom-key', 'custom-value'],
]
const DATE = 'Mon, 21 Oct 2013 20:13:21 GMT'
const FIRST_RESPONSE = [
  ...[':status', '302', 'cache-control', 'private', 'date', DATE],
  ...['location', 'https://www.example.com'],
]
const SECOND_RESPONSE = [
  ...[':status', '307', 'cache-control', 'private', 'date', DATE],
  ...['location', 'https://www.example.com'],
]
const THIRD_RESPONSE = [
  ...[':status', '200', 'cache-control', 'private', 'date', 'Mon, 21 Oct 2013 20:13:22 GMT'],
  ...['location', 'https://www.example.com', 'content-encoding', 'gzip'],
  ...['set-cookie', 'foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1'],
]
/** Size update to 256, which the examples of C.5 and C.6 presuppose. */
const TABLE_256 = '3fe101'

/** Blocks of one connection, in order, with their lists. */
const EXAMPLES: readonly (readonly [string, readonly (readonly [string, readonly string[]])[]])[] = [
  ['C.2.1', [['400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572', ['custom-key', 'custom-header']]]],
  ['C.2.2', [['040c 2f73 616d 706c 652f 7061 7468', [':path', '/sample/path']]]],
  ['C.2.3', [['1008 7061 7373 776f 7264 0673 6563 7265 74', ['password', 'secret']]]],
  ['C.2.4', [['82', [':method', 'GET']]]],
  [
    'C.3 requests, plain',
    [
      ['8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d', FIRST_REQUEST],
      ['8286 84be 5808 6e6f 2d63 6163 6865', SECOND_REQUEST],
      ['8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65', THIRD_REQUEST],
    ],
  ],
  [
    'C.4 requests, Huffman',
    [
      ['8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff', FIRST_REQUEST],
      ['8286 84be 5886 a8eb 1064 9cbf', SECOND_REQUEST],
      ['8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf', THIRD_REQUEST],
    ],
  ],
  [
    'C.5 responses, plain, evicting',
    [
      [
        `${TABLE_256} 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133
         3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d`.replaceAll('\n', ' '),
        FIRST_RESPONSE,
      ],
      ['4803 3330 37c1 c0bf', SECOND_RESPONSE],
      [
        `88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738
         666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33
         3630 303b 2076 6572 7369 6f6e 3d31`.replaceAll('\n', ' '),
        THIRD_RESPONSE,
      ],
    ],
  ],
  [
    'C.6 responses, Huffman, evicting',
    [
      [
        `${TABLE_256} 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d
         29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3`.replaceAll('\n', ' '),
        FIRST_RESPONSE,
      ],
      ['4883 640e ffc1 c0bf', SECOND_RESPONSE],
      [
        `88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335
         dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07`.replaceAll('\n', ' '),
        THIRD_RESPONSE,
      ],
    ],
  ],
]

describe('the HPACK decoder', () => {
  for (const [name, blocks] of EXAMPLES) {
    test(`reads the example ${name} of RFC 7541`, () => {
      const decoder = new HpackDecoder()
      for (const [hex, expected] of blocks) {
        assert.deepEqual(decode(decoder, hex), expected)
        assert.equal(decoder.isMalformed, false)
        assert.equal(decoder.isOversized, false)
      }
    })
  }

  const BAD: readonly (readonly [string, string])[] = [
    ['index 0', '80'],
    ['an index beyond the static table with an empty dynamic one', 'be'],
    ['an index beyond both tables', 'ff00'],
    ['a name index beyond both tables', '7f0001 61'],
    ['an integer that does not end', 'ffffffff'],
    ['an integer of too many bytes', 'ffffffffffffff7f'],
    ['a string longer than the block', '000561'],
    ['a literal without a value', '000161'],
    ['a literal with nothing behind it', '40'],
    ['a size update after a field', '823f00'],
    ['a size update above the limit', '3fe21f'],
    ['three size updates', '20202082'],
    ['Huffman with padding of zeros', '0001 61 8118'],
    ['Huffman with eight bits of padding', '0001 61 821fff'],
    ['Huffman with the end-of-string symbol', '0001 61 84ffffffff'],
  ]
  for (const [name, hex] of BAD) {
    test(`refuses ${name}`, () => assert.equal(decode(new HpackDecoder(), hex), null))
  }

  const MALFORMED: readonly (readonly [string, readonly string[]])[] = [
    ['an upper-case name', ['Accept', 'x']],
    ['an empty name', ['', 'x']],
    ['a space in a name', ['a b', 'x']],
    ['a colon inside a name', ['a:b', 'x']],
    ['a name that is only a colon', [':', 'x']],
    ['a line feed in a value', ['a', 'x\ny']],
    ['a carriage return in a value', ['a', 'x\ry']],
    ['NUL in a value', ['a', 'x\0y']],
    ['DEL in a value', ['a', 'x\x7fy']],
    ['a space before a value', ['a', ' x']],
    ['a tab after a value', ['a', 'x\t']],
  ]
  for (const [name, fields] of MALFORMED) {
    test(`marks ${name}, also when it comes from the table later, and stays in step`, () => {
      const decoder = new HpackDecoder()
      const encoder = new HpackEncoder()
      for (let i = 0; i < 2; i++) {
        const block = encode(encoder, ['good', 'value', ...fields])
        assert.deepEqual(decoder.decode(block, 0, block.length, LIST_BYTES_MAX), ['good', 'value', ...fields])
        assert.equal(decoder.isMalformed, true)
      }
      assert.deepEqual(decode(decoder, '82'), [':method', 'GET'])
      assert.equal(decoder.isMalformed, false)
    })
  }

  test('takes a name from the table as malformed when it was, with a good value too', () => {
    const decoder = new HpackDecoder()
    // "A: x" indexed, then name 62 with value "y" not indexed.
    assert.ok(decode(decoder, '40 0141 0178') !== null)
    assert.deepEqual(decode(decoder, '0f2f 0179'), ['A', 'y'])
    assert.equal(decoder.isMalformed, true)
  })

  test('drops what is beyond the list limit but stays in step with the encoder', () => {
    const decoder = new HpackDecoder()
    const encoder = new HpackEncoder()
    const fields = ['a', 'x'.repeat(100), 'b', 'y'.repeat(100), 'c', 'z']
    const block = encode(encoder, fields)
    assert.deepEqual(decoder.decode(block, 0, block.length, 200), ['a', 'x'.repeat(100), 'c', 'z'].slice(0, 2))
    assert.equal(decoder.isOversized, true)
    const again = encode(encoder, fields)
    assert.ok(again.length < 10, 'everything is indexed by now')
    assert.deepEqual(decoder.decode(again, 0, again.length, LIST_BYTES_MAX), fields)
    assert.equal(decoder.isOversized, false)
  })

  test('a bomb of references costs a list of the allowed size only', () => {
    const decoder = new HpackDecoder()
    const big = encode(new HpackEncoder(), ['bomb', 'x'.repeat(2000)])
    assert.ok(decoder.decode(big, 0, big.length, LIST_BYTES_MAX) !== null)
    const bomb = Buffer.alloc(60_000, 0xbe)
    const fields = decoder.decode(bomb, 0, bomb.length, LIST_BYTES_MAX)
    assert.equal(decoder.isOversized, true)
    assert.equal(fields?.length, 2 * Math.floor(LIST_BYTES_MAX / 2036))
  })

  test('an entry larger than the table empties it', () => {
    const decoder = new HpackDecoder()
    assert.ok(decode(decoder, `40 0161 0162`) !== null)
    assert.deepEqual(decode(decoder, 'be'), ['a', 'b'])
    const block = Buffer.concat([bytesOf('40 0163 7fa11f'), Buffer.alloc(4128, 0x78)])
    assert.ok(decoder.decode(block, 0, block.length, LIST_BYTES_MAX) !== null)
    assert.equal(decode(decoder, 'be'), null)
  })

  test('any prefix of a block, and any garbage, is read or refused without harm', () => {
    const random = new SeededRandom(7541)
    for (let round = 0; round < 3000; round++) {
      const decoder = new HpackDecoder()
      const bytes = Buffer.from(Array.from({ length: random.integer(0, 60) }, () => random.integer(0, 255)))
      const fields = decoder.decode(bytes, 0, bytes.length, 1000)
      assert.ok(fields === null || fields.length % 2 === 0)
    }
  })
})

describe('the HPACK encoder', () => {
  test('what it writes is read back, over many blocks with evictions and changes of the table size', () => {
    const random = new SeededRandom(1)
    const names = [
      'accept',
      'baggage',
      ':path',
      'cookie',
      'x-one',
      'x-two',
      'x-three',
      'content-length',
      'authorization',
    ]
    const encoder = new HpackEncoder()
    const decoder = new HpackDecoder()
    for (let round = 0; round < 2000; round++) {
      if (random.next() < 0.05) encoder.setTableLimit(random.pick([0, 100, 1000, 4096, 65_536]))
      const fields: string[] = []
      for (let i = random.integer(0, 8); i > 0; i--) {
        fields.push(random.pick(names), random.pick(['a', 'bb', '\xe4\xff', 'x'.repeat(random.integer(0, 1500))]))
      }
      const block = encode(encoder, fields)
      assert.deepEqual(decoder.decode(block, 0, block.length, 1_000_000), fields)
    }
  })

  test('repeats what it has sent before by index', () => {
    const encoder = new HpackEncoder()
    const fields = [':method', 'CONNECT', ':authority', '198.18.1.2:8080', 'baggage', 'k8s.namespace.name=shop']
    assert.ok(encode(encoder, fields).length > 40)
    assert.equal(encode(encoder, fields).length, 3)
  })

  test('never lets secrets be indexed, and keeps what changes every time out of the table', () => {
    const encoder = new HpackEncoder()
    assert.equal(encode(encoder, ['authorization', 'secret'])[0]! & 0xf0, 0x10)
    assert.equal(encode(encoder, ['traceparent', '00-1'])[0], 0x00)
    assert.equal(encode(encoder, ['traceparent', '00-1'])[0], 0x00)
  })

  test('announces the smallest and the last limit that the peer has set since the last block', () => {
    const encoder = new HpackEncoder()
    encoder.setTableLimit(0)
    encoder.setTableLimit(100)
    assert.equal(encode(encoder, [':method', 'GET']).toString('hex'), '203f4582')
    assert.equal(encode(encoder, [':method', 'GET']).toString('hex'), '82')
  })

  test('evicted entries are not referred to', () => {
    const encoder = new HpackEncoder()
    const decoder = new HpackDecoder()
    for (let i = 0; i < 500; i++) {
      const fields = [`x-${i % 3}`, `value ${i % 170} ${'y'.repeat(60)}`]
      const block = encode(encoder, fields)
      assert.deepEqual(decoder.decode(block, 0, block.length, LIST_BYTES_MAX), fields)
    }
  })
})
