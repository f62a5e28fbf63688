/**
 * The table of who may say what: every header, from every origin. What the proxies make of it end to end is in
 * test/direct/forwarding.test.ts.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ConstantFields } from '../../src/http/constant-fields.ts'
import { HeaderList } from '../../src/http/headers.ts'
import {
  cleanTrailers,
  FROM_MESH,
  FROM_OUTSIDE,
  leaveApp,
  prepareRetry,
  reachApp,
  tellRewrite,
  tellServiceTime,
  tellTimeout,
} from '../../src/proxy/forwarding-headers.ts'
import { RecordingServer } from '../support/h1-recorders.ts'
import { headerPairs } from '../support/proxy-objects.ts'

const PASSES = true
const ENDS = false

/** Whether the header goes on: from a local app, from the mesh, from outside. */
const TABLE: readonly (readonly [name: string, fromApp: boolean, fromMesh: boolean, fromOutside: boolean])[] = [
  // --- the caller's identity, and what nobody may claim ---
  ['x-forwarded-client-cert', ENDS, ENDS, ENDS],
  ['x-envoy-internal', ENDS, ENDS, ENDS],
  // --- what the client's proxy says ---
  ['x-envoy-attempt-count', ENDS, PASSES, ENDS],
  ['x-envoy-expected-rq-timeout-ms', ENDS, PASSES, ENDS],
  ['x-envoy-original-path', ENDS, PASSES, ENDS],
  ['x-envoy-original-host', ENDS, PASSES, ENDS],
  ['x-envoy-is-timeout-retry', ENDS, PASSES, ENDS],
  // --- what an app asks of its own proxy: read by RequestOverrides, which takes it out ---
  ['x-envoy-upstream-rq-timeout-ms', PASSES, ENDS, ENDS],
  ['x-envoy-upstream-rq-per-try-timeout-ms', PASSES, ENDS, ENDS],
  ['x-envoy-max-retries', PASSES, ENDS, ENDS],
  ['x-envoy-retry-on', PASSES, ENDS, ENDS],
  ['x-envoy-retry-grpc-on', PASSES, ENDS, ENDS],
  ['x-envoy-retriable-status-codes', PASSES, ENDS, ENDS],
  // --- the same, but not done here ---
  ['x-envoy-retriable-header-names', ENDS, ENDS, ENDS],
  ['x-envoy-hedge-on-per-try-timeout', ENDS, ENDS, ENDS],
  ['x-envoy-upstream-rq-timeout-alt-response', ENDS, ENDS, ENDS],
  ['x-envoy-upstream-stream-duration-ms', ENDS, ENDS, ENDS],
  ['x-envoy-upstream-alt-stat-name', ENDS, ENDS, ENDS],
  ['x-envoy-force-trace', ENDS, ENDS, ENDS],
  ['x-envoy-ip-tags', ENDS, ENDS, ENDS],
  // --- nobody's business here ---
  ['x-request-id', PASSES, PASSES, PASSES],
  ['x-forwarded-proto', PASSES, PASSES, PASSES],
  ['x-forwarded-for', PASSES, PASSES, PASSES],
  ['x-forwarded-host', PASSES, PASSES, PASSES],
  ['x-forwarded-port', PASSES, PASSES, PASSES],
  ['x-forwarded-prefix', PASSES, PASSES, PASSES],
  ['x-real-ip', PASSES, PASSES, PASSES],
  ['x-envoy-external-address', PASSES, PASSES, PASSES],
  ['x-envoy-decorator-operation', PASSES, PASSES, PASSES],
  ['x-envoy-peer-metadata', PASSES, PASSES, PASSES],
  ['forwarded', PASSES, PASSES, PASSES],
  ['via', PASSES, PASSES, PASSES],
  ['traceparent', PASSES, PASSES, PASSES],
  ['tracestate', PASSES, PASSES, PASSES],
  ['baggage', PASSES, PASSES, PASSES],
  ['b3', PASSES, PASSES, PASSES],
  ['x-b3-traceid', PASSES, PASSES, PASSES],
  ['x-b3-spanid', PASSES, PASSES, PASSES],
  ['x-b3-parentspanid', PASSES, PASSES, PASSES],
  ['x-b3-sampled', PASSES, PASSES, PASSES],
  ['x-b3-flags', PASSES, PASSES, PASSES],
  ['x-cloud-trace-context', PASSES, PASSES, PASSES],
  ['x-datadog-trace-id', PASSES, PASSES, PASSES],
  ['x-amzn-trace-id', PASSES, PASSES, PASSES],
  ['x-ot-span-context', PASSES, PASSES, PASSES],
  ['grpc-trace-bin', PASSES, PASSES, PASSES],
  ['proxy-authorization', PASSES, PASSES, PASSES],
  ['authorization', PASSES, PASSES, PASSES],
  ['server', PASSES, PASSES, PASSES],
  ['x-envoy', PASSES, PASSES, PASSES],
  ['x-envoy-', PASSES, PASSES, PASSES],
  ['x-', PASSES, PASSES, PASSES],
  ['x-forwarded-client-cer', PASSES, PASSES, PASSES],
  ['x-forwarded-client-certs', PASSES, PASSES, PASSES],
]

const random = (): number => 0.5

/** A list as each HTTP version makes it: bytes of the wire, and texts. */
const MAKERS: readonly (readonly [version: string, (pairs: readonly [string, string][]) => HeaderList])[] = [
  [
    'HTTP/1',
    (pairs) => {
      const server = new RecordingServer()
      server.receive(
        `GET / HTTP/1.1\r\nHost: h\r\n${pairs.map(([name, value]) => `${name}: ${value}\r\n`).join('')}\r\n`,
      )
      return server.last.head.headers
    },
  ],
  ['HTTP/2', (pairs) => HeaderList.fromFields(pairs.flat())],
]

for (const [version, listOf] of MAKERS) {
  for (const [name, fromApp, fromMesh, fromOutside] of TABLE) {
    test(`${name} of ${version}: app ${word(fromApp)}, mesh ${word(fromMesh)}, outside ${word(fromOutside)}`, () => {
      const given = (): HeaderList =>
        listOf([
          ['accept', 'a'],
          [name, 'theirs'],
          ['x-other', 'o'],
          [name, 'again'],
        ])
      const expected = (passes: boolean): string | null => (passes ? 'theirs, again' : null)

      const app = given()
      leaveApp(app, random)
      // The proxy has put its own number in the place of theirs.
      const own = name === 'x-envoy-attempt-count' ? '1' : expected(fromApp)
      assert.equal(app.getJoined(name), own)

      const mesh = given()
      reachApp(mesh, FROM_MESH, null, random)
      assert.equal(mesh.getJoined(name), expected(fromMesh))

      const outside = given()
      reachApp(outside, FROM_OUTSIDE, null, random)
      assert.equal(outside.getJoined(name), expected(fromOutside))

      for (const list of [app, mesh, outside]) {
        assert.equal(list.get('accept'), 'a')
        assert.equal(list.get('x-other'), 'o')
      }
    })
  }

  test(`everything that ends is gone from a list of nothing else, of ${version}`, () => {
    const names = TABLE.filter(([, fromApp, fromMesh]) => !fromApp && !fromMesh).map(([name]) => name)
    const list = listOf(names.map((name): [string, string] => [name, 'forged']))
    reachApp(list, FROM_MESH, null, random)
    assert.deepEqual(
      headerPairs(list).map(([name]) => name),
      ['x-request-id', 'x-forwarded-proto'],
    )
  })
}

function word(passes: boolean): string {
  return passes ? 'passes' : 'ends'
}

test('a request that leaves an app gets an id, its protocol and the number of the try, and keeps what it has', () => {
  const bare = new HeaderList()
  assert.equal(leaveApp(bare, random), false)
  assert.deepEqual(headerPairs(bare), [
    ['x-request-id', '80000000-8000-4000-8000-000080000000'],
    ['x-forwarded-proto', 'http'],
    ['x-envoy-attempt-count', '1'],
  ])
  const full = HeaderList.of([
    ['x-request-id', 'mine'],
    ['x-forwarded-proto', 'https'],
  ])
  leaveApp(full, random)
  assert.deepEqual(headerPairs(full), [
    ['x-request-id', 'mine'],
    ['x-forwarded-proto', 'https'],
    ['x-envoy-attempt-count', '1'],
  ])
})

test('an override is noticed, whatever stands around it', () => {
  for (const [name, fromApp, fromMesh] of TABLE) {
    const list = HeaderList.of([
      ['x-a', '1'],
      [name, '7'],
      ['x-forwarded-client-cert', 'forged'],
    ])
    assert.equal(leaveApp(list, random), fromApp && !fromMesh, name)
  }
})

test('a request that reaches an app gets the identity of its caller, and what nobody has said before', () => {
  const list = HeaderList.of([['x-forwarded-client-cert', 'By=forged']])
  reachApp(list, FROM_MESH, new ConstantFields(['x-forwarded-client-cert', 'By=a;URI=b']), random)
  assert.deepEqual(headerPairs(list), [
    ['x-request-id', '80000000-8000-4000-8000-000080000000'],
    ['x-forwarded-proto', 'http'],
    ['x-forwarded-client-cert', 'By=a;URI=b'],
  ])
})

test('another try is numbered, unless a rule has taken the number out, and forgets on which way the first one went', () => {
  const list = new HeaderList()
  leaveApp(list, random)
  list.appendConstant(new ConstantFields(['x-forwarded-client-cert', 'By=a;URI=b']))
  prepareRetry(list, 2)
  assert.equal(list.getJoined('x-envoy-attempt-count'), '2')
  assert.equal(list.has('x-forwarded-client-cert'), false)
  list.remove('x-envoy-attempt-count')
  prepareRetry(list, 3)
  assert.equal(list.has('x-envoy-attempt-count'), false)
})

test('the server is told the shortest time-out that there is', () => {
  const told = (timeoutMs: number, tryTimeoutMs: number): string | null => {
    const list = new HeaderList()
    tellTimeout(list, timeoutMs, tryTimeoutMs)
    return list.get('x-envoy-expected-rq-timeout-ms')
  }
  assert.equal(told(0, 0), null)
  assert.equal(told(1000, 0), '1000')
  assert.equal(told(1000, 300), '300')
  assert.equal(told(0, 300), '300')
})

test('the server is told what was asked for before a rule changed it', () => {
  const list = new HeaderList()
  tellRewrite(list, null, null)
  assert.equal(list.length, 0)
  tellRewrite(list, '/a?b', 'shop')
  assert.deepEqual(headerPairs(list), [
    ['x-envoy-original-path', '/a?b'],
    ['x-envoy-original-host', 'shop'],
  ])
})

test('the client is told how long the answer took, in the place of what the upstream says', () => {
  for (const [timeMs, text] of [
    [0, '0'],
    [-1, '0'],
    [99, '99'],
    [100, '100'],
    [12_345, '12345'],
  ] as const) {
    const list = HeaderList.of([['x-envoy-upstream-service-time', 'theirs']])
    tellServiceTime(list, timeMs)
    assert.equal(list.getJoined('x-envoy-upstream-service-time'), text)
  }
})

test('trailers cannot say what headers must not', () => {
  const list = HeaderList.of([
    ['x-forwarded-client-cert', 'forged'],
    ['x-forwarded-for', '1.2.3.4'],
    ['grpc-status', '0'],
    ['x-envoy-internal', 'true'],
    ['authorization', 'forged'],
    ['x-checksum', '7'],
    ['cookie', 'forged'],
    ['x-envoy-external-address', '1.2.3.4'],
    ['x-metadata-bin', 'AAE='],
  ])
  cleanTrailers(list)
  assert.deepEqual(headerPairs(list), [
    ['grpc-status', '0'],
    ['x-checksum', '7'],
    ['x-metadata-bin', 'AAE='],
  ])
})
