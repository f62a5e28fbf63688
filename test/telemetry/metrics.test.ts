/** Recorder and registry together: what workers count, as a scraper reads it. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  FLAG_DENIED,
  FLAG_DOWNSTREAM_CLOSED,
  FLAG_NO_ROUTE,
  FLAG_NONE,
  FLAG_UPSTREAM_CONNECT,
} from '../../src/base/errors.ts'
import { AccessLog } from '../../src/telemetry/access-log.ts'
import { BUCKET_BOUNDS, HTTP_LABELS, TCP_LABELS } from '../../src/telemetry/catalogue.ts'
import type { EdgeKey } from '../../src/telemetry/recorder.ts'
import { type AgentState, MetricsRegistry } from '../../src/telemetry/registry.ts'
import {
  EDGE_IDLE_MS,
  EDGE_OUTCOMES_MAX,
  EDGES_MAX,
  OUTCOMES_MAX,
  WorkerRecorder,
} from '../../src/telemetry/worker-recorder.ts'
import { PrometheusText } from '../support/prometheus-text.ts'
import { SERVICE, workloadOf } from '../support/proxy-objects.ts'

const EDGE: EdgeKey = {
  reporter: 'source',
  protocol: 'http',
  source: workloadOf('productpage-1', { workloadName: 'productpage', canonicalName: 'productpage' }),
  destination: workloadOf('reviews-1'),
  service: SERVICE,
  host: '',
  isMutualTls: true,
  sourcePrincipal: 'spiffe://cluster.local/ns/shop/sa/bookinfo',
  destinationPrincipal: 'spiffe://cluster.local/ns/shop/sa/reviews',
}
const TCP_EDGE: EdgeKey = { ...EDGE, protocol: 'tcp' }

const IDLE: AgentState = {
  enrolledPods: 0,
  outboundCaptured: 0,
  inboundCaptured: 0,
  bypassed: 0,
  silentWorkers: 0,
  podsNotCaptured: 0,
  captureRepairs: 0,
  absences: 0,
  absentSeconds: 0,
  mainStalls: 0,
  mainStalledSeconds: 0,
  refused: 0,
  openConnections: new Map(),
  certificateExpiryMs: new Map(),
  configVersion: 0,
  configRejected: 0,
}

/** A registry and a clock, with as many workers as asked for. */
class Node {
  nowMs = 1_000_000
  readonly now = (): number => this.nowMs
  readonly registry = new MetricsRegistry({ component: 'weft', version: '1.2.3', now: this.now })

  worker(): WorkerRecorder {
    return new WorkerRecorder(null, this.now)
  }

  async scrape(state: AgentState = IDLE): Promise<PrometheusText> {
    return new PrometheusText(await this.registry.render(state))
  }
}

describe('HTTP families', () => {
  test('count requests under every label, with the outcome in three', async () => {
    const node = new Node()
    const worker = node.worker()
    const edge = worker.edge(EDGE)
    edge.exchangeFinished(200, -1, FLAG_NONE, 3, 100, 2_000)
    edge.exchangeFinished(200, -1, FLAG_NONE, 3, 100, 2_000)
    edge.exchangeFinished(503, -1, FLAG_UPSTREAM_CONNECT, 10, 100, 0)
    edge.exchangeFinished(0, -1, FLAG_DOWNSTREAM_CLOSED, 10, 100, 0)
    worker.edge({ ...EDGE, protocol: 'grpc' }).exchangeFinished(200, 0, FLAG_NONE, 1, 1, 1)
    worker.edge({ ...EDGE, protocol: 'grpc' }).exchangeFinished(200, 14, FLAG_NO_ROUTE, 1, 1, 1)
    node.registry.merge(1, worker.collect())
    const text = await node.scrape()
    const name = 'istio_requests_total'
    assert.equal(text.types.get(name), 'counter')
    const outcome = (
      request_protocol: string,
      response_code: string,
      grpc_response_status: string,
      response_flags: string,
    ) => text.value(name, { request_protocol, response_code, grpc_response_status, response_flags })
    assert.equal(outcome('http', '200', '', '-'), 2)
    assert.equal(outcome('http', '503', '', 'UF'), 1)
    assert.equal(outcome('http', '0', '', 'DC'), 1)
    assert.equal(outcome('grpc', '200', '0', '-'), 1)
    assert.equal(outcome('grpc', '200', '14', 'NR'), 1)
    assert.equal(text.find(name).length, 5)
    for (const sample of text.find(name)) {
      assert.deepEqual(Object.keys(sample.labels).sort(), [...HTTP_LABELS].sort())
      for (const [label, value] of Object.entries(sample.labels)) {
        assert.ok(value !== '' || label === 'grpc_response_status', `${label} is not empty`)
      }
    }
  })

  test('count gRPC messages apart from the outcomes, as soon as they are told', async () => {
    const node = new Node()
    const worker = node.worker()
    const edge = worker.edge({ ...EDGE, protocol: 'grpc' })
    edge.grpcMessages(0, 0)
    assert.equal(worker.collect().newSeries.length, 0)
    edge.grpcMessages(2, 1)
    node.registry.merge(1, worker.collect())
    edge.grpcMessages(0, 3)
    edge.exchangeFinished(200, 0, FLAG_NONE, 1, 1, 1)
    node.registry.merge(1, worker.collect())
    const text = await node.scrape()
    const labels = Object.fromEntries(TCP_LABELS.map((name) => [name, undefined]))
    for (const [family, count] of [
      ['istio_request_messages_total', 2],
      ['istio_response_messages_total', 4],
    ] as const) {
      const [sample, ...others] = text.find(family)
      assert.equal(others.length, 0)
      assert.equal(sample!.value, count)
      assert.deepEqual(Object.keys(sample!.labels).sort(), Object.keys(labels).sort())
      assert.equal(sample!.labels['request_protocol'], 'grpc')
      assert.equal(sample!.labels['response_flags'], '-')
    }
    assert.equal(text.find('istio_requests_total').length, 1)
  })

  test('of a TCP edge have no messages', () => {
    const worker = new Node().worker()
    worker.edge(TCP_EDGE).grpcMessages(1, 1)
    assert.equal(worker.collect().newSeries.length, 0)
  })

  test('have histograms with Envoy buckets, cumulative counts and sums', async () => {
    const node = new Node()
    const worker = node.worker()
    const durations = [0, 0.5, 0.6, 7, 7, 999, 1_000, 1_001, 3_600_000, 3_600_001]
    for (const duration of durations) worker.edge(EDGE).exchangeFinished(200, -1, FLAG_NONE, duration, duration, 5)
    node.registry.merge(1, worker.collect())
    const text = await node.scrape()
    for (const [name, values] of [
      ['istio_request_duration_milliseconds', durations],
      ['istio_request_bytes', durations],
      ['istio_response_bytes', durations.map(() => 5)],
    ] as const) {
      assert.equal(text.types.get(name), 'histogram')
      for (const bound of BUCKET_BOUNDS) {
        const expected = values.filter((value) => value <= bound).length
        assert.equal(text.value(`${name}_bucket`, { le: String(bound) }), expected, `${name} le ${bound}`)
      }
      assert.equal(text.value(`${name}_bucket`, { le: '+Inf' }), values.length)
      assert.equal(text.value(`${name}_count`), values.length)
      assert.equal(
        text.value(`${name}_sum`),
        values.reduce((sum, value) => sum + value, 0),
      )
      assert.equal(text.find(`${name}_bucket`).length, BUCKET_BOUNDS.length + 1)
    }
  })

  test('take no connection counts: those belong to TCP', async () => {
    const node = new Node()
    const worker = node.worker()
    const edge = worker.edge(EDGE)
    edge.connectionOpened()
    edge.connectionBytes(1, 2)
    edge.connectionClosed(FLAG_NONE)
    worker.edge(TCP_EDGE).exchangeFinished(200, -1, FLAG_NONE, 1, 1, 1)
    node.registry.merge(1, worker.collect())
    const text = await node.scrape()
    assert.deepEqual(text.find('istio_tcp_connections_opened_total'), [])
    assert.deepEqual(text.find('istio_requests_total'), [])
  })
})

describe('TCP families', () => {
  test('count bytes and connections, the closing ones with their flag', async () => {
    const node = new Node()
    const worker = node.worker()
    const edge = worker.edge(TCP_EDGE)
    edge.connectionOpened()
    edge.connectionOpened()
    edge.connectionBytes(10, 20)
    edge.connectionBytes(1, 2)
    edge.connectionClosed(FLAG_NONE)
    edge.connectionClosed(FLAG_DENIED)
    node.registry.merge(1, worker.collect())
    const text = await node.scrape()
    assert.equal(text.value('istio_tcp_connections_opened_total', { response_flags: '-' }), 2)
    assert.equal(text.value('istio_tcp_received_bytes_total', { response_flags: '-' }), 11)
    assert.equal(text.value('istio_tcp_sent_bytes_total', { response_flags: '-' }), 22)
    assert.equal(text.value('istio_tcp_connections_closed_total', { response_flags: '-' }), 1)
    assert.equal(text.value('istio_tcp_connections_closed_total', { response_flags: 'UAEX' }), 1)
    for (const sample of text.find('istio_tcp_sent_bytes_total')) {
      assert.deepEqual(Object.keys(sample.labels).sort(), [...TCP_LABELS].sort())
    }
  })
})

describe('several workers', () => {
  test('count on the same series, and one that dies takes nothing away', async () => {
    const node = new Node()
    const first = node.worker()
    const second = node.worker()
    first.edge(EDGE).exchangeFinished(200, -1, FLAG_NONE, 1, 1, 1)
    second.edge(EDGE).exchangeFinished(200, -1, FLAG_NONE, 1, 1, 1)
    node.registry.merge(1, first.collect())
    node.registry.merge(2, second.collect())
    assert.equal((await node.scrape()).value('istio_requests_total'), 2)
    node.registry.forgetWorker(2)
    assert.equal((await node.scrape()).value('istio_requests_total'), 2)
    const third = node.worker()
    third.edge(EDGE).exchangeFinished(200, -1, FLAG_NONE, 1, 1, 1)
    node.registry.merge(3, third.collect())
    node.registry.forgetWorker(1)
    node.registry.forgetWorker(3)
    const text = await node.scrape()
    assert.equal(text.value('istio_requests_total'), 3)
    assert.equal(text.value('istio_request_duration_milliseconds_count'), 3)
    node.nowMs += EDGE_IDLE_MS
    assert.deepEqual((await node.scrape()).find('istio_requests_total'), [], 'given up when nobody counts on')
  })

  test('report only what changed, and describe a series once', () => {
    const worker = new Node().worker()
    worker.edge(EDGE).exchangeFinished(200, -1, FLAG_NONE, 1, 1, 1)
    worker.edge(TCP_EDGE).connectionOpened()
    const first = worker.collect()
    assert.equal(first.newSeries.length, 2)
    assert.deepEqual([...first.httpIds, ...first.tcpIds].sort(), first.newSeries.map((series) => series.id).sort())
    worker.edge(EDGE).exchangeFinished(200, -1, FLAG_NONE, 1, 1, 1)
    const second = worker.collect()
    assert.deepEqual(second.newSeries, [])
    assert.deepEqual([...second.httpIds], [...first.httpIds])
    assert.equal(second.tcpIds.length, 0)
    assert.deepEqual(second.httpValues[0], 1, 'increments, not totals')
    assert.equal(worker.collect().httpIds.length, 0)
  })

  test('hand over reports that can be posted to another thread', async () => {
    const node = new Node()
    const worker = node.worker()
    worker.edge(EDGE).exchangeFinished(200, -1, FLAG_NONE, 1, 1, 1)
    node.registry.merge(1, structuredClone(worker.collect()))
    assert.equal((await node.scrape()).value('istio_requests_total'), 1)
  })
})

describe('edges', () => {
  test('are the same object for the same key, and another when a workload has changed', () => {
    const worker = new Node().worker()
    assert.equal(worker.edge(EDGE), worker.edge({ ...EDGE }))
    const sameLabels = { ...EDGE, source: { ...EDGE.source! } }
    assert.equal(worker.edge(sameLabels), worker.edge(EDGE))
    const renamed = { ...EDGE, source: { ...EDGE.source!, canonicalRevision: 'v9' } }
    assert.notEqual(worker.edge(renamed), worker.edge(EDGE))
  })

  test('beyond the limit count as unknown, and how many is counted', async () => {
    const node = new Node()
    const worker = node.worker()
    for (let i = 0; i < EDGES_MAX + 25; i++) {
      const key = { ...EDGE, service: null, destination: null, host: `host-${i}.example.org` }
      worker.edge(key).exchangeFinished(200, -1, FLAG_NONE, 1, 1, 1)
    }
    node.registry.merge(1, worker.collect())
    const text = await node.scrape()
    assert.equal(text.find('istio_requests_total').length, EDGES_MAX + 1)
    assert.equal(text.value('istio_requests_total', { destination_service: 'unknown', source_workload: 'unknown' }), 25)
    assert.equal(text.value('weft_metrics_edges_dropped_total'), 25)
  })

  test('have a bounded number of outcomes; the rest counts under its status class', async () => {
    const node = new Node()
    const worker = node.worker()
    const edge = worker.edge(EDGE)
    for (let status = 200; status < 600; status++) edge.exchangeFinished(status, -1, FLAG_NONE, 1, 1, 1)
    node.registry.merge(1, worker.collect())
    const text = await node.scrape()
    const samples = text.find('istio_requests_total')
    assert.ok(samples.length <= EDGE_OUTCOMES_MAX + 10, `${samples.length} outcomes`)
    assert.equal(
      samples.reduce((sum, sample) => sum + sample.value, 0),
      400,
      'every request is counted',
    )
    assert.ok(text.value('istio_requests_total', { response_code: '500' }) >= 99)
    assert.equal(text.value('weft_metrics_outcomes_folded_total'), 400 - EDGE_OUTCOMES_MAX)
  })

  test('have a bounded number of outcomes together', async () => {
    const node = new Node()
    const worker = node.worker()
    for (let i = 0; i < 200; i++) {
      const edge = worker.edge({ ...EDGE, service: null, destination: null, host: `host-${i}.example.org` })
      for (let status = 400; status < 430; status++) edge.exchangeFinished(status, -1, FLAG_NONE, 1, 1, 1)
    }
    const report = worker.collect()
    assert.ok(report.httpIds.length <= OUTCOMES_MAX + 200, `${report.httpIds.length} outcomes`)
    assert.ok(report.foldedOutcomes > 0)
  })

  test('that are idle for an hour are given up; who still holds one counts on from zero', async () => {
    const node = new Node()
    const worker = node.worker()
    const held = worker.edge(EDGE)
    held.exchangeFinished(200, -1, FLAG_NONE, 1, 1, 1)
    node.registry.merge(1, worker.collect())
    node.nowMs += EDGE_IDLE_MS - 1
    node.registry.merge(1, worker.collect())
    assert.equal((await node.scrape()).value('istio_requests_total'), 1)
    node.nowMs += 1
    node.registry.merge(1, worker.collect())
    assert.deepEqual((await node.scrape()).find('istio_requests_total'), [])
    held.exchangeFinished(200, -1, FLAG_NONE, 1, 1, 1)
    worker.edge(EDGE).exchangeFinished(200, -1, FLAG_NONE, 1, 1, 1)
    node.registry.merge(1, worker.collect())
    assert.equal((await node.scrape()).value('istio_requests_total'), 2)
  })

  test('in use are kept, however seldom they are collected', async () => {
    const node = new Node()
    const worker = node.worker()
    worker.edge(EDGE).exchangeFinished(200, -1, FLAG_NONE, 1, 1, 1)
    node.nowMs += 3 * EDGE_IDLE_MS
    const report = worker.collect()
    assert.deepEqual(report.retired, [])
    node.registry.merge(1, report)
    assert.equal((await node.scrape()).value('istio_requests_total'), 1)
  })
})

describe('the text', () => {
  test('counts DNS queries by who answered and how, over all workers', async () => {
    const node = new Node()
    const [first, second] = [node.worker(), node.worker()]
    for (let i = 0; i < 3; i++) first.dns.query('mesh', 'answered')
    first.dns.query('cache', 'nxdomain')
    second.dns.query('mesh', 'answered')
    second.dns.failure('timeout')
    first.dns.dropped(2, 1)
    second.dns.dropped(3, 0)
    node.registry.merge(1, first.collect())
    node.registry.merge(1, first.collect())
    node.registry.merge(2, second.collect())
    const scrape = await node.scrape()
    const counts = scrape
      .find('weft_dns_queries_total')
      .map(({ labels, value }) => `${labels['source']}/${labels['result']} ${value}`)
    assert.deepEqual(counts.sort(), ['cache/nxdomain 1', 'mesh/answered 4'])
    assert.equal(scrape.value('weft_dns_upstream_failures_total'), 1)
    assert.equal(scrape.find('weft_dns_upstream_failures_total')[0]!.labels['reason'], 'timeout')
    const dropped = scrape
      .find('weft_dns_dropped_datagrams_total')
      .map(({ labels, value }) => `${labels['direction']} ${value}`)
    assert.deepEqual(dropped.sort(), ['received 5', 'sent 1'])
  })

  test('counts breaches of the rules of HTTP by side and reason, over all workers, with a bound on reasons', async () => {
    const node = new Node()
    const [first, second] = [node.worker(), node.worker()]
    for (let i = 0; i < 3; i++) first.violation('downstream', 'rapid_reset')
    first.violation('upstream', 'bad_status_line')
    second.violation('downstream', 'rapid_reset')
    node.registry.merge(1, first.collect())
    node.registry.merge(1, first.collect())
    node.registry.merge(2, second.collect())
    for (let i = 0; i < 1000; i++) second.violation('upstream', `invented_${i}`)
    node.registry.merge(2, second.collect())
    const samples = (await node.scrape()).find('weft_http_violations_total')
    const countOf = (side: string, reason: string) =>
      samples.find(({ labels }) => labels['side'] === side && labels['reason'] === reason)?.value
    assert.equal(countOf('downstream', 'rapid_reset'), 4)
    assert.equal(countOf('upstream', 'bad_status_line'), 1)
    assert.equal(countOf('upstream', 'other'), 744)
    assert.ok(samples.length < 300)
  })

  test('escapes label values', async () => {
    const node = new Node()
    const worker = node.worker()
    const strange = 'a"b\\c\nd,e="f"}'
    worker
      .edge({ ...EDGE, source: workloadOf('x', { workloadName: strange }) })
      .exchangeFinished(200, -1, FLAG_NONE, 1, 1, 1)
    node.registry.merge(1, worker.collect())
    const [sample] = (await node.scrape()).find('istio_requests_total')
    assert.equal(sample!.labels['source_workload'], strange)
    assert.equal(Object.keys(sample!.labels).length, HTTP_LABELS.length)
  })

  test('comes in pieces that are the whole together', async () => {
    const node = new Node()
    const worker = node.worker()
    for (let i = 0; i < 100; i++) {
      const key = { ...EDGE, service: null, destination: null, host: `host-${i}.example.org` }
      worker.edge(key).exchangeFinished(200, -1, FLAG_NONE, i, i, i)
    }
    node.registry.merge(1, worker.collect())
    let text = ''
    let pieces = 0
    for await (const piece of node.registry.chunks(IDLE)) {
      assert.ok(piece.length < 200_000, `a piece of ${piece.length} characters`)
      pieces++
      text += piece
    }
    assert.ok(pieces > 20)
    assert.equal(new PrometheusText(text).find('istio_request_bytes_bucket').length, 100 * (BUCKET_BOUNDS.length + 1))
  })

  test("shows the agent's own state, set whole at every scrape", async () => {
    const node = new Node()
    const state: AgentState = {
      enrolledPods: 3,
      outboundCaptured: 10,
      inboundCaptured: 20,
      bypassed: 1,
      silentWorkers: 2,
      podsNotCaptured: 8,
      captureRepairs: 9,
      absences: 3,
      absentSeconds: 4.5,
      mainStalls: 5,
      mainStalledSeconds: 6.5,
      refused: 2,
      openConnections: new Map([
        ['shop/reviews-1', 4],
        ['shop/gone', 1],
      ]),
      certificateExpiryMs: new Map([['spiffe://cluster.local/ns/shop/sa/reviews', node.nowMs + 60_000]]),
      configVersion: 7,
      configRejected: 1,
    }
    const first = await node.scrape(state)
    assert.equal(first.value('weft_enrolled_pods'), 3)
    assert.equal(first.value('weft_captured_connections_total', { direction: 'outbound' }), 10)
    assert.equal(first.value('weft_captured_connections_total', { direction: 'inbound' }), 20)
    assert.equal(first.value('weft_bypassed_connections_total'), 1)
    assert.equal(first.value('weft_refused_connections_total'), 2)
    assert.equal(first.value('weft_pods_not_captured'), 8)
    assert.equal(first.value('weft_capture_repairs_total'), 9)
    assert.equal(first.value('weft_agent_absences_total'), 3)
    assert.equal(first.value('weft_agent_absence_seconds_total'), 4.5)
    assert.equal(first.value('weft_main_thread_stalls_total'), 5)
    assert.equal(first.value('weft_main_thread_stalled_seconds_total'), 6.5)
    assert.equal(first.value('weft_open_connections', { pod: 'shop/reviews-1' }), 4)
    assert.equal(first.value('weft_certificate_expiry_seconds'), 60)
    assert.equal(first.value('weft_config_version'), 7)
    assert.equal(first.value('weft_config_rejected_total'), 1)
    assert.equal(first.value('istio_build', { component: 'weft', tag: '1.2.3' }), 1)
    assert.ok(first.value('process_resident_memory_bytes') > 0)
    const second = await node.scrape({
      ...state,
      outboundCaptured: 11,
      openConnections: new Map([['shop/reviews-1', 5]]),
    })
    assert.equal(second.value('weft_captured_connections_total', { direction: 'outbound' }), 11)
    assert.equal(second.value('weft_open_connections'), 5, 'the pod that is gone has no series')
    assert.match(node.registry.contentType, /^text\/plain; version=0\.0\.4/)
  })

  test('tells how many log lines were dropped', async () => {
    const node = new Node()
    const log = new AccessLog(() => false)
    const worker = new WorkerRecorder(log, node.now)
    assert.ok(worker.isLogging)
    log.write('x'.repeat(20_000))
    for (let i = 0; i < 100; i++) log.write('x'.repeat(20_000))
    node.registry.merge(1, worker.collect())
    assert.ok((await node.scrape()).value('weft_access_log_lines_dropped_total') > 0)
  })
})
