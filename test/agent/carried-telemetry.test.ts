/** Carried connections as metrics and log lines, with the kernel's side told by the test. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { NAMELESS_MS, REST_MS } from '../../src/agent/carried-edges.ts'
import { EVENTS_PER_TURN_MAX } from '../../src/agent/carried-log.ts'
import { CarriedTelemetry, NAMES_WAIT_MS, SOCKETS_SHARE_OF_TIME } from '../../src/agent/carried-telemetry.ts'
import { silentLog } from '../../src/base/log.ts'
import { type EdgeTotals, ROUND_TRIP_BOUNDS_SECONDS } from '../../src/kernel/edge-map.ts'
import {
  EVENT,
  FLOW_KEY,
  OUTCOME_CLOSED,
  OUTCOME_DENIED,
  OUTCOME_EXPELLED,
  OUTCOME_FAILED,
  OUTCOME_RESET_BY_DESTINATION,
  OUTCOME_RESET_BY_SOURCE,
} from '../../src/kernel/layout.generated.ts'
import { encodeAddress, IS_LITTLE_ENDIAN } from '../../src/kernel/maps.ts'
import { identityOf } from '../../src/proxy/local-pods.ts'
import { AccessLog } from '../../src/telemetry/access-log.ts'
import { TCP_LABELS } from '../../src/telemetry/catalogue.ts'
import { MetricsRegistry } from '../../src/telemetry/registry.ts'
import { RoundTrips } from '../../src/telemetry/round-trips.ts'
import { WorkerRecorder } from '../../src/telemetry/worker-recorder.ts'
import { FakeCarried, FakeNames, openSocket } from '../support/fake-carried.ts'
import { IDLE_STATE } from '../support/idle-state.ts'
import { PrometheusText } from '../support/prometheus-text.ts'
import { SERVICE, workloadOf } from '../support/proxy-objects.ts'

/** An agent, as far as this goes. Several may follow one another on one kernel. */
class Reader {
  readonly kernel: FakeCarried
  readonly names = new FakeNames()
  readonly lines: Record<string, unknown>[] = []
  readonly telemetry: CarriedTelemetry
  nowMs = 1_000_000
  monotonicNs = 60e9
  private readonly recorder: WorkerRecorder
  private readonly accessLog: AccessLog
  private readonly registry: MetricsRegistry

  constructor(kernel = new FakeCarried(), areNamesKnown = true) {
    this.kernel = kernel
    kernel.captured.add(1).add(2)
    this.names.pods.set(1, workloadOf('client-1', { workloadName: 'client', addresses: ['10.0.0.1'] }))
    this.names.pods.set(2, workloadOf('reviews-1', { workloadName: 'reviews' }))
    this.names.service = SERVICE
    const now = (): number => this.nowMs
    const roundTrips = new RoundTrips(ROUND_TRIP_BOUNDS_SECONDS, now)
    this.registry = new MetricsRegistry({ component: 'weft', version: '1', now, roundTrips })
    this.accessLog = new AccessLog((text) => {
      for (const line of text.trimEnd().split('\n')) this.lines.push(JSON.parse(line))
    })
    this.recorder = new WorkerRecorder(this.accessLog, now)
    this.telemetry = new CarriedTelemetry({
      kernel,
      names: this.names,
      recorder: this.recorder,
      roundTrips,
      clock: { now, monotonicNs: () => this.monotonicNs },
      log: silentLog,
      areNamesKnown: () => areNamesKnown,
    })
  }

  async scrape(): Promise<PrometheusText> {
    await this.telemetry.collect()
    this.registry.merge(-1, this.recorder.collect())
    return new PrometheusText(await this.registry.render({ ...IDLE_STATE, carried: this.telemetry.state() }))
  }

  async log(): Promise<Record<string, unknown>[]> {
    await this.telemetry.readEvents()
    this.accessLog.flush()
    return this.lines.splice(0)
  }
}

function ended(totals: EdgeTotals, outcome: number, count: number): void {
  totals.ended[outcome]! += count
}

const FAMILY = {
  opened: 'istio_tcp_connections_opened_total',
  closed: 'istio_tcp_connections_closed_total',
  received: 'istio_tcp_received_bytes_total',
  sent: 'istio_tcp_sent_bytes_total',
}

describe('counters of carried connections', () => {
  test('have every label and both reporters, as proxied ones have', async () => {
    const reader = new Reader()
    reader.kernel.count((totals) => {
      totals.attempted = 3
      totals.opened = 2
      totals.sent = 100
      totals.received = 2_000
      ended(totals, OUTCOME_CLOSED, 2)
    })
    const text = await reader.scrape()
    for (const reporter of ['source', 'destination']) {
      assert.equal(text.value(FAMILY.opened, { reporter }), 2)
      assert.equal(text.value(FAMILY.closed, { reporter, response_flags: '-' }), 2)
      assert.equal(text.value(FAMILY.received, { reporter }), 100, 'bytes from the client')
      assert.equal(text.value(FAMILY.sent, { reporter }), 2_000, 'bytes to the client')
    }
    for (const { labels } of text.find(FAMILY.opened)) {
      assert.deepEqual(Object.keys(labels).sort(), [...TCP_LABELS].sort())
      assert.equal(labels['connection_security_policy'], 'mutual_tls')
      assert.equal(labels['source_workload'], 'client')
      assert.equal(labels['destination_workload'], 'reviews')
      assert.equal(labels['destination_service'], SERVICE.hostname)
      assert.match(labels['source_principal']!, /^spiffe:/)
    }
  })

  test('tell ends apart by the flags of the proxy; who failed or was denied was opened as well', async () => {
    const reader = new Reader()
    reader.kernel.count((totals) => {
      totals.attempted = 10
      totals.opened = 7
      ended(totals, OUTCOME_CLOSED, 1)
      ended(totals, OUTCOME_RESET_BY_SOURCE, 2)
      ended(totals, OUTCOME_RESET_BY_DESTINATION, 3)
      ended(totals, OUTCOME_EXPELLED, 1)
      ended(totals, OUTCOME_FAILED, 3)
      ended(totals, OUTCOME_DENIED, 5)
    })
    const text = await reader.scrape()
    assert.equal(text.value(FAMILY.opened, { reporter: 'source', response_flags: '-' }), 15)
    const closed = (response_flags: string): number =>
      text.value(FAMILY.closed, { reporter: 'destination', response_flags })
    assert.deepEqual(['-', 'DC', 'UC', 'UF', 'UAEX'].map(closed), [1, 2, 3, 3, 6])
    assert.equal(text.find('weft_carried_open_connections').length, 0)
  })

  test('have the bytes of open connections, and never go back', async () => {
    const reader = new Reader()
    const { kernel } = reader
    kernel.count((totals) => {
      totals.attempted = 2
      totals.opened = 2
    })
    kernel.sockets.push(openSocket(10, 100), openSocket(5, 50))
    let text = await reader.scrape()
    const bytes = (): number[] => [
      text.value(FAMILY.received, { reporter: 'source' }),
      text.value(FAMILY.sent, { reporter: 'source' }),
    ]
    assert.deepEqual(bytes(), [15, 150])
    assert.equal(text.value('weft_carried_open_connections', { pod: 'shop/client-1' }), 2)
    // One more is opened, another closes after the edges were read and before the sockets are.
    kernel.count((totals) => {
      totals.attempted += 1
      totals.opened += 1
    })
    kernel.sockets.push(openSocket(0, 200))
    kernel.onSockets = () => {
      kernel.onSockets = () => {}
      kernel.sockets.splice(0, 1)
      kernel.count((totals) => {
        totals.sent += 30
        totals.received += 100
        ended(totals, OUTCOME_CLOSED, 1)
      })
    }
    text = await reader.scrape()
    assert.deepEqual(bytes(), [15, 250])
    assert.equal(text.value(FAMILY.opened, { reporter: 'source', response_flags: '-' }), 3)
    text = await reader.scrape()
    assert.deepEqual(bytes(), [35, 350])
    kernel.sockets.splice(0)
    kernel.count((totals) => {
      totals.sent += 5
      totals.received += 251
      ended(totals, OUTCOME_CLOSED, 2)
    })
    text = await reader.scrape()
    assert.deepEqual(bytes(), [35, 351])
  })

  test('look at open connections less often when there are so many that it takes long', async () => {
    const reader = new Reader()
    const { kernel } = reader
    kernel.count((totals) => {
      totals.attempted = 1
      totals.opened = 1
    })
    kernel.sockets.push(openSocket(10, 100))
    let looks = 0
    kernel.onSockets = () => {
      looks++
      reader.monotonicNs += 100e6
    }
    await reader.scrape()
    kernel.sockets.splice(0, 1, openSocket(20, 100))
    reader.monotonicNs += (SOCKETS_SHARE_OF_TIME - 1) * 100e6 - 1
    assert.equal((await reader.scrape()).value(FAMILY.received, { reporter: 'source' }), 10)
    assert.equal(looks, 1)
    reader.monotonicNs += 1
    assert.equal((await reader.scrape()).value(FAMILY.received, { reporter: 'source' }), 20)
    assert.equal(looks, 2)
  })

  test('of a time without an agent are counted by the next one, once', async () => {
    const kernel = new FakeCarried()
    const first = new Reader(kernel)
    kernel.count((totals) => {
      totals.attempted = 5
      totals.opened = 5
      totals.sent = 50
      ended(totals, OUTCOME_CLOSED, 4)
    })
    kernel.sockets.push(openSocket(7, 70))
    assert.equal((await first.scrape()).value(FAMILY.received, { reporter: 'source' }), 57)
    // It is killed: nothing is told to anybody.
    kernel.sockets.splice(0)
    kernel.count((totals) => {
      totals.attempted += 2
      totals.opened += 2
      totals.sent += 9 + 20
      totals.received += 70
      ended(totals, OUTCOME_CLOSED, 3)
    })
    const second = new Reader(kernel)
    const text = await second.scrape()
    assert.equal(text.value(FAMILY.opened, { reporter: 'source' }), 2)
    assert.equal(text.value(FAMILY.closed, { reporter: 'source' }), 3)
    assert.equal(text.value(FAMILY.received, { reporter: 'source' }), 22)
    assert.equal(text.find(FAMILY.sent, { reporter: 'source', response_flags: '-' })[0]!.value, 0)
    const third = await new Reader(kernel).scrape()
    assert.deepEqual(third.find(FAMILY.opened), [])
  })

  test('wait for the names of pods, and go under unknown when there will be none', async () => {
    const reader = new Reader()
    reader.names.pods.clear()
    const count = (totals: EdgeTotals): void => {
      totals.attempted += 1
      totals.opened += 1
      ended(totals, OUTCOME_CLOSED, 1)
    }
    reader.kernel.count(count)
    assert.deepEqual((await reader.scrape()).find(FAMILY.opened), [])
    reader.names.pods.set(1, workloadOf('client-1')).set(2, workloadOf('reviews-1'))
    assert.equal(
      (await reader.scrape()).value(FAMILY.opened, {
        reporter: 'source',
        source_principal: identityOf(workloadOf('client-1')),
      }),
      1,
    )

    const nameless = new Reader()
    nameless.names.pods.clear()
    nameless.kernel.count(count)
    await nameless.scrape()
    nameless.nowMs += NAMELESS_MS
    assert.equal((await nameless.scrape()).value(FAMILY.opened, { reporter: 'source', source_workload: 'unknown' }), 1)
  })

  test('of pods dialled by their own address have it in the place of a service that nobody knows', async () => {
    const reader = new Reader()
    reader.names.pods.set(2, workloadOf('reviews-1', { services: [] }))
    reader.names.service = null
    reader.names.address = '10.0.0.2'
    reader.kernel.count((totals) => {
      totals.attempted = 1
      totals.opened = 1
    })
    const text = await reader.scrape()
    assert.equal(text.value(FAMILY.opened, { reporter: 'source', destination_service: '10.0.0.2' }), 1)
  })

  test('of withdrawn pods leave the maps once nothing is open and all is counted', async () => {
    const reader = new Reader()
    const { kernel } = reader
    kernel.count((totals) => {
      totals.attempted = 1
      totals.opened = 1
    })
    await reader.scrape()
    kernel.captured.delete(1)
    reader.nowMs += REST_MS
    await reader.scrape()
    assert.equal(kernel.edges.all().length, 1, 'a connection is open')
    kernel.count((totals) => ended(totals, OUTCOME_CLOSED, 1))
    await reader.scrape()
    assert.equal(kernel.edges.all().length, 1, 'something has just happened')
    reader.nowMs += REST_MS
    assert.equal((await reader.scrape()).value(FAMILY.closed, { reporter: 'source' }), 1)
    assert.deepEqual([kernel.edges.all().length, kernel.accounted.all().length], [0, 0])
  })

  test('of captured pods stay, however long nothing happens', async () => {
    const reader = new Reader()
    reader.kernel.count((totals) => ended(totals, OUTCOME_DENIED, 1))
    await reader.scrape()
    reader.nowMs += 100 * REST_MS
    await reader.scrape()
    assert.equal(reader.kernel.edges.all().length, 1)
  })

  test('and those of the programs have metrics of their own', async () => {
    const text = await new Reader().scrape()
    for (const [name, value] of [
      ['carried_connections', 1],
      ['carried_denied', 2],
      ['carried_events_lost', 3],
      ['carried_edges_lost', 4],
    ] as const) {
      assert.equal(text.value(`weft_${name}_total`), value)
      assert.equal(text.types.get(`weft_${name}_total`), 'counter')
    }
  })
})

describe('round trips of carried connections', () => {
  const NAME = 'weft_carried_round_trip_seconds'

  test('are a histogram of both ends and the service: closed connections, and samples of open ones', async () => {
    const reader = new Reader()
    reader.kernel.count((totals) => {
      totals.attempted = 3
      totals.opened = 3
      totals.roundTrips[0] = 1
      totals.roundTrips[2] = 1
      totals.roundTripUs = 70
      ended(totals, OUTCOME_CLOSED, 2)
    })
    reader.kernel.sockets.push(openSocket(1, 1, 1_000_000))
    await reader.telemetry.sample()
    const text = await reader.scrape()
    assert.equal(text.types.get(NAME), 'histogram')
    const labels = { source_workload: 'client', destination_workload: 'reviews', destination_service: SERVICE.hostname }
    const bucket = (le: string): number => text.value(`${NAME}_bucket`, { ...labels, le })
    assert.deepEqual(['0.000016', '0.000032', '0.000064', '0.524288', '+Inf'].map(bucket), [1, 1, 2, 2, 3])
    assert.equal(text.value(`${NAME}_count`, labels), 3)
    assert.equal(text.value(`${NAME}_sum`, labels), 1.00007)
    // A scrape is no sample: how often somebody scrapes must not weigh.
    assert.equal((await reader.scrape()).value(`${NAME}_count`, labels), 3)
  })

  test('have a bounded number of series, those that nothing comes to are given up', async () => {
    let nowMs = 0
    const trips = new RoundTrips([1, 2], () => nowMs)
    const edge = (name: string) => ({
      reporter: 'source' as const,
      protocol: 'tcp' as const,
      source: workloadOf(name, { workloadName: name }),
      destination: null,
      service: null,
      host: '',
      isMutualTls: true,
      sourcePrincipal: null,
      destinationPrincipal: null,
    })
    for (let i = 0; i < 1_100; i++) trips.observe(edge(`client-${i}`), 1.5)
    const text = new PrometheusText(trips.render())
    assert.equal(text.find(`${NAME}_count`).length, 1_001)
    assert.equal(text.value(`${NAME}_count`, { source_workload: 'unknown' }), 100)
    nowMs += 3_600_000
    trips.observe(edge('client-1'), 1)
    assert.equal(new PrometheusText(trips.render()).find(`${NAME}_count`).length, 1)
  })
})

describe('log lines of carried connections', () => {
  function event(fields: { outcome: number; policy?: number }): Uint8Array {
    const bytes = new Uint8Array(EVENT.bytes)
    const view = new DataView(bytes.buffer)
    const u32 = (offset: number, value: number): void => view.setUint32(offset, value, IS_LITTLE_ENDIAN)
    const u64 = (offset: number, value: number): void => view.setBigUint64(offset, BigInt(value), IS_LITTLE_ENDIAN)
    if (fields.outcome !== OUTCOME_DENIED) {
      bytes.set(encodeAddress('10.0.0.1'), EVENT.flow + FLOW_KEY.source)
      u32(EVENT.flow + FLOW_KEY.source_port, 40_000)
    }
    bytes.set(encodeAddress('10.0.0.2'), EVENT.flow + FLOW_KEY.destination)
    u32(EVENT.flow + FLOW_KEY.destination_port, 8080)
    bytes.set(encodeAddress('10.96.0.1'), EVENT.original)
    u32(EVENT.original_port, 80)
    u32(EVENT.source_pod, 1)
    u32(EVENT.destination_pod, 2)
    u32(EVENT.service, 3)
    u32(EVENT.outcome, fields.outcome)
    u32(EVENT.policy, fields.policy ?? 0)
    u64(EVENT.ended_ns, 59e9)
    u64(EVENT.duration_ns, 250e6)
    u64(EVENT.sent, 10)
    u64(EVENT.received, 200)
    u32(EVENT.round_trip_us, 42)
    return bytes
  }

  test('have the fields of proxied TCP, the round trip, and who carried it', async () => {
    const reader = new Reader()
    reader.kernel.events.push(event({ outcome: OUTCOME_CLOSED }))
    const [line] = await reader.log()
    assert.deepEqual(line, {
      start_time: new Date(1_000_000 - 1_000 - 250).toISOString(),
      duration: 250,
      reporter: 'source',
      protocol: 'TCP',
      response_flags: '-',
      details: '',
      bytes_received: 10,
      bytes_sent: 200,
      downstream_remote_address: '10.0.0.1:40000',
      upstream_host: '10.0.0.2:8080',
      source_workload: 'client',
      source_namespace: 'shop',
      source_principal: line!['source_principal'],
      destination_workload: 'reviews',
      destination_namespace: 'shop',
      destination_principal: line!['destination_principal'],
      destination_service: SERVICE.hostname,
      mutual_tls: true,
      carried_by: 'kernel',
      round_trip_us: 42,
    })
  })

  test('say how a connection ended, in the words of the proxy', async () => {
    const reader = new Reader()
    reader.kernel.events.push(
      event({ outcome: OUTCOME_DENIED, policy: 7 }),
      event({ outcome: OUTCOME_DENIED }),
      event({ outcome: OUTCOME_EXPELLED, policy: 7 }),
      event({ outcome: OUTCOME_FAILED }),
      event({ outcome: OUTCOME_RESET_BY_SOURCE }),
      event({ outcome: OUTCOME_RESET_BY_DESTINATION }),
    )
    const lines = await reader.log()
    assert.deepEqual(
      lines.map((line) => [line['response_flags'], line['details']]),
      [
        ['UAEX', 'denied by policy shop/policy-7'],
        ['UAEX', 'denied: no ALLOW policy matches'],
        ['UAEX', 'denied by policy shop/policy-7'],
        ['UF', 'cannot connect to 10.0.0.2:8080'],
        ['DC', '10.0.0.1:40000 reset the connection'],
        ['UC', '10.0.0.2:8080 reset the connection'],
      ],
    )
    assert.equal(lines[0]!['downstream_remote_address'], '10.0.0.1', 'of the pod: it had no port yet')
    assert.equal(lines[0]!['upstream_host'], '')
  })

  test('wait until the names of pods are known, but not for ever', async () => {
    const reader = new Reader(new FakeCarried(), false)
    reader.kernel.events.push(event({ outcome: OUTCOME_CLOSED }))
    assert.deepEqual(await reader.log(), [])
    reader.nowMs += NAMES_WAIT_MS
    assert.equal((await reader.log()).length, 1)
  })

  test('are all written by who stops, who reads no more then', async () => {
    const reader = new Reader(new FakeCarried(), false)
    const count = 2 * EVENTS_PER_TURN_MAX + 1
    for (let i = 0; i < count; i++) reader.kernel.events.push(event({ outcome: OUTCOME_CLOSED }))
    reader.kernel.count((totals) => ended(totals, OUTCOME_DENIED, 1))
    await reader.telemetry.stop()
    assert.equal((await reader.log()).length, count)
    assert.ok(reader.kernel.isClosed)
    assert.equal(reader.kernel.accounted.all().length, 1)
    reader.kernel.events.push(event({ outcome: OUTCOME_CLOSED }))
    await reader.telemetry.stop()
    assert.deepEqual(await reader.log(), [])
  })
})

test('open carried connections are described like proxied ones, no more of them than asked for', () => {
  const reader = new Reader()
  reader.kernel.count((totals) => {
    totals.attempted = 2
    totals.opened = 2
  })
  reader.kernel.sockets.push(openSocket(10, 100, 42), openSocket(1, 1))
  const [first, ...others] = reader.telemetry.connections(1)
  assert.deepEqual(others, [])
  assert.equal(first!.carriedBy, 'kernel')
  assert.equal(first!.downstream, '10.0.0.1:40000')
  assert.equal(first!.originalDestination, '10.96.0.1:80')
  assert.equal(first!.upstream, '10.0.0.2:8080')
  assert.deepEqual([first!.ageMs, first!.receivedBytes, first!.sentBytes, first!.roundTripUs], [59_000, 10, 100, 42])
  assert.equal(reader.telemetry.connections(10).length, 2)
})
