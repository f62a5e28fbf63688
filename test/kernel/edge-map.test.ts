import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EdgeMap, EdgeTotals, ROUND_TRIP_BOUNDS_SECONDS } from '../../src/kernel/edge-map.ts'
import { decodeEvent, eventCount } from '../../src/kernel/event-ring.ts'
import { EDGE, EDGE_KEY, EVENT, OUTCOME_DENIED, ROUND_TRIP_BUCKETS } from '../../src/kernel/layout.generated.ts'
import { encodeAddress, IS_LITTLE_ENDIAN } from '../../src/kernel/maps.ts'
import { MemoryMap } from '../support/memory-map.ts'

test('totals come back as they were written, each field in its own place', () => {
  const edges = new EdgeMap(new MemoryMap(EDGE_KEY.bytes, EDGE.bytes))
  const written = new EdgeTotals()
  let next = 2 ** 40
  written.attempted = ++next
  written.opened = ++next
  for (let i = 0; i < written.ended.length; i++) written.ended[i] = ++next
  written.sent = ++next
  written.received = ++next
  written.roundTripUs = ++next
  for (let i = 0; i < written.roundTrips.length; i++) written.roundTrips[i] = ++next
  edges.write({ source: 1, destination: 2, service: 3 }, written)
  edges.write({ source: 3, destination: 2, service: 1 }, new EdgeTotals())
  assert.deepEqual(edges.read(1, 2, 3), written)
  assert.deepEqual(edges.read(3, 2, 1), new EdgeTotals())
  assert.equal(edges.read(2, 1, 3), null)
  assert.deepEqual(edges.all(), [
    { ids: { source: 1, destination: 2, service: 3 }, totals: written },
    { ids: { source: 3, destination: 2, service: 1 }, totals: new EdgeTotals() },
  ])
  assert.equal(edges.delete({ source: 1, destination: 2, service: 3 }), true)
  assert.equal(edges.all().length, 1)
})

test('there is a bucket for every bound, and one for what is longer', () => {
  assert.equal(ROUND_TRIP_BOUNDS_SECONDS.length, ROUND_TRIP_BUCKETS - 1)
  assert.equal(ROUND_TRIP_BOUNDS_SECONDS[0], 0.000016)
})

test('events are told apart and decoded, IPv4 as IPv4', () => {
  const records = new Uint8Array(2 * EVENT.bytes)
  const view = new DataView(records.buffer, EVENT.bytes)
  records.set(encodeAddress('10.0.0.1'), EVENT.bytes + EVENT.flow)
  records.set(encodeAddress('fd77::2'), EVENT.bytes + EVENT.original)
  view.setUint32(EVENT.outcome, OUTCOME_DENIED, IS_LITTLE_ENDIAN)
  view.setUint32(EVENT.policy, 9, IS_LITTLE_ENDIAN)
  view.setBigUint64(EVENT.ended_ns, 2n ** 50n + 1n, IS_LITTLE_ENDIAN)
  assert.equal(eventCount(records), 2)
  const event = decodeEvent(records, 1)
  assert.equal(event.source.address, '10.0.0.1')
  assert.equal(event.original.address, 'fd77::2')
  assert.deepEqual([event.outcome, event.policy, event.endedNs], [OUTCOME_DENIED, 9, 2 ** 50 + 1])
  assert.equal(decodeEvent(records, 0).outcome, 0)
})
