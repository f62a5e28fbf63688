import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ipv4Text } from '../../src/transport/ipv4-text.ts'

test('an address is its four bytes, whatever the sign of the number', () => {
  const cases: readonly (readonly [number, string])[] = [
    [0, '0.0.0.0'],
    [0x7f000001, '127.0.0.1'],
    [0xc6120001 | 0, '198.18.0.1'],
    [-1, '255.255.255.255'],
    [0x0a00ff64, '10.0.255.100'],
  ]
  for (const [address, text] of cases) assert.equal(ipv4Text(address), text)
})

test('addresses that are forgotten are made again', () => {
  for (let address = 0; address < 10_000; address++) ipv4Text(address)
  assert.equal(ipv4Text(1), '0.0.0.1')
  assert.equal(ipv4Text(9_999), '0.0.39.15')
})
