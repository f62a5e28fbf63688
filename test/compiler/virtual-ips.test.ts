import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { cidrContains, parseAddress, parseCidr } from '../../src/base/address.ts'
import { blockProblem, DEFAULT_VIRTUAL_IP_BLOCKS, VirtualIpAllocator } from '../../src/compiler/virtual-ips.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const SMALL = { ipv4: '198.19.240.0/24', ipv6: 'fd00:240::/48' }

function allocateAll(keys: readonly string[], blocks = SMALL, taken: readonly string[] = []): Map<string, string[]> {
  const allocator = new VirtualIpAllocator(blocks, taken)
  return new Map(keys.map((key) => [key, allocator.allocate(key)]))
}

describe('virtual IPs', () => {
  test('are the same in every run and version', () => {
    // Addresses that apps have cached: a change of the hash would move them all.
    const allocator = new VirtualIpAllocator(DEFAULT_VIRTUAL_IP_BLOCKS, [])
    assert.deepEqual(allocator.allocate('shop/api.example.com'), ['240.240.22.61', '2001:2::6130:6941:19f6:e24e'])
    assert.deepEqual(allocator.allocate('shop/db.example.com'), ['240.240.177.159', '2001:2::653f:3c9f:dc5f:f8dc'])
  })

  test('lie in their blocks, are never the first or last of a network, and are never given twice', () => {
    const random = new SeededRandom(53)
    for (let round = 0; round < 60; round++) {
      const prefix = random.integer(20, 28)
      const blocks = { ipv4: `198.19.255.255/${prefix}`, ipv6: `fd00:240:ffff:ffff::/${random.integer(40, 64)}` }
      const [ipv4, ipv6] = [parseCidr(blocks.ipv4)!, parseCidr(blocks.ipv6)!]
      const size = 2 ** (32 - prefix) - 2
      const keys = Array.from({ length: random.integer(1, Math.min(size, 300)) }, (_, i) => `ns/h${i}-${random.next()}`)
      const taken = allocateAll(keys.slice(0, 5), blocks)
      const reserved = [...taken.values()].flat()
      const others = keys.slice(5).slice(0, Math.max(0, size - 5))
      const seen = new Set(reserved)
      for (const [key, addresses] of allocateAll(others, blocks, reserved)) {
        assert.equal(addresses.length, 2, key)
        const [first, second] = addresses.map((address) => parseAddress(address)!)
        assert.ok(cidrContains(ipv4, first!) && cidrContains(ipv6, second!), addresses.join())
        const host = ((first![2]! << 8) | first![3]!) & (2 ** (32 - prefix) - 1)
        assert.ok(host > 0 && host < size + 1, addresses[0])
        for (const address of addresses) {
          assert.ok(!seen.has(address), `${address} is given twice`)
          seen.add(address)
        }
      }
    }
  })

  test('an owner keeps its address whatever younger ones come or go', () => {
    const random = new SeededRandom(54)
    for (let round = 0; round < 40; round++) {
      const keys = Array.from({ length: 150 }, (_, i) => `ns/h${i}-${random.next()}`)
      const all = allocateAll(keys)
      const older = random.integer(0, keys.length)
      const fewer = allocateAll(keys.filter((_, i) => i < older || random.boolean()))
      for (const key of keys.slice(0, older)) assert.deepEqual(fewer.get(key), all.get(key))
    }
  })

  test('hardly ever depend on older ones: in the default block a hundred hosts collide about never', () => {
    const keys = Array.from({ length: 100 }, (_, i) => `ns/host-${i}.example.com`)
    const [together, alone] = [
      allocateAll(keys, DEFAULT_VIRTUAL_IP_BLOCKS),
      new Map(keys.map((key) => [key, allocateAll([key], DEFAULT_VIRTUAL_IP_BLOCKS).get(key)])),
    ]
    const moved = keys.filter((key) => together.get(key)!.join() !== alone.get(key)!.join())
    assert.ok(moved.length <= 1, moved.join())
  })

  test('are of both families or none: a full block gives no half', () => {
    const blocks = { ...SMALL, ipv4: '198.19.240.0/28' }
    const all = [
      ...allocateAll(
        Array.from({ length: 16 }, (_, i) => `ns/h${i}`),
        blocks,
      ).values(),
    ]
    assert.deepEqual(
      all.map(({ length }) => length),
      [...new Array<number>(14).fill(2), 0, 0],
    )
  })

  test('come from blocks that are large enough', () => {
    assert.equal(blockProblem('240.240.0.0/16', 'ipv4'), null)
    assert.equal(blockProblem('2001:2::/48', 'ipv6'), null)
    for (const [text, family] of [
      ['240.240.0.0', 'ipv4'],
      ['240.240.0.0/29', 'ipv4'],
      ['0.0.0.0/0', 'ipv4'],
      ['2001:2::/48', 'ipv4'],
      ['240.240.0.0/16', 'ipv6'],
      ['2001:2::/65', 'ipv6'],
      ['x', 'ipv6'],
    ] as const) {
      assert.notEqual(blockProblem(text, family), null, text)
    }
  })
})
