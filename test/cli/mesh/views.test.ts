import assert from 'node:assert/strict'
import { test } from 'node:test'
import { UsageError } from '../../../src/base/flags.ts'
import { accessText, isAbout, parseAccessLine } from '../../../src/cli/mesh/access-lines.ts'
import type { ConfigDump, ConnectionAnswer } from '../../../src/cli/mesh/answers.ts'
import { splitPodName } from '../../../src/cli/mesh/find-pod.ts'
import { LiveView } from '../../../src/cli/mesh/live-view.ts'
import { certificatesView, identityIn, proxyView, spanText } from '../../../src/cli/mesh/proxy-views.ts'

const WEB = {
  uid: 'c//Pod/shop/web-1',
  name: 'web-1',
  namespace: 'shop',
  addresses: ['10.0.0.1'],
  node: 'n1',
  trustDomain: 'cluster.local',
  serviceAccount: 'web',
  tunnelProtocol: 1,
  isHealthy: true,
  services: [{ service: 'shop/web.shop.svc.cluster.local', ports: [{ servicePort: 80, targetPort: 8080 }] }],
  policies: ['shop/for-web'],
}

const ROUTE = {
  source: 'shop/reviews',
  name: '',
  matches: [{ path: { kind: 'prefix', value: '/v2' }, method: null, authority: null, headers: [], query: [] }],
  clusters: [
    { cluster: 'a', weight: 90 },
    { cluster: 'b', weight: 10 },
  ],
  redirect: null,
  directResponse: null,
}

const DUMP = {
  workloads: [WEB, { ...WEB, uid: 'c//Pod/blog/web-1', namespace: 'blog', isHealthy: false, services: [] }],
  services: [],
  policies: [
    { key: 'istio-system/all', namespace: 'istio-system', scope: 0, action: 1, rules: [], isDryRun: false },
    { key: 'shop/space', namespace: 'shop', scope: 1, action: 0, rules: [{}], isDryRun: true },
    { key: 'blog/space', namespace: 'blog', scope: 1, action: 0, rules: [], isDryRun: false },
    { key: 'shop/for-web', namespace: 'shop', scope: 2, action: 0, rules: [], isDryRun: false },
    { key: 'shop/for-cart', namespace: 'shop', scope: 2, action: 0, rules: [], isDryRun: false },
  ],
  traffic: [
    { scope: 's1', service: 'shop/reviews', port: 80, routes: [ROUTE], clusters: [] },
    { scope: 's2', service: 'shop/other', port: 80, routes: [ROUTE], clusters: [] },
  ],
  pods: [{ uid: WEB.uid, scope: 's1' }],
} as unknown as ConfigDump

const VIEWER = { namespace: 'shop', name: 'web-1' }

test('routes are those of the scope of the pod, and of all scopes for a node', () => {
  assert.deepEqual(proxyView('routes', DUMP, VIEWER)!.rows.slice(1), [
    ['shop/reviews:80', 'shop/reviews', '/v2*', 'a 90, b 10'],
  ])
  assert.equal(proxyView('routes', DUMP, null)!.rows.length, 3)
})

test('policies are those that hold for the pod: of the mesh, of its namespace, and its own', () => {
  const rows = proxyView('policies', DUMP, VIEWER)!.rows.slice(1)
  assert.deepEqual(rows, [
    ['istio-system/all', 'DENY', 'mesh', '0', '-'],
    ['shop/space', 'ALLOW', 'namespace', '1', 'yes'],
    ['shop/for-web', 'ALLOW', 'workload', '0', '-'],
  ])
})

test('endpoints name pod, address, ports and health', () => {
  const [, row] = proxyView('endpoints', DUMP, null)!.rows
  assert.deepEqual(row, [
    'shop/web.shop.svc.cluster.local',
    'shop/web-1',
    '10.0.0.1',
    '80>8080',
    'n1',
    'ready',
    'HBONE',
  ])
})

test('a pod that is not captured on the node has no view', () => {
  assert.equal(proxyView('routes', DUMP, { namespace: 'blog', name: 'web-1' }), null)
  assert.equal(proxyView('routes', DUMP, { namespace: 'shop', name: 'none' }), null)
})

test('certificates are those of the identity of the pod', () => {
  const identity = identityIn(DUMP, VIEWER)!
  assert.equal(identity, 'spiffe://cluster.local/ns/shop/sa/web')
  const own = { identity, serial: '1', notBeforeMs: 0, notAfterMs: 3_600_000, renewAtMs: 1_800_000, lastError: null }
  const { rows } = certificatesView([own, { ...own, identity: 'spiffe://other' }], identity, 600_000)
  assert.deepEqual(rows.slice(1), [[identity, '1', '10m', '1970-01-01T01:00:00.000Z', '20m', '-']])
})

test('times are told in the unit that fits', () => {
  assert.deepEqual([1500, 90_000, 600_000, 7_200_000, 864_000_000, -90_000].map(spanText), [
    '2s',
    '90s',
    '10m',
    '2h',
    '10d',
    '-90s',
  ])
})

test('pods are named with or without their namespace', () => {
  assert.deepEqual(splitPodName('web', 'shop'), { namespace: 'shop', name: 'web' })
  assert.deepEqual(splitPodName('blog/web', 'shop'), { namespace: 'blog', name: 'web' })
  for (const text of ['', '/web', 'a/', 'a/b/c']) assert.throws(() => splitPodName(text, 'shop'), UsageError, text)
})

const LINE = JSON.stringify({
  start_time: '2026-01-01T00:00:00.000Z',
  duration: 3,
  reporter: 'source',
  protocol: 'HTTP/1.1',
  method: 'GET',
  path: '/x',
  authority: 'reviews:80',
  response_code: 503,
  response_flags: 'UF',
  details: 'refused',
  bytes_received: 1,
  bytes_sent: 2,
  downstream_remote_address: '10.0.0.1:4711',
  upstream_host: '[fd00::2]:8080',
  source_workload: 'web',
  source_namespace: 'shop',
  destination_workload: 'reviews',
  destination_namespace: 'shop',
  destination_service: 'reviews.shop.svc.cluster.local',
  mutual_tls: true,
})

test('a line of the access log is about the pod at either end, and other lines are none', () => {
  const line = parseAccessLine(LINE)!
  assert.equal(isAbout(line, ['10.0.0.1']), true)
  assert.equal(isAbout(line, ['fd00::2']), true)
  assert.equal(isAbout(line, ['10.0.0.11']), false)
  assert.equal(parseAccessLine('{"level":"info"}'), null)
  assert.equal(parseAccessLine(LINE.slice(0, 50)), null)
  assert.equal(
    accessText(line),
    '2026-01-01T00:00:00.000Z source shop/web > reviews.shop.svc.cluster.local GET reviews:80/x 503 3ms UF (refused) mTLS',
  )
})

function connection(more: Partial<ConnectionAnswer>): ConnectionAnswer {
  return {
    worker: 1,
    direction: 'outbound',
    protocol: 'tcp',
    pod: 'c//Pod/shop/web-1',
    downstream: '10.0.0.1:1',
    originalDestination: '10.9.0.1:80',
    upstream: '10.0.0.2:8080',
    peer: '',
    ageMs: 10,
    receivedBytes: 0,
    sentBytes: 0,
    ...more,
  }
}

test('between two looks connections open, carry bytes, and close; those of other pods are not shown', () => {
  const view = new LiveView('shop/web-1')
  const events = (...connections: ConnectionAnswer[]): string[] =>
    view.look(connections).map(({ event, receivedBytes, sentBytes }) => `${event} ${receivedBytes}/${sentBytes}`)
  assert.deepEqual(events(connection({ sentBytes: 5 }), connection({ pod: 'c//Pod/shop/web-11' })), ['open 0/5'])
  assert.deepEqual(events(connection({ sentBytes: 5, ageMs: 20 })), [])
  assert.deepEqual(events(connection({ sentBytes: 9, receivedBytes: 2, ageMs: 30 })), ['progress 2/4'])
  // The same ends, and younger: another connection.
  assert.deepEqual(events(connection({ sentBytes: 1, ageMs: 1 })), ['open 0/1'])
  assert.deepEqual(events(), ['closed 0/0'])
})
