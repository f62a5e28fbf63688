/** The loopback addresses that stand for resolvers, as kernel and agent understand them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FAMILY_IPV4, FAMILY_IPV6, formatAddress } from '../../src/base/address.ts'
import { planDnsRoutes } from '../../src/kernel/dns-capture.ts'
import { DNS_BLOCK_IPV4, DNS_BLOCK_IPV6, resolverIndexOf } from '../../src/kernel/dns-maps.ts'
import { RESOLVERS_PER_POD_MAX } from '../../src/kernel/layout.generated.ts'
import { encodeAddress } from '../../src/kernel/maps.ts'

const BLOCK6 = formatAddress(DNS_BLOCK_IPV6.address)

test('the blocks are loopback, and unique local', () => {
  assert.equal(formatAddress(DNS_BLOCK_IPV4.address), '127.83.0.0')
  assert.equal(DNS_BLOCK_IPV4.length, 16)
  assert.match(BLOCK6, /^fd[0-9a-f]{2}:.*::$/)
  assert.equal(DNS_BLOCK_IPV6.length, 64)
  assert.ok(RESOLVERS_PER_POD_MAX < 1 << 16)
})

for (const [address, index] of [
  ['127.83.0.1', 1],
  ['127.83.1.2', 258],
  ['127.83.255.255', 65_535],
  ['127.83.0.0', 0],
  ['127.0.0.1', 0],
  ['127.84.0.1', 0],
  ['198.18.0.1', 0],
  [`${BLOCK6}1`, 1],
  [`${BLOCK6}102`, 258],
  [`${BLOCK6}1:1`, 0],
  ['::1', 0],
  ['fd77::1', 0],
] as const) {
  test(`${address} stands for resolver ${index} of its pod (0: for none)`, () => {
    assert.equal(resolverIndexOf(encodeAddress(address)), index)
  })
}

test('routes to the blocks follow those of steering, in the table that is looked at first', () => {
  const source = { [FAMILY_IPV4]: new Uint8Array([198, 18, 0, 1]), [FAMILY_IPV6]: new Uint8Array(16).fill(1) }
  const steering = [FAMILY_IPV4, FAMILY_IPV6].flatMap((family) =>
    [1, 2].map((interfaceIndex) => {
      const own = source[family as keyof typeof source]
      return { family, table: 151, interfaceIndex, metric: interfaceIndex, source: own } as const
    }),
  )
  const plan = {
    ownAddresses: [],
    interfaces: [2],
    isSteeringIpv4: true,
    isSteeringIpv6: true,
    routes: steering as Parameters<typeof planDnsRoutes>[0]['routes'],
    rules: [],
  }
  const routes = planDnsRoutes(plan)
  assert.deepEqual(
    routes.map(({ table, interfaceIndex, metric }) => [table, interfaceIndex, metric]),
    [1, 2, 1, 2].map((n) => [255, n, n]),
  )
  assert.deepEqual(
    routes.map(({ destination }) => destination),
    [DNS_BLOCK_IPV4, DNS_BLOCK_IPV4, DNS_BLOCK_IPV6, DNS_BLOCK_IPV6],
  )
  assert.deepEqual(
    routes.map((route) => route.source),
    steering.map((route) => route.source),
  )
})
