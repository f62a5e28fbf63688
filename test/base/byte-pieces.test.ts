import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BytePieces } from '../../src/base/byte-pieces.ts'
import { SeededRandom } from '../support/seeded-random.ts'

test('a single piece is kept as it is, and does not change with the bytes that were lent', () => {
  const pieces = new BytePieces()
  const lent = Buffer.from('xhellox')
  pieces.add(lent, 1, 6)
  lent.fill(0)
  assert.deepEqual(pieces.all().map(String), [String(new Uint8Array(Buffer.from('hello')))])
})

test('single bytes do not become single objects', () => {
  const pieces = new BytePieces()
  for (let i = 0; i < 65_536; i++) pieces.add(new Uint8Array([i & 255]), 0, 1)
  assert.ok(pieces.all().length <= 18, `${pieces.all().length} pieces`)
  assert.equal(Buffer.concat(pieces.all()).length, 65_536)
})

test('whatever the sizes, all bytes are there in order, also when they are read in between', () => {
  const random = new SeededRandom(3)
  for (let round = 0; round < 200; round++) {
    const pieces = new BytePieces()
    let expected = Buffer.alloc(0)
    for (let i = random.integer(1, 20); i > 0; i--) {
      const piece = Buffer.from(
        Array.from({ length: random.pick([0, 1, 7, 900, 1023, 1024, 5000]) }, () => random.integer(0, 255)),
      )
      pieces.add(piece, 0, piece.length)
      expected = Buffer.concat([expected, piece])
      if (random.integer(0, 3) === 0) assert.deepEqual(Buffer.concat(pieces.all()), expected)
    }
    assert.deepEqual(Buffer.concat(pieces.all()), expected)
  }
})
