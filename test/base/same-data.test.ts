import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isSameData } from '../../src/base/same-data.ts'

const SAME: readonly [unknown, unknown][] = [
  [1, 1],
  [Number.NaN, Number.NaN],
  [null, null],
  ['', ''],
  [[], []],
  [
    { a: 1, b: [{ c: null }] },
    { b: [{ c: null }], a: 1 },
  ],
  [Object.assign(Object.create(null), { a: 1 }), { a: 1 }],
]

const DIFFERENT: readonly [unknown, unknown][] = [
  [1, 2],
  [1, '1'],
  [0, false],
  [null, undefined],
  [null, {}],
  [{}, null],
  [[], {}],
  [{}, []],
  [[1], [1, 2]],
  [[1, 2], [1]],
  [{ a: 1 }, { a: 1, b: 2 }],
  [{ a: 1, b: 2 }, { a: 1 }],
  [{ a: undefined }, {}],
  [{ a: undefined }, { b: undefined }],
  [{ toString: 1 }, { a: 1 }],
  [{ a: { b: [1, { c: 2 }] } }, { a: { b: [1, { c: 3 }] } }],
  [new Map([[1, 2]]), new Map([[1, 2]])],
  [new Uint8Array([1]), new Uint8Array([1])],
  [new Date(0), new Date(0)],
]

test('equal data is the same whatever the order of its keys', () => {
  for (const [a, b] of SAME) assert.equal(isSameData(a, b) && isSameData(b, a), true, JSON.stringify([a, b]))
})

test('data that differs anywhere, and what is no plain data, is not the same', () => {
  for (const [a, b] of DIFFERENT) assert.equal(isSameData(a, b) || isSameData(b, a), false, JSON.stringify([a, b]))
  const map = new Map()
  assert.equal(isSameData({ map }, { map }), true)
})
