import assert from 'node:assert/strict'
import { once } from 'node:events'
import { Agent, createServer, type IncomingMessage, type OutgoingHttpHeaders, request, type Server } from 'node:http'
import { after, before, test } from 'node:test'
import { ACTION_DENY, EMPTY_POLICY_MATCH, POLICY_SCOPE_WORKLOAD, type Policy } from '../../src/model/policy.ts'
import { DEFAULT_RETRY, type Route } from '../../src/model/route.ts'
import {
  BALANCE_ROUND_ROBIN,
  type Cluster,
  clusterKey,
  DEFAULT_POOL_LIMITS,
  PROTOCOL_HTTP1,
  type Service,
} from '../../src/model/service.ts'
import { TestMesh, type TestPod } from '../support/mesh.ts'
import { ANY_MATCH, destination } from '../support/proxy-objects.ts'

const PORT = 9080

let mesh: TestMesh
let client: TestPod
let service: Service
const versions = ['v1', 'v2', 'v3']
const pods: TestPod[] = []
const servers: Server[] = []
const agent = new Agent({ keepAlive: true, maxSockets: 4 })
/** Requests that each version has seen, newest last. */
const seen = new Map<string, IncomingMessage[]>(versions.map((version) => [version, []]))
/** What a version does instead of answering 200. */
const behaviour = new Map<string, (incoming: IncomingMessage) => 'reset' | 'hang' | number>()

before(async () => {
  mesh = new TestMesh(2)
  client = await mesh.pod('client', { node: 0 })
  for (const [index, version] of versions.entries()) {
    const pod = await mesh.pod(version, { node: index % 2, policies: [`default/deny-${version}`] })
    pods.push(pod)
    const server = createServer((incoming, outgoing) => {
      seen.get(version)!.push(incoming)
      const outcome = behaviour.get(version)?.(incoming) ?? 200
      if (outcome === 'reset') incoming.socket.resetAndDestroy()
      else if (outcome !== 'hang') {
        incoming.resume()
        outgoing.writeHead(outcome, { 'x-version': version })
        outgoing.end(version)
      }
    })
    server.listen(PORT, pod.appAddress)
    await once(server, 'listening')
    servers.push(server)
  }
  service = await mesh.service('reviews', [{ number: 9080, targetPort: PORT, protocol: PROTOCOL_HTTP1 }], pods)
})

after(() => {
  agent.destroy()
  mesh.close()
  for (const server of servers) {
    server.close()
    server.closeAllConnections()
  }
})

function subset(version: string, fields: Partial<Cluster> = {}): Cluster {
  return {
    key: clusterKey(service.key, version, PORT),
    service: service.key,
    subset: version,
    port: PORT,
    members: version === '' ? null : [pods[versions.indexOf(version)]!.uid],
    balance: BALANCE_ROUND_ROBIN,
    limits: DEFAULT_POOL_LIMITS,
    outlier: null,
    isMutualTls: true,
    ...fields,
  }
}

function route(fields: Partial<Route>): Route {
  return {
    source: 'default/reviews',
    name: '',
    matches: [],
    clusters: [],
    redirect: null,
    directResponse: null,
    rewrite: null,
    requestEdits: null,
    responseEdits: null,
    timeoutMs: 0,
    retry: { ...DEFAULT_RETRY, attempts: 0 },
    fault: null,
    mirrors: [],
    ...fields,
  }
}

function to(version: string, weight = 1): ReturnType<typeof destination> {
  return destination(clusterKey(service.key, version, PORT), weight)
}

function apply(routes: Route[], clusters: Cluster[] = ['', ...versions].map((version) => subset(version))): void {
  mesh.traffic(service, 9080, { routes, clusters, defaultCluster: clusterKey(service.key, '', PORT) })
  behaviour.clear()
  for (const list of seen.values()) list.length = 0
}

interface Reply {
  readonly status: number
  readonly headers: IncomingMessage['headers']
  readonly body: string
}

async function send(path = '/', headers: OutgoingHttpHeaders = {}, method = 'GET', body?: string): Promise<Reply> {
  const host = mesh.vip(service, 0)
  const outgoing = request({ host, port: 9080, localAddress: client.address, path, method, agent, headers })
  outgoing.end(body)
  const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
  const chunks: Buffer[] = []
  for await (const chunk of incoming) chunks.push(chunk as Buffer)
  return { status: incoming.statusCode!, headers: incoming.headers, body: Buffer.concat(chunks).toString() }
}

async function tally(count: number): Promise<Map<string, number>> {
  const counts = new Map<string, number>()
  for (let i = 0; i < count; i++) {
    const { body } = await send()
    counts.set(body, (counts.get(body) ?? 0) + 1)
  }
  return counts
}

test('without rules every endpoint takes its share', async () => {
  const counts = await tally(60)
  assert.deepEqual([...counts.keys()].sort(), versions)
})

test('without rules a request finds an endpoint that can be reached', async () => {
  servers[2]!.close()
  servers[2]!.closeAllConnections()
  try {
    const counts = await tally(30)
    assert.deepEqual([...counts.keys()].sort(), ['v1', 'v2'])
  } finally {
    servers[2]!.listen(PORT, pods[2]!.appAddress)
    await once(servers[2]!, 'listening')
  }
})

test('weights split the requests of connections that are open already', async () => {
  apply([route({ clusters: [to('v1', 80), to('v3', 20)] })])
  const counts = await tally(400)
  assert.equal(counts.get('v2'), undefined)
  // 3 sigma of a binomial with n = 400, p = 0.2 is 24.
  assert.ok(Math.abs(counts.get('v3')! - 80) <= 24, `${counts.get('v3')}`)
})

test('a header takes only its requests', async () => {
  const match = {
    ...ANY_MATCH,
    headers: [{ name: 'end-user', match: { kind: 'exact' as const, value: 'jason' }, isNegated: false }],
  }
  apply([route({ matches: [match], clusters: [to('v2')] }), route({ clusters: [to('v1')] })])
  assert.equal((await send('/', { 'end-user': 'jason' })).body, 'v2')
  assert.equal((await send('/', { 'end-user': 'other' })).body, 'v1')
  assert.equal((await send()).body, 'v1')
})

test('no rule that matches is 404, no such subset is 503', async () => {
  const match = { ...ANY_MATCH, path: { kind: 'exact' as const, value: '/here', ignoreCase: false } }
  apply([route({ matches: [match], clusters: [destination('nothing')] })])
  assert.equal((await send('/there')).status, 404)
  assert.equal((await send('/here')).status, 503)
  const flags = mesh.nodes[0]!.recorder.records.slice(-2).map(({ flag }) => flag)
  assert.deepEqual(flags, ['NR', 'NC'])
})

test('redirects, direct responses and rewrites', async () => {
  const prefix = (value: string): (typeof ANY_MATCH)[] => [
    { ...ANY_MATCH, path: { kind: 'prefix', value, ignoreCase: false } },
  ]
  const none = { path: null, prefixRewrite: null, authority: null, scheme: null, port: null, derivePort: null }
  apply([
    route({ matches: prefix('/old'), redirect: { ...none, status: 302, path: '/new' } }),
    route({ matches: prefix('/direct'), directResponse: { status: 418, body: 'short and stout' } }),
    route({
      matches: prefix('/api/'),
      clusters: [to('v1')],
      rewrite: { path: '/', authority: 'inner.example', regex: null },
      requestEdits: { set: [{ name: 'x-set', value: '1' }], add: [], remove: ['x-gone'] },
      responseEdits: { set: [{ name: 'x-edited', value: 'yes' }], add: [], remove: ['x-version'] },
    }),
  ])
  const redirect = await send('/old?x=1')
  assert.equal(redirect.status, 302)
  assert.match(redirect.headers.location!, /\/new/)
  assert.deepEqual(await send('/direct').then(({ status, body }) => [status, body]), [418, 'short and stout'])
  const reply = await send('/api/users?a=b', { 'x-gone': '1', 'x-kept': '2' })
  assert.equal(reply.headers['x-edited'], 'yes')
  assert.equal(reply.headers['x-version'], undefined)
  const request = seen.get('v1')!.at(-1)!
  assert.equal(request.url, '/users?a=b')
  assert.equal(request.headers.host, 'inner.example')
  assert.equal(request.headers['x-set'], '1')
  assert.equal(request.headers['x-gone'], undefined)
  assert.equal(request.headers['x-kept'], '2')
})

test('an injected abort never reaches the service, an injected delay comes before it', async () => {
  const fault = { delayMs: 0, delayPpm: 0, abortStatus: 0, abortGrpcStatus: null, abortPpm: 0 }
  apply([route({ clusters: [to('v1')], fault: { ...fault, abortStatus: 555, abortPpm: 1_000_000 } })])
  assert.equal((await send()).status, 555)
  assert.equal(seen.get('v1')!.length, 0)
  apply([route({ clusters: [to('v1')], fault: { ...fault, delayMs: 60, delayPpm: 1_000_000 } })])
  const startedAt = performance.now()
  assert.equal((await send()).body, 'v1')
  assert.ok(performance.now() - startedAt >= 60)
})

test('a failed try goes to another endpoint, with the body that was sent', async () => {
  apply([route({ clusters: [to('')], retry: { ...DEFAULT_RETRY, attempts: 3, on: ['5xx'] } })])
  behaviour.set('v1', () => 503)
  behaviour.set('v2', () => 'reset')
  for (let i = 0; i < 6; i++) {
    const reply = await send('/', { 'content-length': 4 }, 'POST', 'body')
    assert.deepEqual([reply.status, reply.body], [200, 'v3'])
  }
  assert.equal(seen.get('v3')!.length, 6)
})

test('without a rule to retry the failure is answered as it is', async () => {
  apply([route({ clusters: [to('v2')] })])
  behaviour.set('v2', () => 'reset')
  assert.equal((await send('/', { 'content-length': 0 }, 'POST')).status, 503)
  assert.equal(seen.get('v2')!.length, 1)
})

test('a kept-alive connection that the app drops costs an idempotent request one more try, on a fresh one', async () => {
  apply([route({ clusters: [to('v2')] })])
  await send()
  let drops = 1
  behaviour.set('v2', () => (drops-- > 0 ? 'reset' : 200))
  assert.equal((await send()).status, 200)
  behaviour.set('v2', () => 'reset')
  seen.get('v2')!.length = 0
  assert.equal((await send()).status, 503)
  assert.equal(seen.get('v2')!.length, 2)
})

test('a deadline ends an exchange that hangs', async () => {
  apply([route({ clusters: [to('v2')], timeoutMs: 50 })])
  behaviour.set('v2', () => 'hang')
  assert.equal((await send()).status, 504)
  assert.equal(mesh.nodes[0]!.recorder.records.findLast(({ http }) => http !== null)!.flag, 'UT')
})

test('a mirror gets a copy with its body, and its answer is thrown away', async () => {
  apply([route({ clusters: [to('v1')], mirrors: [{ cluster: clusterKey(service.key, 'v2', PORT), ppm: 1_000_000 }] })])
  const mirrored = once(servers[1]!, 'request') as Promise<[IncomingMessage]>
  behaviour.set('v2', () => 500)
  const reply = await send('/copied', { 'content-length': 5 }, 'POST', 'hello')
  assert.equal(reply.body, 'v1')
  const [copy] = await mirrored
  assert.equal(copy.url, '/copied')
  assert.equal(copy.headers['content-length'], '5')
})

test('a policy on method and path answers 403 in one hop and through a tunnel', async () => {
  for (const [index, version] of (['v1', 'v2'] as const).entries()) {
    apply([route({ clusters: [to(version)] })])
    const policy: Policy = {
      key: `default/deny-${version}`,
      name: `deny-${version}`,
      namespace: 'default',
      scope: POLICY_SCOPE_WORKLOAD,
      action: ACTION_DENY,
      isDryRun: false,
      rules: [
        {
          clauses: [
            {
              matches: [
                {
                  ...EMPTY_POLICY_MATCH,
                  methods: [{ kind: 'exact', value: 'POST' }],
                  paths: [{ kind: 'prefix', value: '/admin' }],
                },
              ],
            },
          ],
        },
      ],
    }
    mesh.policies(policy)
    assert.equal((await send('/admin', {}, 'POST')).status, 403, `node ${index}`)
    assert.equal((await send('/%61dmin/x', {}, 'POST')).status, 403)
    assert.equal((await send('/x/../admin', {}, 'POST')).status, 403)
    assert.equal((await send('/admin')).status, 200)
    assert.equal((await send('/other', {}, 'POST')).status, 200)
    mesh.apply({ removedPolicies: [policy.key] })
    assert.equal((await send('/admin', {}, 'POST')).status, 200)
  }
})

test('an ejected endpoint gets nothing until its time is over', async () => {
  const outlier = {
    consecutive5xx: 2,
    consecutiveGatewayErrors: 0,
    intervalMs: 1000,
    baseEjectionMs: 60_000,
    ejectionPercentMax: 100,
    healthPercentMin: 0,
  }
  apply([route({ clusters: [to('')] })], [subset('', { outlier })])
  behaviour.set('v2', () => 500)
  await tally(30)
  assert.equal(seen.get('v2')!.length, 2)
})

test('a limit on requests answers 503 with flag UO', async () => {
  apply([route({ clusters: [to('v1')] })], [subset('v1', { limits: { ...DEFAULT_POOL_LIMITS, requestsMax: 1 } })])
  behaviour.set('v1', ({ url }) => (url === '/hang' ? 'hang' : 200))
  const arrived = once(servers[0]!, 'request')
  const host = mesh.vip(service, 0)
  const hanging = request({ host, port: 9080, localAddress: client.address, path: '/hang', agent })
  hanging.on('error', () => {})
  hanging.end()
  await arrived
  assert.equal((await send()).status, 503)
  assert.equal(mesh.nodes[0]!.recorder.records.findLast(({ http }) => http !== null)!.flag, 'UO')
  hanging.destroy()
})
