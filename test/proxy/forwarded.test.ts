import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseForwardedHost, writeForwarded } from '../../src/proxy/forwarded.ts'

test('client and service are written as ztunnel writes them', () => {
  assert.equal(writeForwarded('198.18.1.2:4000', 'a.b'), 'for="198.18.1.2:4000";host=a.b')
  assert.equal(writeForwarded('[fd77:1::1]:4000', ''), 'for="[fd77:1::1]:4000"')
  assert.equal(writeForwarded('', 'a.b'), 'host=a.b')
  assert.equal(writeForwarded('', ''), '')
})

for (const [value, host] of [
  [null, ''],
  ['', ''],
  ['for="198.18.1.2:4000"', ''],
  ['for="198.18.1.2:4000";host=a.b', 'a.b'],
  ['Host="a.b" ; proto=http', 'a.b'],
  [' host = a.b ', 'a.b'],
  ['for=x, host=second', ''],
  ['host=first, host=second', 'first'],
  ['ghost=a.b', ''],
  ['host', ''],
  ['host="', ''],
] as const) {
  test(`the host of ${JSON.stringify(value)} is ${JSON.stringify(host)}`, () => {
    assert.equal(parseForwardedHost(value), host)
  })
}
