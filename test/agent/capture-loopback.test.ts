import assert from 'node:assert/strict'
import test from 'node:test'
import { type PodToCapture, ROLE_HBONE, ROLE_INBOUND, ROLE_OUTBOUND } from '../../src/agent/capture.ts'
import { LoopbackCapture } from '../../src/agent/capture-loopback.ts'
import { FAILURE_BY_POLICY } from '../../src/model/workload.ts'

function podOf(fields: Partial<PodToCapture> & { netns?: string } = {}): PodToCapture {
  const { netns = 'loopback:127.40.1.2', ...rest } = fields
  return {
    pod: { uid: 'u', netns, scope: 'shop', failureMode: FAILURE_BY_POLICY },
    displayName: 'shop/a',
    addresses: ['127.30.1.2'],
    serviceAddresses: [
      { address: '127.20.1.5', port: 80 },
      { address: '127.20.2.5', port: 80 },
      { address: '198.19.0.1', port: 80 },
    ],
    inboundPorts: [9080],
    ...rest,
  }
}

test("a pod listens at its own address, and at the services' that are of this node's block", async () => {
  const capture = new LoopbackCapture('127.20.1.0/24')
  const { listeners, dialing } = await capture.enrol(podOf())
  assert.deepEqual(listeners, [
    { role: ROLE_HBONE, fds: null, address: '127.30.1.2', port: 15_008 },
    { role: ROLE_INBOUND, fds: null, address: '127.30.1.2', port: 9080 },
    { role: ROLE_OUTBOUND, fds: null, address: '127.20.1.5', port: 80 },
  ])
  assert.deepEqual(dialing, {
    netnsFd: -1,
    exemptMapFd: -1,
    netnsCookie: 0n,
    localAddress: '127.30.1.2',
    appAddress: '127.40.1.2',
  })
})

test('without a block every loopback address of a service is listened on, and no other', async () => {
  const { listeners } = await new LoopbackCapture(null).enrol(podOf())
  const outbound = listeners.filter(({ role }) => role === ROLE_OUTBOUND).map(({ address }) => address)
  assert.deepEqual(outbound, ['127.20.1.5', '127.20.2.5'])
})

test('enrolled pods are counted', async () => {
  const capture = new LoopbackCapture(null)
  await capture.enrol(podOf())
  assert.equal(capture.stats().enrolledPods, 1)
  await capture.withdraw('unknown')
  assert.equal(capture.stats().enrolledPods, 1)
  await capture.withdraw('u')
  assert.equal(capture.stats().enrolledPods, 0)
})

for (const [what, pod, pattern] of [
  ['a netns', podOf({ netns: '/var/run/netns/a' }), /shop\/a.*loopback:<127/],
  ['an app elsewhere', podOf({ netns: 'loopback:10.0.0.1' }), /not "loopback:10\.0\.0\.1"/],
  ['a name for an app', podOf({ netns: 'loopback:localhost' }), /not "loopback:localhost"/],
  ['an address of the real world', podOf({ addresses: ['198.18.1.2'] }), /shop\/a has no loopback address/],
  ['no address', podOf({ addresses: [] }), /no loopback address/],
] as const) {
  test(`a pod with ${what} is an error that names it`, async () => {
    await assert.rejects(new LoopbackCapture(null).enrol(pod), { code: 'WEFT_CONFIG', message: pattern })
  })
}
