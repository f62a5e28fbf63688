/** The access log: its lines, and a writer that cannot be made to hold more than it says. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { FLAG_DENIED, FLAG_NONE } from '../../src/base/errors.ts'
import { AccessLog, formatAccessRecord, LOG_BUFFER_BYTES_MAX } from '../../src/telemetry/access-log.ts'
import type { AccessRecord } from '../../src/telemetry/recorder.ts'
import { WorkerRecorder } from '../../src/telemetry/worker-recorder.ts'
import { SERVICE, workloadOf } from '../support/proxy-objects.ts'

const RECORD: AccessRecord = {
  startedAtMs: Date.parse('2030-01-02T03:04:05.678Z'),
  durationMs: 12,
  edge: {
    reporter: 'destination',
    protocol: 'http',
    source: workloadOf('productpage-1', { workloadName: 'productpage' }),
    destination: workloadOf('reviews-1'),
    service: SERVICE,
    host: 'reviews',
    isMutualTls: true,
    sourcePrincipal: 'spiffe://cluster.local/ns/shop/sa/bookinfo',
    destinationPrincipal: 'spiffe://cluster.local/ns/shop/sa/reviews',
  },
  flag: FLAG_NONE,
  details: '',
  downstream: '198.18.1.1:40000',
  upstream: '198.18.1.2:9080',
  receivedBytes: 100,
  sentBytes: 2_000,
  http: {
    method: 'GET',
    path: '/reviews/0?a="b"\n',
    authority: 'reviews:9080',
    protocol: 'HTTP/1.1',
    status: 200,
    grpcStatus: -1,
    route: 'shop/reviews',
    requestId: 'abc',
  },
}

describe('a line', () => {
  test('has the status of a gRPC call, and of nothing else', () => {
    const of = (grpcStatus: number): unknown =>
      JSON.parse(formatAccessRecord({ ...RECORD, http: { ...RECORD.http!, grpcStatus } })).grpc_status
    assert.equal(of(14), 14)
    assert.equal(of(0), 0)
    assert.equal(of(-1), undefined)
  })

  test('is one JSON object with the fields of an exchange', () => {
    const line = formatAccessRecord(RECORD)
    assert.ok(!line.includes('\n'))
    assert.deepEqual(JSON.parse(line), {
      start_time: '2030-01-02T03:04:05.678Z',
      duration: 12,
      reporter: 'destination',
      protocol: 'HTTP/1.1',
      method: 'GET',
      path: '/reviews/0?a="b"\n',
      authority: 'reviews:9080',
      response_code: 200,
      route_name: 'shop/reviews',
      request_id: 'abc',
      response_flags: '-',
      details: '',
      bytes_received: 100,
      bytes_sent: 2_000,
      downstream_remote_address: '198.18.1.1:40000',
      upstream_host: '198.18.1.2:9080',
      source_workload: 'productpage',
      source_namespace: 'shop',
      source_principal: 'spiffe://cluster.local/ns/shop/sa/bookinfo',
      destination_workload: 'reviews',
      destination_namespace: 'shop',
      destination_principal: 'spiffe://cluster.local/ns/shop/sa/reviews',
      destination_service: SERVICE.hostname,
      mutual_tls: true,
    })
  })

  test('of a TCP connection has no HTTP fields, and says why it was refused', () => {
    const edge = { ...RECORD.edge, source: null, service: null, host: '', sourcePrincipal: null }
    const line = JSON.parse(
      formatAccessRecord({ ...RECORD, edge, http: null, flag: FLAG_DENIED, details: 'policy shop/deny' }),
    )
    assert.equal(line.protocol, 'TCP')
    assert.equal(line.response_flags, 'UAEX')
    assert.equal(line.details, 'policy shop/deny')
    assert.equal(line.source_workload, null)
    assert.equal(line.destination_service, null)
    assert.ok(!('method' in line) && !('response_code' in line))
  })

  test('reaches the sink through the recorder, and only when there is a log', () => {
    const written: string[] = []
    const log = new AccessLog((text) => written.push(text))
    new WorkerRecorder(log).log(RECORD)
    log.flush()
    assert.equal(written.length, 1)
    assert.equal(JSON.parse(written[0]!).request_id, 'abc')
    const silent = new WorkerRecorder(null)
    assert.equal(silent.isLogging, false)
    silent.log(RECORD)
    assert.equal(written.length, 1)
  })
})

describe('the writer', () => {
  test('gathers lines into one write', () => {
    const written: string[] = []
    const log = new AccessLog((text) => {
      written.push(text)
      return true
    })
    log.write('one')
    log.write('two')
    assert.deepEqual(written, [])
    log.flush()
    log.flush()
    assert.deepEqual(written, ['one\ntwo\n'])
  })

  test('writes by itself after a moment, and at once when much is gathered', async () => {
    const { promise, resolve } = deferred()
    const log = new AccessLog(resolve)
    const keepAlive = setInterval(() => {}, 1_000)
    log.write('late')
    assert.equal(await promise, 'late\n')
    clearInterval(keepAlive)
    const written: string[] = []
    const busy = new AccessLog((text) => written.push(text))
    for (let i = 0; i < 100; i++) busy.write('x'.repeat(1_000))
    assert.ok(written.length >= 5)
    busy.flush()
  })

  test('holds back while the sink is full, drops beyond its bound, and counts what it drops', () => {
    const written: string[] = []
    const log = new AccessLog((text) => {
      written.push(text)
      return false
    })
    log.write('x'.repeat(20_000))
    assert.equal(written.length, 1)
    const line = 'y'.repeat(999)
    const fitting = Math.floor(LOG_BUFFER_BYTES_MAX / 1_000)
    for (let i = 0; i < fitting + 50; i++) log.write(line)
    log.flush()
    assert.equal(written.length, 1, 'nothing more until resume')
    assert.equal(log.takeDroppedCount(), 50)
    assert.equal(log.takeDroppedCount(), 0)
    log.resume()
    assert.equal(written.length, 2)
    assert.equal(written[1]!.length, fitting * 1_000)
  })
})

function deferred(): { promise: Promise<string>; resolve: (text: string) => void } {
  let resolve: (text: string) => void = () => {}
  const promise = new Promise<string>((settle) => {
    resolve = settle
  })
  return { promise, resolve }
}
