import assert from 'node:assert/strict'
import { endianness } from 'node:os'
import { test } from 'node:test'
import { ROLE_HBONE, ROLE_INBOUND, ROLE_OUTBOUND } from '../../src/agent/capture.ts'
import { loadAddon, NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'
import * as layout from '../../src/kernel/layout.generated.ts'
import {
  encodeAddress,
  encodeCookie,
  encodeListenerKey,
  encodeOwnAddressKey,
  encodePod,
  encodeWorkerSet,
  HeartbeatMap,
  ListenerMap,
  OwnAddressMap,
  PodMap,
  ServingWorkersMap,
  StatsMap,
} from '../../src/kernel/maps.ts'
import { MemoryMap } from '../support/memory-map.ts'
import { needsNativeBuild } from '../support/native-build.ts'

/** Expected bytes below are little-endian. */
const littleEndian = { skip: endianness() === 'LE' ? false : 'expected bytes are little-endian' }

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}

test('keys and values have the bytes that the programs read', littleEndian, () => {
  const cookie = 0x1122334455667788n
  assert.equal(hex(encodeCookie(cookie)), '8877665544332211')
  assert.equal(hex(encodeAddress('10.1.2.3')), '00000000000000000000ffff0a010203')
  assert.equal(hex(encodeAddress('fd77::1')), 'fd770000000000000000000000000001')
  assert.equal(hex(encodeOwnAddressKey(cookie, '10.1.2.3')), '887766554433221100000000000000000000ffff0a010203')
  assert.equal(hex(encodeListenerKey(cookie, ROLE_HBONE, 5)), '88776655443322110200000005000000')
  assert.match(hex(encodeWorkerSet([3, 64])), /^020000000300000040000000(00)+$/)
  assert.equal(encodeWorkerSet([]).length, layout.WORKER_SET.bytes)
  const pod = {
    isStrict: true,
    isUnserved: true,
    isSteeringIpv4: true,
    isSteeringIpv6: false,
    interfaces: [2, 7],
    id: 5,
    scope: 9,
  }
  assert.equal(hex(encodePod(pod)), '0b000000050000000900000002000000070000000000000000000000')
  const other = {
    isStrict: false,
    isUnserved: false,
    isSteeringIpv4: false,
    isSteeringIpv6: true,
    interfaces: [1, 2, 3, 4, 5, 6],
    id: 1,
    scope: 1,
  }
  assert.equal(hex(encodePod(other)), '04000000010000000100000001000000020000000300000004000000')
})

test('an address that is none is a bug of the caller', () => {
  assert.throws(() => encodeAddress('app.example'), /assertion failed/)
})

test('pods, own addresses and listeners can be inserted and deleted, each under its own key', () => {
  const pods = new MemoryMap(8, layout.POD.bytes)
  const podMap = new PodMap(pods)
  podMap.insert(1n, {
    isStrict: false,
    isUnserved: false,
    isSteeringIpv4: true,
    isSteeringIpv6: true,
    interfaces: [],
    id: 1,
    scope: 1,
  })
  podMap.insert(2n, {
    isStrict: false,
    isUnserved: false,
    isSteeringIpv4: true,
    isSteeringIpv6: true,
    interfaces: [],
    id: 1,
    scope: 1,
  })
  assert.equal(podMap.delete(1n), true)
  assert.equal(podMap.delete(1n), false)
  assert.deepEqual([...pods.entries.keys()], [hex(encodeCookie(2n))])

  const addresses = new MemoryMap(layout.OWN_ADDRESS_KEY.bytes, 4)
  const addressMap = new OwnAddressMap(addresses)
  addressMap.insert(1n, '10.0.0.1')
  addressMap.insert(2n, '10.0.0.1')
  assert.equal(addresses.entries.size, 2)
  assert.equal(addressMap.delete(1n, '10.0.0.1'), true)
  assert.equal(addressMap.delete(1n, '10.0.0.2'), false)

  const listeners = new MemoryMap(layout.LISTENER_KEY.bytes, 8)
  const listenerMap = new ListenerMap(listeners)
  for (const role of [ROLE_OUTBOUND, ROLE_INBOUND, ROLE_HBONE]) listenerMap.insert(1n, role, 0, 40 + role)
  listenerMap.insert(1n, ROLE_INBOUND, 1, 51)
  assert.equal(listeners.entries.size, 4)
  const value = listeners.lookup(encodeListenerKey(1n, ROLE_INBOUND, 0))!
  assert.equal(new DataView(value.buffer).getBigUint64(0, endianness() === 'LE'), 41n)
  assert.equal(listenerMap.delete(1n, ROLE_INBOUND, 0), true)
  assert.equal(listenerMap.delete(1n, ROLE_INBOUND, 0), false)
})

test('serving workers are one entry, and each worker beats in a slot of its own', littleEndian, () => {
  const set = new MemoryMap(4, layout.WORKER_SET.bytes)
  const serving = new ServingWorkersMap(set)
  serving.set([0, 1])
  serving.set([1])
  assert.deepEqual([...set.entries], [['00000000', encodeWorkerSet([1])]])
  const tooMany = Array.from({ length: layout.WORKERS_MAX + 1 }, (_, i) => i)
  assert.throws(() => serving.set(tooMany), /assertion failed/)

  const beats = new MemoryMap(4, 8)
  const heartbeats = new HeartbeatMap(beats)
  heartbeats.beat(2, 258n)
  assert.equal(hex(beats.lookup(new Uint8Array([2, 0, 0, 0]))!), '0201000000000000')
  heartbeats.clear(2)
  assert.equal(hex(beats.lookup(new Uint8Array([2, 0, 0, 0]))!), '0000000000000000')
  assert.throws(() => heartbeats.beat(layout.WORKER_SLOTS_MAX, 1n), /assertion failed/)
})

test('a counter is the sum over all CPUs', () => {
  const perCpu = new BigUint64Array([5n, 0n, 7n])
  const stats = new StatsMap({
    update: () => {},
    delete: () => false,
    lookup: (key) => (key[0] === layout.STAT_REFUSED ? new Uint8Array(perCpu.buffer) : null),
  })
  assert.equal(stats.read(layout.STAT_REFUSED), 12)
  assert.equal(stats.read(layout.STAT_BYPASSED), 0)
  assert.throws(() => stats.read(layout.STATS), /assertion failed/)
})

test('the roles of the capture are those of the programs', () => {
  assert.deepEqual(
    [ROLE_OUTBOUND, ROLE_INBOUND, ROLE_HBONE],
    [layout.ROLE_OUTBOUND, layout.ROLE_INBOUND, layout.ROLE_HBONE],
  )
})

test('the maps in the built objects have the sizes that are encoded here', needsNativeBuild, () => {
  const addon = loadAddon()
  const expected: Record<string, [number, number]> = {
    pods: [8, layout.POD.bytes],
    own_addresses: [layout.OWN_ADDRESS_KEY.bytes, 4],
    listeners: [layout.LISTENER_KEY.bytes, 8],
    serving_workers: [4, layout.WORKER_SET.bytes],
    heartbeats: [4, 8],
    worker_threads: [4, 4],
    exempt_sockets: [4, 4],
    steered_sockets: [4, 4],
    bound_syns: [layout.BOUND_SYN_KEY.bytes, 4],
    frontends: [layout.FRONTEND_KEY.bytes, layout.FRONTEND.bytes],
    backends: [layout.BACKEND_KEY.bytes, layout.BACKEND.bytes],
    verdicts: [layout.VERDICT_KEY.bytes, layout.VERDICT_VALUE.bytes],
    flows: [layout.FLOW_KEY.bytes, 4],
    carried_sockets: [4, layout.FLOW.bytes],
    probed: [layout.PROBED_KEY.bytes, 4],
    probing_sockets: [4, layout.PROBE.bytes],
    edges: [layout.EDGE_KEY.bytes, layout.EDGE.bytes],
    edges_accounted: [layout.EDGE_KEY.bytes, layout.EDGE.bytes],
    events: [0, 0],
    stats: [4, 8],
    layout: [4, layout.LAYOUT_STAMP.bytes],
  }
  // Of those that meet connections which nobody serves.
  const unserved: Record<string, [number, number]> = {
    unserved: [8, layout.UNSERVED.bytes],
    absences: [4, layout.ABSENCE_JOURNAL.bytes],
  }
  // Of those that meet questions to DNS resolvers.
  const dns: Record<string, [number, number]> = {
    dns_pods: [8, layout.DNS_POD.bytes],
    resolvers: [layout.RESOLVER_KEY.bytes, 4],
    resolver_addresses: [layout.RESOLVER_INDEX_KEY.bytes, layout.ADDRESS.bytes],
    dns_stats: [4, 8],
  }
  // Of the meter of UDP, which knows no others.
  const udp: Record<string, [number, number]> = {
    udp_edges: [layout.UDP_EDGE_KEY.bytes, layout.UDP_EDGE.bytes],
    udp_accounted: [layout.UDP_EDGE_KEY.bytes, layout.UDP_EDGE.bytes],
    udp_unmetered: [4, layout.UDP_EDGE.bytes],
  }
  const more: Record<string, Record<string, [number, number]>> = {
    connect: { ...unserved, ...dns, ...udp },
    sk_lookup: { ...unserved, ...dns },
    sockops: {},
    dns,
  }
  // Constants are of each loaded instance.
  const sharedMaps = (object: string): Readonly<Record<string, readonly number[]>> => {
    const { maps } = addon.describeObject(`${NATIVE_BUILD_DIRECTORY}${object}.bpf.o`)
    const shared = maps.filter(({ name }) => !name.includes('.rodata'))
    return Object.fromEntries(shared.map((map) => [map.name, [map.keyBytes, map.valueBytes]]))
  }
  for (const object of ['connect', 'sk_lookup', 'sockops', 'dns']) {
    assert.deepEqual(sharedMaps(object), { ...expected, ...more[object] }, object)
  }
  assert.deepEqual(sharedMaps('meter'), udp)
  const { programs } = addon.describeObject(`${NATIVE_BUILD_DIRECTORY}connect.bpf.o`)
  assert.deepEqual(programs.map(({ section }) => section).sort(), [
    'cgroup/connect4',
    'cgroup/connect6',
    'cgroup/getpeername4',
    'cgroup/getpeername6',
  ])
})
