/** Names in the text form of a subject alternative name: nothing can be smuggled past the separators. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { uriNames, workloadIdentities } from '../../src/model/subject-alt-name.ts'

const A = 'spiffe://cluster.local/ns/a/sa/b'

describe('URI names', () => {
  const cases: readonly (readonly [string, readonly string[]])[] = [
    ['', []],
    [`URI:${A}`, [A]],
    [`DNS:x.org, URI:${A}, IP Address:10.0.0.1`, [A]],
    [`URI:https://x.org/, URI:${A}`, ['https://x.org/', A]],
    [`DNS:"x, URI:${A}"`, []],
    [`URI:"${A}"`, []],
    [`URI:"x\\", URI:${A}"`, []],
    [`URI:"x\\\\", URI:${A}`, [A]],
    [`othername:<unsupported>, URI:${A}`, [A]],
    [`DirName:"CN = \\"x\\", URI:${A}"`, []],
    [`DNS:x,URI:${A}`, []],
    [`uri:${A}`, []],
    ['URI:', ['']],
    [`DNS:"unterminated, URI:${A}`, []],
  ]
  for (const [text, expected] of cases) {
    test(`of ${JSON.stringify(text)} are ${JSON.stringify(expected)}`, () => {
      assert.deepEqual(uriNames(text), expected)
    })
  }
})

describe('workload identities', () => {
  test('are the URIs of five pieces in the characters that SPIFFE allows', () => {
    const text = [
      A,
      'spiffe://cluster.local/node/n1',
      'spiffe://cluster.local/ns/a/sa/b/c',
      'spiffe://cluster.local/ns/a/sa/b c',
      'https://cluster.local/ns/a/sa/b',
      'spiffe://other.org/ns/a.b/sa/C_d-e',
    ]
      .map((uri) => `URI:${uri}`)
      .join(', ')
    assert.deepEqual(workloadIdentities(text), [A, 'spiffe://other.org/ns/a.b/sa/C_d-e'])
  })
})
