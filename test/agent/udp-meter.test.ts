/** UDP of pods as metrics, with the kernel's side told by the test. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { UDP_CROWDED_REST_MS, UDP_NAMELESS_MS, UDP_REST_MS, UdpMeter } from '../../src/agent/udp-meter.ts'
import { silentLog } from '../../src/base/log.ts'
import { UDP_EDGES_MAX } from '../../src/kernel/layout.generated.ts'
import type { Snapshot } from '../../src/model/snapshot.ts'
import type { Workload } from '../../src/model/workload.ts'
import { UDP_SERIES_MAX } from '../../src/telemetry/udp-traffic.ts'
import { FakeUdp } from '../support/fake-udp.ts'
import { PrometheusText } from '../support/prometheus-text.ts'
import { snapshotOf, workloadOf } from '../support/proxy-objects.ts'

const CLIENT = workloadOf('client-1', { workloadName: 'client', addresses: ['10.0.0.1', 'fd00::1'] })
const SERVER = workloadOf('server-1', { workloadName: 'server', addresses: ['10.0.0.2', 'fd00::2'] })
const [CLIENT_POD, SERVER_POD] = [1, 2]

/** An agent, as far as this goes. Several may follow one another on one kernel. */
class Reader {
  readonly kernel: FakeUdp
  readonly pods = new Map<number, Workload>()
  readonly meter: UdpMeter
  snapshot: Snapshot = snapshotOf([CLIENT, SERVER])
  nowMs = 1_000_000
  constructor(kernel = new FakeUdp()) {
    this.kernel = kernel
    const now = (): number => this.nowMs
    this.enrol(CLIENT_POD, CLIENT)
    this.enrol(SERVER_POD, SERVER)
    this.meter = new UdpMeter({
      kernel,
      names: { podOf: (id) => this.pods.get(id) ?? null },
      snapshot: () => this.snapshot,
      now,
      log: silentLog,
    })
    this.meter.start()
  }

  enrol(id: number, workload: Workload): void {
    this.pods.set(id, workload)
    this.kernel.captured.add(id)
  }

  /** Bytes and packets by source and destination, after another reading. */
  read(direction: 'sent' | 'received'): Record<string, [bytes: number, packets: number]> {
    this.meter.read()
    const text = new PrometheusText(this.meter.traffic.render())
    const pairs: Record<string, [number, number]> = {}
    for (const { labels, value } of text.find(`weft_udp_${direction}_bytes_total`)) {
      pairs[pairOf(labels)] = [value, 0]
    }
    for (const { labels, value } of text.find(`weft_udp_${direction}_packets_total`)) {
      pairs[pairOf(labels)]![1] = value
    }
    return pairs
  }

  value(family: string): number {
    return new PrometheusText(this.meter.traffic.render()).value(family)
  }
}

function pairOf(labels: Readonly<Record<string, string>>): string {
  return `${labels['source_workload']} -> ${labels['destination_workload']}`
}

test('what one pod sends to another is told by both ends', () => {
  const reader = new Reader()
  reader.kernel.pass(CLIENT_POD, true, '10.0.0.2', 100)
  reader.kernel.pass(CLIENT_POD, true, 'fd00::2', 20)
  reader.kernel.pass(SERVER_POD, false, '10.0.0.1', 100)
  assert.deepEqual(reader.read('sent'), { 'client -> server': [120, 2] })
  assert.deepEqual(reader.read('received'), { 'client -> server': [100, 1] })
  reader.kernel.pass(CLIENT_POD, true, '10.0.0.2', 5)
  assert.deepEqual(reader.read('sent'), { 'client -> server': [125, 3] })
})

test('a service is named where its virtual address was dialled, and strangers have no name', () => {
  const reader = new Reader()
  reader.kernel.pass(CLIENT_POD, true, '198.19.0.1', 10)
  reader.kernel.pass(CLIENT_POD, true, '203.0.113.7', 1)
  reader.kernel.pass(CLIENT_POD, true, '203.0.113.8', 2)
  reader.kernel.pass(SERVER_POD, false, '2001:db8::1', 4)
  reader.meter.read()
  const text = new PrometheusText(reader.meter.traffic.render())
  const sent = 'weft_udp_sent_bytes_total'
  assert.equal(text.value(sent, { destination_service_name: 'reviews', destination_workload: 'unknown' }), 10)
  assert.equal(text.value(sent, { destination_service_name: 'PassthroughCluster' }), 3, 'all strangers together')
  assert.equal(text.value('weft_udp_received_bytes_total', { source_workload: 'unknown' }), 4)
})

test('labels are those of the mesh, with nothing that UDP cannot prove', () => {
  const reader = new Reader()
  reader.kernel.pass(CLIENT_POD, true, '10.0.0.2', 1)
  reader.kernel.pass(SERVER_POD, false, '10.0.0.1', 1)
  reader.meter.read()
  const text = new PrometheusText(reader.meter.traffic.render())
  const [sent] = text.find('weft_udp_sent_bytes_total')
  const [received] = text.find('weft_udp_received_bytes_total')
  assert.equal(sent!.labels['reporter'], 'source')
  assert.equal(sent!.labels['request_protocol'], 'udp')
  assert.equal(sent!.labels['source_principal'], 'unknown')
  assert.equal(sent!.labels['connection_security_policy'], 'unknown')
  assert.equal(sent!.labels['destination_canonical_service'], 'reviews')
  assert.deepEqual(received!.labels, { ...sent!.labels, reporter: 'destination' })
})

test('the next agent counts on where the last one ended, what passed in between included', () => {
  const first = new Reader()
  first.kernel.pass(CLIENT_POD, true, '10.0.0.2', 100)
  first.meter.read()
  first.kernel.pass(CLIENT_POD, true, '10.0.0.2', 10)
  const second = new Reader(first.kernel)
  assert.deepEqual(second.read('sent'), { 'client -> server': [10, 1] })
  assert.deepEqual(second.read('sent'), { 'client -> server': [10, 1] })
})

test('an agent that ends puts everything into the metrics, and then nothing more', () => {
  const reader = new Reader()
  reader.kernel.pass(CLIENT_POD, true, '10.0.0.2', 1)
  reader.meter.stop()
  assert.equal(reader.kernel.accounted.all().length, 1)
  reader.kernel.pass(CLIENT_POD, true, '10.0.0.2', 1)
  assert.deepEqual(reader.read('sent'), { 'client -> server': [1, 1] })
  reader.meter.start()
  assert.deepEqual(reader.read('sent'), { 'client -> server': [2, 2] }, 'its successor did not come')
})

test('an address that becomes another pod does not take along what was counted before', () => {
  const reader = new Reader()
  reader.kernel.pass(CLIENT_POD, true, '10.0.0.2', 100)
  reader.meter.read()
  const successor = workloadOf('other-1', { workloadName: 'other', addresses: ['10.0.0.2'] })
  reader.snapshot = snapshotOf([CLIENT, successor])
  reader.kernel.pass(CLIENT_POD, true, '10.0.0.2', 7)
  assert.deepEqual(reader.read('sent'), { 'client -> server': [100, 1], 'client -> other': [7, 1] })
})

test('what a withdrawn pod did last is counted, and then its entries are gone', () => {
  const reader = new Reader()
  reader.kernel.pass(CLIENT_POD, true, '10.0.0.2', 1)
  reader.meter.read()
  reader.kernel.pass(CLIENT_POD, true, '10.0.0.2', 2)
  reader.kernel.captured.delete(CLIENT_POD)
  assert.deepEqual(reader.read('sent'), { 'client -> server': [3, 2] })
  assert.deepEqual([reader.kernel.edges.all(), reader.kernel.accounted.all()], [[], []])
})

test('a pod that has no name yet is waited for, but not for ever', () => {
  const reader = new Reader()
  reader.pods.clear()
  reader.kernel.captured.clear()
  reader.kernel.pass(CLIENT_POD, true, '10.0.0.2', 1)
  reader.kernel.pass(SERVER_POD, true, '10.0.0.1', 2)
  assert.deepEqual(reader.read('sent'), {})
  reader.enrol(CLIENT_POD, CLIENT)
  assert.deepEqual(reader.read('sent'), { 'client -> server': [1, 1] })
  reader.nowMs += UDP_NAMELESS_MS
  assert.deepEqual(reader.read('sent'), { 'client -> server': [1, 1], 'unknown -> client': [2, 1] })
  assert.equal(reader.kernel.edges.all().length, 1, 'of the pod that never came nothing is left')
})

test('entries that rest make room, sooner in a crowd, and begin anew', () => {
  const reader = new Reader()
  reader.kernel.pass(CLIENT_POD, true, '10.0.0.2', 5)
  reader.meter.read()
  reader.nowMs += UDP_REST_MS - 1
  reader.meter.read()
  assert.equal(reader.kernel.edges.all().length, 1)
  reader.nowMs += 1
  reader.meter.read()
  assert.deepEqual([reader.kernel.edges.all(), reader.kernel.accounted.all()], [[], []])
  for (let i = 0; i <= UDP_EDGES_MAX / 2; i++) {
    reader.kernel.edges.write({ pod: 1, isSent: true, remote: `fd00:1::${i.toString(16)}` }, { bytes: 1, packets: 1 })
  }
  reader.kernel.pass(CLIENT_POD, true, '10.0.0.2', 6)
  assert.deepEqual(reader.read('sent')['client -> server'], [11, 2])
  reader.nowMs += UDP_CROWDED_REST_MS
  reader.meter.read()
  assert.equal(reader.kernel.edges.all().length, 0)
})

test('an agent that ended between two deletions has not made anybody count twice', () => {
  const reader = new Reader()
  const [gone, again] = ['10.0.0.2', '203.0.113.1'].map((remote) => ({ pod: CLIENT_POD, isSent: true, remote }))
  reader.kernel.accounted.write(gone!, { bytes: 100, packets: 10 })
  reader.kernel.accounted.write(again!, { bytes: 100, packets: 10 })
  reader.kernel.pass(CLIENT_POD, true, again!.remote, 3)
  assert.deepEqual(reader.read('sent'), { 'client -> unknown': [3, 1] })
  assert.equal(reader.kernel.accounted.read(gone!), null)
  assert.deepEqual(reader.kernel.accounted.read(again!), { bytes: 3, packets: 1 })
})

test('pairs beyond the limit count under unknown labels, and say so', () => {
  const reader = new Reader()
  const many = Array.from({ length: UDP_SERIES_MAX + 5 }, (_, i) =>
    workloadOf(`p${i}`, { workloadName: `p${i}`, uid: `uid-${i}`, addresses: [`fd00:2::${(i + 1).toString(16)}`] }),
  )
  reader.snapshot = snapshotOf([CLIENT, ...many])
  for (const { addresses } of many) reader.kernel.pass(CLIENT_POD, true, addresses[0]!, 1)
  const pairs = reader.read('sent')
  assert.deepEqual(pairs['unknown -> unknown'], [5, 5])
  assert.equal(Object.keys(pairs).length, UDP_SERIES_MAX + 1)
  assert.equal(reader.value('weft_udp_overflows_total'), 5)
})

test('packets that found no room in the kernel are told', () => {
  const reader = new Reader()
  reader.kernel.unmeteredPackets = 7
  reader.meter.read()
  assert.equal(reader.value('weft_udp_unmetered_packets_total'), 7)
})
