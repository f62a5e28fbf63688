import assert from 'node:assert/strict'
import { beforeEach, describe, it } from 'node:test'
import type { Addon, DescribedLink } from '../../src/kernel/addon.ts'
import {
  DNS_POD,
  DNS_POD_IPV4,
  LISTENER_KEY,
  OWN_ADDRESS_KEY,
  POD,
  POD_STRICT,
  ROLE_DNS,
  ROLE_INBOUND,
} from '../../src/kernel/layout.generated.ts'
import { encodeCookie, encodeListenerKey, encodeOwnAddressKey } from '../../src/kernel/maps.ts'
import { inspectPod } from '../../src/kernel/pod-inspection.ts'
import { planSteering } from '../../src/kernel/steering.ts'
import { MemoryMap } from '../support/memory-map.ts'

const COOKIE = 7n
const INODE = 4_026_532_000n
const ADDRESS = '10.0.0.5'

describe('the inspection of a pod', () => {
  let link: DescribedLink
  let maps: Record<'pods' | 'ownAddresses' | 'listeners' | 'dnsPods', MemoryMap>

  beforeEach(() => {
    link = { kind: 'netns', target: INODE, id: 1, program: 'weft_sk_lookup', programId: 2 }
    maps = {
      pods: new MemoryMap(8, POD.bytes),
      ownAddresses: new MemoryMap(OWN_ADDRESS_KEY.bytes, 4),
      listeners: new MemoryMap(LISTENER_KEY.bytes, 8),
      dnsPods: new MemoryMap(8, DNS_POD.bytes),
    }
    maps.pods.update(encodeCookie(COOKIE), new Uint8Array(POD.bytes))
    maps.ownAddresses.update(encodeOwnAddressKey(COOKIE, ADDRESS), new Uint8Array(4))
    for (const role of [0, 1, 2]) {
      for (const slot of [3, 4]) maps.listeners.update(encodeListenerKey(COOKIE, role, slot), new Uint8Array(8))
    }
  })

  function inspect(linkFd = 9, isStrict = false, isDnsCaptured: boolean | null = null): string[] {
    const addon = { describeLink: () => link } as unknown as Addon
    // No interface, and so no route to ask for: steering has tests of its own.
    const plan = planSteering([], [ADDRESS])
    const netns = { netnsFd: 5, netnsCookie: COOKIE, netnsInode: INODE }
    const pod = { ...netns, isStrict, plan, slots: [3, 4], linkFd, isDnsCaptured }
    return inspectPod(addon, maps, pod).map(({ piece, problem }) => `${piece}: ${problem}`)
  }

  it('finds nothing wrong with a pod that has every piece', () => {
    assert.deepEqual(inspect(), [])
  })

  it('tells a program that is attached to another netns, to none, or not at all', () => {
    const missing = ['program: connections in the pod do not reach the agent: its program is not attached']
    for (const target of [0n, INODE + 1n]) {
      link = { ...link, target }
      assert.deepEqual(inspect(), missing)
    }
    link = { ...link, kind: 'cgroup', target: INODE }
    assert.deepEqual(inspect(), missing)
    assert.deepEqual(inspect(-1), missing)
  })

  it('tells which listener of which data worker is missing', () => {
    maps.listeners.delete(encodeListenerKey(COOKIE, ROLE_INBOUND, 4))
    assert.deepEqual(inspect(), ['listener: nobody listens for inbound connections (data worker 4)'])
    maps.listeners.delete(encodeListenerKey(COOKIE, ROLE_INBOUND, 3))
    assert.deepEqual(inspect(), ['listener: nobody listens for inbound connections (data worker 3, 4)'])
  })

  it('tells DNS that is not captured and should be, and, where it is, sockets that are missing', () => {
    assert.deepEqual(inspect(9, false, false), [])
    assert.deepEqual(inspect(9, false, true), ['dns: questions of the pod to its resolvers are not captured'])
    const captured = new Uint8Array(DNS_POD.bytes).fill(DNS_POD_IPV4)
    maps.dnsPods.update(encodeCookie(COOKIE), captured)
    const missing = ['listener: nobody listens for questions to resolvers (data worker 3, 4)']
    assert.deepEqual(inspect(9, false, true), missing)
    assert.deepEqual(inspect(), missing)
    for (const slot of [3, 4]) maps.listeners.update(encodeListenerKey(COOKIE, ROLE_DNS, slot), new Uint8Array(8))
    assert.deepEqual(inspect(9, false, true), [])
  })

  it('tells a failure mode that is not the one that is wanted', () => {
    assert.deepEqual(inspect(9, true), ['entry: it fails open while no agent serves, and should fail closed'])
    const strict = new Uint8Array(POD.bytes)
    strict[POD.flags] = POD_STRICT
    strict[POD.flags + 3] = POD_STRICT
    maps.pods.update(encodeCookie(COOKIE), strict)
    assert.deepEqual(inspect(9, true), [])
    assert.deepEqual(inspect(), ['entry: it fails closed while no agent serves, and should fail open'])
  })

  it('tells an entry and an address that are missing', () => {
    maps.pods.delete(encodeCookie(COOKIE))
    maps.ownAddresses.delete(encodeOwnAddressKey(COOKIE, ADDRESS))
    assert.deepEqual(inspect(), [
      'entry: no connection of the pod is captured',
      'address: connections of the pod to its own address 10.0.0.5 are captured',
    ])
  })
})
