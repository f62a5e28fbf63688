/**
 * What an app sees of a request, field by field, in every combination of versions: through one proxy (one hop), through
 * two (a tunnel), and in plaintext from outside of the mesh.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import type * as http2 from 'node:http2'
import { connect, type Socket } from 'node:net'
import { after, afterEach, before, describe, test } from 'node:test'
import { DEFAULT_RETRY, type Route } from '../../src/model/route.ts'
import {
  type Cluster,
  clusterKey,
  DEFAULT_POOL_LIMITS,
  PROTOCOL_HTTP1,
  PROTOCOL_HTTP2,
  PROTOCOL_TCP,
  type Service,
} from '../../src/model/service.ts'
import { HeadOrigin, SeenHead } from '../support/head-origin.ts'
import { connectFrom, Http2Call } from '../support/http2-call.ts'
import { TestMesh, type TestPod, type TestPort } from '../support/mesh.ts'
import { clusterOf, destination, routeOf } from '../support/proxy-objects.ts'

const PORT_BY_ORIGIN = { h1: 8180, h2: 8181 } as const
const VERSIONS = ['h1', 'h2'] as const
type Version = (typeof VERSIONS)[number]
type Fields = readonly (readonly [name: string, value: string])[]

let mesh: TestMesh
let client: TestPod
let outsider: TestPod
const targets: TestPod[] = []
const services: Service[] = []
const origins: HeadOrigin[] = []
/** A service of both pods. */
const BOTH_PORT = 8182
let both: Service
const bothOrigins: HeadOrigin[] = []
const sockets: Socket[] = []
const sessions: http2.ClientHttp2Session[] = []

before(async () => {
  mesh = new TestMesh(2)
  client = await mesh.pod('client', { node: 0, serviceAccount: 'front' })
  outsider = await mesh.pod('outsider', { node: 0, isEnrolled: false })
  for (const [index, name] of ['local', 'remote'].entries()) {
    const pod = await mesh.pod(name, { node: index })
    targets.push(pod)
    services.push(
      await mesh.service(
        name,
        [
          { number: PORT_BY_ORIGIN.h1, targetPort: PORT_BY_ORIGIN.h1, protocol: PROTOCOL_HTTP1 },
          { number: PORT_BY_ORIGIN.h2, targetPort: PORT_BY_ORIGIN.h2, protocol: PROTOCOL_HTTP2 },
        ],
        [pod],
      ),
    )
    for (const version of VERSIONS) {
      origins.push(await HeadOrigin.listen(pod.appAddress, PORT_BY_ORIGIN[version], version === 'h2'))
    }
    bothOrigins.push(await HeadOrigin.listen(pod.appAddress, BOTH_PORT, false))
  }
  const port: TestPort = { number: BOTH_PORT, targetPort: BOTH_PORT, protocol: PROTOCOL_HTTP1 }
  both = await mesh.service('both', [port], targets)
})

afterEach(() => {
  for (const origin of origins) origin.reset()
  for (const socket of sockets.splice(0)) socket.destroy()
  for (const session of sessions.splice(0)) session.destroy()
  for (const [index] of services.entries()) for (const version of VERSIONS) rules(index, version, [])
})

after(() => {
  mesh.close()
  for (const origin of [...origins, ...bothOrigins]) origin.close()
})

function originOf(index: number, version: Version): HeadOrigin {
  return origins[index * 2 + VERSIONS.indexOf(version)]!
}

/** Rules of a service's port, all to its default cluster. */
function rules(
  index: number,
  version: Version,
  routes: readonly Partial<Route>[],
  fields: Partial<Cluster> = {},
): void {
  const service = services[index]!
  const port = PORT_BY_ORIGIN[version]
  const key = clusterKey(service.key, '', port)
  mesh.traffic(service, port, {
    routes: routes.map((one) => routeOf({ source: 'default/rule', clusters: [destination(key)], ...one })),
    clusters: [clusterOf({ key, service: service.key, port, ...fields })],
    defaultCluster: key,
  })
}

interface Answer {
  readonly status: number
  readonly fields: Fields
  readonly head: SeenHead
}

/** One request; `fields` after the authority, in order. */
async function ask(from: Version, index: number, to: Version, fields: Fields, target = '/'): Promise<Answer> {
  return await send(from, mesh.vip(services[index]!, 0), PORT_BY_ORIGIN[to], client.address, fields, target)
}

/** The same from outside of the mesh, in plaintext, to the pod itself. */
async function askFromOutside(from: Version, index: number, to: Version, fields: Fields): Promise<Answer> {
  return await send(from, targets[index]!.address, PORT_BY_ORIGIN[to], outsider.address, fields, '/')
}

async function send(
  version: Version,
  host: string,
  port: number,
  localAddress: string,
  fields: Fields,
  target: string,
): Promise<Answer> {
  if (version === 'h2') return await sendHttp2(host, port, localAddress, fields, target)
  const socket = connect({ host, port, localAddress })
  sockets.push(socket)
  socket.setEncoding('latin1')
  const lines = fields.map(([name, value]) => `${name}: ${value}\r\n`).join('')
  const hostLine = fields.some(([name]) => name.toLowerCase() === 'host') ? '' : 'host: shop.example:80\r\n'
  socket.write(`GET ${target} HTTP/1.1\r\n${hostLine}${lines}\r\n`, 'latin1')
  let text = ''
  for (;;) {
    const end = text.indexOf('\r\n\r\n')
    const length = /content-length: (\d+)/i.exec(text)
    if (end >= 0 && length !== null && text.length >= end + 4 + Number(length[1])) {
      const head = text.slice(0, end).split('\r\n')
      const pairs = head.slice(1).map((line): [string, string] => {
        const colon = line.indexOf(':')
        return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()]
      })
      return answerOf(Number(head[0]!.split(' ')[1]), pairs, text.slice(end + 4))
    }
    const [chunk] = (await once(socket, 'data')) as [string]
    text += chunk
  }
}

async function sendHttp2(
  host: string,
  port: number,
  localAddress: string,
  fields: Fields,
  target: string,
): Promise<Answer> {
  const session = connectFrom(localAddress, host, port)
  sessions.push(session)
  const raw = [':method', 'GET', ':scheme', 'http', ':authority', 'shop.example:80', ':path', target]
  for (const [name, value] of fields) raw.push(name, value)
  const headers: Record<string, string | string[]> = {}
  for (let i = 0; i < raw.length; i += 2) {
    const before = headers[raw[i]!]
    const value = raw[i + 1]!
    headers[raw[i]!] = before === undefined ? value : [before, value].flat()
  }
  const call = new Http2Call(session, headers)
  const head = await call.head
  const pairs = Object.entries(head)
    .filter(([name]) => !name.startsWith(':'))
    .map(([name, value]): [string, string] => [name, String(value)])
  return answerOf(head[':status']!, pairs, await call.text())
}

function answerOf(status: number, fields: Fields, body: string): Answer {
  return { status, fields, head: new SeenHead(body.startsWith('[') ? JSON.parse(body) : []) }
}

function fieldOf(answer: Answer, name: string): string | null {
  return new SeenHead(answer.fields).get(name)
}

const TRACES: Fields = [
  ['traceparent', '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01'],
  ['tracestate', 'congo=t61rcWkgMzE'],
  ['tracestate', 'rojo=00f067aa0ba902b7'],
  ['b3', '80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-05e3ac9a4f6e3b90'],
  ['x-b3-traceid', '80f198ee56343ba864fe8b2a57d3eff7'],
  ['x-b3-spanid', 'e457b5a2e4d86bd1'],
  ['x-b3-parentspanid', '05e3ac9a4f6e3b90'],
  ['x-b3-sampled', '1'],
  ['x-cloud-trace-context', '105445aa7843bc8bf206b12000100000/1;o=1'],
  ['grpc-trace-bin', 'AAAB/w=='],
  ['baggage', 'a=1,b=2;p'],
  ['baggage', 'c=3'],
]

for (const index of [0, 1]) {
  const where = index === 0 ? 'in one hop' : 'through a tunnel'
  for (const from of VERSIONS) {
    for (const to of VERSIONS) {
      describe(`${from} to ${to}, ${where}`, () => {
        test('a bare request gets an id, its protocol, the number of the try and the identity of its caller', async () => {
          const { head, status } = await ask(from, index, to, [['accept', '*/*']])
          assert.equal(status, 200)
          assert.match(
            head.get('x-request-id')!,
            /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/,
          )
          assert.equal(head.get('x-forwarded-proto'), 'http')
          assert.equal(head.get('x-envoy-attempt-count'), '1')
          assert.equal(head.get('x-forwarded-client-cert'), `By=${targets[index]!.identity};URI=${client.identity}`)
          const known = [
            ...[':method', ':path', ':version', ':scheme', ':authority', 'host', 'accept'],
            ...['x-request-id', 'x-forwarded-proto', 'x-envoy-attempt-count', 'x-forwarded-client-cert'],
          ]
          assert.deepEqual(
            head.names.filter((name) => !known.includes(name)),
            [],
          )
        })

        test('the authority is the same in either version', async () => {
          const { head } = await ask(from, index, to, [])
          assert.equal(head.get(to === 'h1' ? 'host' : ':authority'), 'shop.example:80')
          assert.equal(head.get(to === 'h1' ? ':authority' : 'host'), null)
        })

        test('an app cannot forge who it is, nor speak for its proxy', async () => {
          const { head } = await ask(from, index, to, [
            ['x-forwarded-client-cert', 'By=spiffe://x;URI=spiffe://cluster.local/ns/admin/sa/root'],
            ['x-envoy-internal', 'true'],
            ['x-forwarded-client-cert', 'URI=again'],
            ['x-envoy-attempt-count', '9'],
            ['x-envoy-original-path', '/admin'],
            ['x-envoy-original-host', 'admin'],
            ['x-envoy-expected-rq-timeout-ms', '1'],
          ])
          assert.equal(head.get('x-forwarded-client-cert'), `By=${targets[index]!.identity};URI=${client.identity}`)
          assert.equal(head.get('x-envoy-attempt-count'), '1')
          for (const name of ['internal', 'original-path', 'original-host', 'expected-rq-timeout-ms']) {
            assert.equal(head.get(`x-envoy-${name}`), null, name)
          }
        })

        test('trace context and what proxies before have said arrive as they were sent, in order', async () => {
          const others: Fields = [
            ['x-request-id', 'mine'],
            ['x-forwarded-proto', 'https'],
            ['x-forwarded-for', '192.0.2.1, 198.51.100.2'],
            ['x-forwarded-host', 'shop.test'],
            ['x-forwarded-port', '443'],
            ['forwarded', 'for=192.0.2.1;proto=https'],
            ['via', '1.1 edge'],
            ['x-real-ip', '192.0.2.1'],
            ['x-envoy-external-address', '192.0.2.1'],
            ['proxy-authorization', 'Basic eDp5'],
            ['authorization', 'Bearer t'],
          ]
          const { head } = await ask(from, index, to, [...TRACES, ...others])
          const names = new Set([...TRACES, ...others].map(([name]) => name))
          for (const name of names) {
            const sent = [...TRACES, ...others].filter(([one]) => one === name).map(([, value]) => value)
            assert.deepEqual(head.all(name), sent, name)
          }
          const order = head.names.filter((name) => names.has(name) && name.includes('trace'))
          assert.deepEqual(
            order,
            [...TRACES].map(([name]) => name).filter((name) => name.includes('trace')),
          )
        })

        test('the answer keeps its server, and tells how long it took', async () => {
          originOf(index, to).answerFields.push(
            ['server', 'app/1.0'],
            ['x-envoy-upstream-service-time', '99999'],
            ['via', '1.1 behind'],
          )
          const answer = await ask(from, index, to, [])
          assert.equal(fieldOf(answer, 'server'), 'app/1.0')
          assert.equal(fieldOf(answer, 'via'), '1.1 behind')
          assert.match(fieldOf(answer, 'x-envoy-upstream-service-time')!, /^\d{1,4}$/)
        })

        test('a time-out of its own app is obeyed, told to the server, and ends there', async () => {
          const seen = await ask(from, index, to, [['x-envoy-upstream-rq-timeout-ms', '60000']])
          assert.equal(seen.status, 200)
          assert.equal(seen.head.get('x-envoy-upstream-rq-timeout-ms'), null)
          assert.equal(seen.head.get('x-envoy-expected-rq-timeout-ms'), '60000')
          originOf(index, to).behave = () => 'hang'
          const late = await ask(from, index, to, [['x-envoy-upstream-rq-timeout-ms', '20']])
          assert.equal(late.status, 504)
        })

        test('retries that its own app asks for are made, and numbered', async () => {
          const origin = originOf(index, to)
          origin.behave = (head) => (head.get('x-envoy-attempt-count') === '3' ? 200 : 418)
          const answer = await ask(from, index, to, [
            ['x-envoy-retry-on', 'retriable-status-codes'],
            ['x-envoy-retriable-status-codes', '418'],
            ['x-envoy-max-retries', '2'],
          ])
          assert.equal(answer.status, 200)
          assert.deepEqual(
            origin.heads.map((head) => head.get('x-envoy-attempt-count')),
            ['1', '2', '3'],
          )
          for (const head of origin.heads) {
            assert.equal(head.get('x-forwarded-client-cert'), `By=${targets[index]!.identity};URI=${client.identity}`)
            assert.deepEqual(
              head.names.filter((name) => name.includes('retr')),
              [],
            )
          }
        })

        test('a rule that rewrites tells the server what was asked for, and changes both forms of the host', async () => {
          rules(index, to, [{ rewrite: { authority: 'inner.test', path: '/v2', regex: null } }])
          const { head } = await ask(from, index, to, [['x-envoy-original-path', '/forged']], '/old?q=1')
          assert.equal(head.get(':path'), '/v2old?q=1')
          assert.equal(head.get('x-envoy-original-path'), '/old?q=1')
          assert.equal(head.get(to === 'h1' ? 'host' : ':authority'), 'inner.test')
          assert.equal(head.get('x-envoy-original-host'), 'shop.example:80')
          assert.equal(head.get('x-forwarded-host'), null)
        })

        test('a rule can take out and replace what the proxy adds', async () => {
          const remove = ['x-envoy-attempt-count', 'x-forwarded-proto']
          const requestEdits = { set: [{ name: 'x-request-id', value: 'ours' }], add: [], remove }
          const responseEdits = { set: [], add: [], remove: ['x-envoy-upstream-service-time'] }
          rules(index, to, [{ requestEdits, responseEdits, timeoutMs: 30_000 }])
          const answer = await ask(from, index, to, [])
          assert.equal(answer.head.get('x-envoy-attempt-count'), null)
          assert.equal(answer.head.get('x-request-id'), 'ours')
          assert.equal(answer.head.get('x-envoy-expected-rq-timeout-ms'), '30000')
          // On the way into the pod the protocol is said again: the app of a tunnel is told by its own proxy.
          assert.equal(answer.head.get('x-forwarded-proto'), index === 0 ? null : 'http')
          assert.equal(fieldOf(answer, 'x-envoy-upstream-service-time'), null)
        })

        test('TE keeps nothing but trailers, and what concerns the connection ends with it', async () => {
          const own: Fields =
            from === 'h1'
              ? [
                  ['connection', 'x-mine, te'],
                  ['x-mine', '1'],
                  ['keep-alive', 'timeout=5'],
                  ['proxy-connection', 'keep-alive'],
                ]
              : []
          const { head } = await ask(from, index, to, [['te', 'trailers'], ['trailer', 'x-sum'], ...own])
          assert.equal(head.get('te'), 'trailers')
          assert.equal(head.get('trailer'), 'x-sum')
          assert.equal(head.get('connection'), to === 'h1' ? 'te' : null)
          for (const name of ['x-mine', 'keep-alive', 'proxy-connection']) assert.equal(head.get(name), null, name)
        })
      })
    }
  }

  describe(`of HTTP/1.1, ${where}`, () => {
    for (const to of VERSIONS) {
      test(`an absolute target wins over Host on the way to ${to}`, async () => {
        const { head } = await ask('h1', index, to, [['host', 'other']], 'http://real.test:81/x?y')
        assert.equal(head.get(':path'), '/x?y')
        assert.equal(head.get(to === 'h1' ? 'host' : ':authority'), 'real.test:81')
      })

      test(`a header that the client names in Connection is gone, but it cannot name credentials, to ${to}`, async () => {
        const { head } = await ask('h1', index, to, [
          ['connection', 'x-a, close'],
          ['x-a', '1'],
          ['authorization', 'Bearer t'],
        ])
        assert.equal(head.get('x-a'), null)
        assert.equal(head.get('authorization'), 'Bearer t')
        originOf(index, to).reset()
        for (const name of ['authorization', 'x-forwarded-client-cert', 'x-forwarded-for', 'x-request-id', 'cookie']) {
          const refused = await ask('h1', index, to, [
            ['connection', name],
            [name, '1'],
          ])
          assert.equal(refused.status, 400, name)
        }
        assert.equal(originOf(index, to).heads.length, 0)
      })
    }
  })

  describe(`trailers, ${where}`, () => {
    for (const to of VERSIONS) {
      test(`cannot say who the caller is, to ${to}`, async () => {
        const origin = originOf(index, to)
        const socket = connect({
          host: mesh.vip(services[index]!, 0),
          port: PORT_BY_ORIGIN[to],
          localAddress: client.address,
        })
        sockets.push(socket)
        socket.write('POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n')
        socket.write(
          'x-sum: 7\r\nx-forwarded-client-cert: URI=forged\r\nauthorization: forged\r\nx-m-bin: AAE=\r\n\r\n',
        )
        await once(socket, 'data')
        while (origin.trailers.length === 0) await new Promise(setImmediate)
        assert.deepEqual(origin.trailers, ['x-sum: 7\r\nx-m-bin: AAE='])
      })
    }
  })

  describe(`from outside, to the pod of the case ${where}`, () => {
    for (const from of VERSIONS) {
      for (const to of VERSIONS) {
        test(`nobody is vouched for, and nobody is obeyed: ${from} to ${to}`, async () => {
          const origin = originOf(index, to)
          const { head, status } = await askFromOutside(from, index, to, [
            ['x-forwarded-client-cert', `By=${targets[index]!.identity};URI=${client.identity}`],
            ['x-envoy-internal', 'true'],
            ['x-envoy-attempt-count', '4'],
            ['x-envoy-original-path', '/admin'],
            ['x-envoy-upstream-rq-timeout-ms', '1'],
            ['x-envoy-retry-on', '5xx'],
            ['x-envoy-max-retries', '9'],
            ['x-forwarded-for', '192.0.2.7'],
          ])
          assert.equal(status, 200)
          assert.equal(origin.heads.length, 1)
          assert.equal(head.get('x-forwarded-for'), '192.0.2.7')
          assert.equal(head.get('x-forwarded-proto'), 'http')
          assert.match(head.get('x-request-id')!, /^[0-9a-f-]{36}$/)
          const ours = head.names.filter((name) => name.startsWith('x-envoy-') || name === 'x-forwarded-client-cert')
          assert.deepEqual(ours, [])
        })
      }
    }

    test('a failure is not tried again because a stranger asks for it', async () => {
      const origin = originOf(index, 'h1')
      origin.behave = () => 503
      const answer = await askFromOutside('h1', index, 'h1', [
        ['x-envoy-retry-on', '5xx'],
        ['x-envoy-max-retries', '5'],
      ])
      assert.equal(answer.status, 503)
      assert.equal(origin.heads.length, 1)
    })
  })
}

test('a client whose own proxy knows nothing of HTTP can forge nothing either', async () => {
  const service = services[1]!
  const key = clusterKey(service.key, '', PORT_BY_ORIGIN.h1)
  mesh.traffic(service, PORT_BY_ORIGIN.h1, {
    routes: [],
    clusters: [clusterOf({ key, service: service.key, port: PORT_BY_ORIGIN.h1 })],
    defaultCluster: key,
    protocol: PROTOCOL_TCP,
  })
  const { head } = await ask('h1', 1, 'h1', [
    ['x-forwarded-client-cert', 'URI=spiffe://cluster.local/ns/admin/sa/root'],
    ['x-envoy-internal', 'true'],
    ['x-envoy-upstream-rq-timeout-ms', '1'],
  ])
  assert.equal(head.get('x-forwarded-client-cert'), `By=${targets[1]!.identity};URI=${client.identity}`)
  assert.match(head.get('x-request-id')!, /^[0-9a-f-]{36}$/)
  assert.deepEqual(
    head.names.filter((name) => name.startsWith('x-envoy-')),
    [],
  )
})

test('a mirrored request tells its app whose it is, not whose the real one is', async () => {
  const mirrorKey = clusterKey(services[1]!.key, '', PORT_BY_ORIGIN.h1)
  const key = clusterKey(services[0]!.key, '', PORT_BY_ORIGIN.h1)
  const service = services[0]!
  mesh.traffic(service, PORT_BY_ORIGIN.h1, {
    routes: [routeOf({ clusters: [destination(mirrorKey)], mirrors: [{ cluster: key, ppm: 1_000_000 }] })],
    clusters: [
      clusterOf({ key, service: service.key, port: PORT_BY_ORIGIN.h1 }),
      clusterOf({ key: mirrorKey, service: services[1]!.key, port: PORT_BY_ORIGIN.h1 }),
    ],
    defaultCluster: key,
  })
  const mirrored = originOf(0, 'h1')
  const arrived = new Promise<SeenHead>((resolve) => {
    mirrored.behave = (head) => {
      resolve(head)
      return 200
    }
  })
  const { head } = await ask('h1', 0, 'h1', [])
  assert.equal(head.get('x-forwarded-client-cert'), `By=${targets[1]!.identity};URI=${client.identity}`)
  const shadow = await arrived
  assert.equal(shadow.get('x-forwarded-client-cert'), `By=${targets[0]!.identity};URI=${client.identity}`)
})

test('another try, at a pod that is reached on the other way, tells that pod whose request it is', async () => {
  const key = clusterKey(both.key, '', BOTH_PORT)
  const retry = { ...DEFAULT_RETRY, attempts: 1, statuses: [418] }
  mesh.traffic(both, BOTH_PORT, {
    routes: [routeOf({ clusters: [destination(key)], retry })],
    clusters: [clusterOf({ key, service: both.key, port: BOTH_PORT })],
    defaultCluster: key,
  })
  // Two rounds, one beginning on each way.
  for (let round = 0; round < 2; round++) {
    let count = 0
    for (const origin of bothOrigins) {
      origin.reset()
      origin.behave = () => (count++ === 0 ? 418 : 200)
    }
    const { status } = await send('h1', mesh.vip(both, 0), BOTH_PORT, client.address, [], '/')
    assert.equal(status, 200)
    for (const [index, origin] of bothOrigins.entries()) {
      const certificates = origin.heads.map((head) => head.get('x-forwarded-client-cert'))
      assert.deepEqual(certificates, [`By=${targets[index]!.identity};URI=${client.identity}`])
    }
  }
})

test('a request that a fault rule has held up leaves its app once', async () => {
  const fault = { delayMs: 1, delayPpm: 1_000_000, abortStatus: 0, abortGrpcStatus: null, abortPpm: 0 }
  rules(0, 'h1', [{ fault, timeoutMs: 30_000 }])
  const { head } = await ask('h1', 0, 'h1', [['x-envoy-upstream-rq-timeout-ms', '40000']])
  assert.equal(head.get('x-envoy-attempt-count'), '1')
  assert.equal(head.get('x-forwarded-proto'), 'http')
  assert.equal(head.get('x-envoy-expected-rq-timeout-ms'), '40000')
})

test('a limit that is reached is told to the client', async () => {
  const limits = { ...DEFAULT_POOL_LIMITS, requestsMax: 1 }
  rules(0, 'h1', [{ retry: { ...DEFAULT_RETRY, attempts: 0 } }], { limits })
  const origin = originOf(0, 'h1')
  const arrived = new Promise<void>((resolve) => {
    origin.behave = () => {
      resolve()
      return 'hang'
    }
  })
  const first = ask('h1', 0, 'h1', [])
  first.catch(() => {})
  await arrived
  const second = await ask('h1', 0, 'h1', [])
  assert.equal(second.status, 503)
  assert.equal(fieldOf(second, 'x-envoy-overloaded'), 'true')
})
