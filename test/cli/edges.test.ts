import assert from 'node:assert/strict'
import { test } from 'node:test'
import { edgesBetween, readingOf } from '../../src/cli/demo/edges.ts'
import { parseExposition } from '../../src/cli/demo/exposition.ts'

const LABELS =
  'source_workload="productpage",destination_workload="details",destination_service_name="details",request_protocol="http"'

function http(reporter: string, code: string, value: number, policy = 'mutual_tls'): string {
  const labels = `reporter="${reporter}",${LABELS},response_code="${code}",connection_security_policy="${policy}"`
  return `istio_requests_total{${labels}} ${value}`
}

function bucket(le: string, value: number): string {
  return `istio_request_duration_milliseconds_bucket{reporter="source",${LABELS},response_code="200",le="${le}"} ${value}`
}

function reading(...lines: readonly string[]) {
  return readingOf(parseExposition(lines.join('\n')))
}

const NONE = reading()

test('the text format is read with comments, escapes, infinities and time stamps', () => {
  const text = [
    '# HELP a Says "a".',
    '# TYPE a counter',
    'a 1',
    'b{x="1",y="a\\"b\\\\c\\nd,}"} 2.5e3 1700000000',
    'c_bucket{le="+Inf"} +Inf',
    'nonsense',
    'd{} 4',
    '',
  ].join('\n')
  assert.deepEqual(parseExposition(text), [
    { name: 'a', labels: {}, value: 1 },
    { name: 'b', labels: { x: '1', y: 'a"b\\c\nd,}' }, value: 2500 },
    { name: 'c_bucket', labels: { le: '+Inf' }, value: Number.POSITIVE_INFINITY },
    { name: 'd', labels: {}, value: 4 },
  ])
})

test('an edge is what the source reported between two readings', () => {
  const before = reading(http('source', '200', 100), bucket('5', 90), bucket('10', 100), bucket('+Inf', 100))
  const after = reading(
    http('source', '200', 190),
    http('source', '503', 8),
    http('source', '0', 2),
    http('source', '403', 5),
    http('destination', '200', 190),
    bucket('5', 140),
    bucket('10', 190),
    bucket('+Inf', 190),
  )
  assert.deepEqual(edgesBetween(before, after), [
    {
      source: 'productpage',
      destination: 'details',
      protocol: 'http',
      requests: 105,
      errors: 10,
      p50Ms: 4.5,
      p99Ms: 9.89,
      mutualTls: true,
    },
  ])
})

test('one plaintext series makes the edge plaintext', () => {
  const after = reading(http('source', '200', 10), http('source', '200', 1, 'none'))
  assert.equal(edgesBetween(NONE, after)[0]!.mutualTls, false)
})

test('callers without an agent are seen by the destination alone', () => {
  const line = http('destination', '200', 3, 'none').replace('productpage', 'outsider')
  assert.deepEqual(
    edgesBetween(NONE, reading(line)).map(({ source, requests, mutualTls }) => [source, requests, mutualTls]),
    [['outsider', 3, false]],
  )
})

test('TCP counts connections, and those that ended with a flag as errors', () => {
  const labels =
    'reporter="source",source_workload="client",destination_workload="tcp-echo",request_protocol="tcp",connection_security_policy="mutual_tls"'
  const edges = edgesBetween(
    NONE,
    reading(
      `istio_tcp_connections_opened_total{${labels},response_flags="-"} 12`,
      `istio_tcp_connections_closed_total{${labels},response_flags="-"} 10`,
      `istio_tcp_connections_closed_total{${labels},response_flags="UF"} 2`,
    ),
  )
  assert.deepEqual(
    edges.map(({ requests, errors, p50Ms, mutualTls }) => [requests, errors, p50Ms, mutualTls]),
    [[12, 2, null, true]],
  )
})

test('a request that reached no workload has the name of the service', () => {
  const line = http('source', '503', 1).replace('destination_workload="details"', 'destination_workload="unknown"')
  assert.equal(edgesBetween(NONE, reading(line))[0]!.destination, 'details')
})

test('edges without traffic since the first reading are left out', () => {
  const same = reading(http('source', '200', 5))
  assert.deepEqual(edgesBetween(same, same), [])
})
