import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { WeftError } from '../../src/base/errors.ts'
import { ANSWER_BYTES_MAX, KubernetesApi, KubernetesError, type ResourceType } from '../../src/kubernetes/api.ts'
import { answerJson, answerStatus, FakeApiServer, kubeconfigFor } from '../support/fake-api-server.ts'
import { FakeClock } from '../support/fake-clock.ts'

const PODS: ResourceType = { group: '', version: 'v1', plural: 'pods', isNamespaced: true }
const NODES: ResourceType = { group: '', version: 'v1', plural: 'nodes', isNamespaced: false }
const RULES: ResourceType = {
  group: 'networking.istio.io',
  version: 'v1',
  plural: 'virtualservices',
  isNamespaced: true,
}

let server: FakeApiServer
let api: KubernetesApi

beforeEach(async () => {
  server = await FakeApiServer.start()
  server.addType(PODS, 'Pod')
  api = await KubernetesApi.open({ kubeconfig: server.kubeconfig })
})

afterEach(async () => {
  api.close()
  await server.stop()
})

async function failure(promise: Promise<unknown>): Promise<KubernetesError> {
  const error: unknown = await promise.then(
    () => null,
    (reason: unknown) => reason,
  )
  assert.ok(error instanceof KubernetesError, String(error))
  return error
}

test('gets an object with the token of the kubeconfig', async () => {
  server.put(PODS, { metadata: { name: 'cart', namespace: 'shop' }, spec: { nodeName: 'n1' } } as never)
  const pod = await api.get(PODS, 'shop', 'cart')
  assert.deepEqual(pod?.['spec'], { nodeName: 'n1' })
  assert.equal(pod?.kind, 'Pod')
  assert.equal(server.requests[0]?.path, '/api/v1/namespaces/shop/pods/cart')
  assert.equal(server.requests[0]?.headers.authorization, 'Bearer secret-token')
})

test('an object that is not there is null, and its deletion is false', async () => {
  assert.equal(await api.get(PODS, 'shop', 'cart'), null)
  assert.equal(await api.delete(PODS, 'shop', 'cart'), false)
  server.put(PODS, { metadata: { name: 'cart', namespace: 'shop' } } as never)
  assert.equal(await api.delete(PODS, 'shop', 'cart'), true)
})

test('a list is read page by page, and its items say what they are', async () => {
  for (let i = 0; i < 600; i++) server.put(PODS, { metadata: { name: `p${i}`, namespace: 'shop' } } as never)
  const pods = await api.list(PODS)
  assert.deepEqual([pods.length, pods[0]?.apiVersion, pods[0]?.kind], [600, 'v1', 'Pod'])
  assert.deepEqual(
    server.requests.map(({ query }) => query.get('continue')),
    [null, '700/250', '700/500'],
  )
})

test('a list whose pages grew too old begins anew', async () => {
  for (let i = 0; i < 300; i++) server.put(PODS, { metadata: { name: `p${i}`, namespace: 'shop' } } as never)
  let isExpired = true
  server.answer = (request, response) => {
    if (request.query.get('continue') === null || !isExpired) return false
    isExpired = false
    answerStatus(response, 410, 'Expired', 'too old')
    return true
  }
  assert.equal((await api.list(PODS)).length, 300)
  assert.equal(server.requests.length, 4)
})

test('every kind of write has its method, path and content type', async () => {
  server.answer = (_, response) => {
    answerJson(response, 200, {})
    return true
  }
  const object = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'a', namespace: 'b' } }
  await api.create(object, PODS)
  await api.replace(object, PODS)
  await api.apply(object, PODS)
  await api.mergePatch(PODS, 'b', 'a', { metadata: { labels: { x: null } } })
  await api.replaceStatus({ ...object, kind: 'VirtualService' }, RULES)
  await api.delete(NODES, null, 'n1', { preconditions: { uid: 'u' } })
  assert.deepEqual(
    server.requests.map(({ method, path, query, headers }) => [
      `${method} ${path}`,
      headers['content-type'],
      query.toString(),
    ]),
    [
      ['POST /api/v1/namespaces/b/pods', 'application/json', 'fieldManager=weft'],
      ['PUT /api/v1/namespaces/b/pods/a', 'application/json', 'fieldManager=weft'],
      ['PATCH /api/v1/namespaces/b/pods/a', 'application/apply-patch+yaml', 'fieldManager=weft&force=true'],
      ['PATCH /api/v1/namespaces/b/pods/a', 'application/merge-patch+json', 'fieldManager=weft'],
      [
        'PUT /apis/networking.istio.io/v1/namespaces/b/virtualservices/a/status',
        'application/json',
        'fieldManager=weft',
      ],
      ['DELETE /api/v1/nodes/n1', 'application/json', ''],
    ],
  )
  assert.deepEqual(JSON.parse(server.requests[5]!.body), {
    apiVersion: 'v1',
    kind: 'DeleteOptions',
    preconditions: { uid: 'u' },
  })
})

test('a refusal carries status, reason and the words of the server', async () => {
  server.answer = (_, response) => {
    answerStatus(response, 403, 'Forbidden', 'pods is forbidden: User "x" cannot list resource "pods"')
    return true
  }
  const error = await failure(api.list(PODS))
  assert.deepEqual([error.status, error.reason, error.isForbidden], [403, 'Forbidden', true])
  assert.match(error.message, /answered GET \/api\/v1\/pods with 403: pods is forbidden.*; grant it with a Role/)
})

test('an answer of something that is no API server is quoted, a little of it', async () => {
  server.answer = (_, response) => {
    response.writeHead(502, { 'content-type': 'text/html' }).end(`<h1>Bad Gateway</h1>${'x'.repeat(100_000)}`)
    return true
  }
  const error = await failure(api.get(PODS, 'shop', 'cart'))
  assert.equal(error.status, 502)
  assert.ok(error.message.length < 600)
  server.answer = (_, response) => {
    response.end('<html>')
    return true
  }
  assert.equal((await failure(api.get(PODS, 'shop', 'cart'))).isUnreachable, true)
})

test('an answer that is cut, and a server that is away, are errors with status 0', async () => {
  server.answer = (_, response) => {
    response.writeHead(200, { 'content-length': 100 }).write('{"kind":')
    setImmediate(() => response.destroy())
    return true
  }
  assert.equal((await failure(api.get(PODS, 'shop', 'cart'))).status, 0)
  await server.goAway()
  const error = await failure(api.get(PODS, 'shop', 'cart'))
  assert.match(error.message, /cannot be reached for GET .*check its address/)
  await server.listenAgain()
})

test('an answer that is too large ends the request', async () => {
  server.answer = (_, response) => {
    response.writeHead(200)
    const piece = Buffer.alloc(1_048_576, 0x20)
    let left = ANSWER_BYTES_MAX / piece.length + 2
    const more = (): void => {
      if (left-- > 0) response.write(piece, more)
      else response.end()
    }
    more()
    return true
  }
  await assert.rejects(
    api.get(PODS, 'shop', 'cart'),
    (error) => error instanceof WeftError && error.code === 'WEFT_LIMIT',
  )
})

test('a request ends at its deadline, also in the middle of the answer', async () => {
  const clock = new FakeClock()
  const slow = new KubernetesApi(api.connection, clock)
  server.answer = (_, response) => {
    response.writeHead(200).write('{')
    return true
  }
  const promise = failure(slow.request('GET', '/api/v1/pods', undefined, { timeoutMs: 5_000 }))
  await server.seen(({ path }) => path === '/api/v1/pods')
  clock.advance(5_000)
  const error = await promise
  assert.deepEqual([error.status, error.reason], [0, 'Timeout'])
  assert.match(error.message, /did not answer .* within 5000 ms/)
})

test('a signal ends a request with its reason', async () => {
  const abort = new AbortController()
  server.answer = () => true
  const promise = api.request('GET', '/api/v1/pods', undefined, { signal: abort.signal })
  await server.seen(({ path }) => path === '/api/v1/pods')
  abort.abort(new Error('not wanted any more'))
  await assert.rejects(promise, /not wanted any more/)
})

test('a server that asks for a pause is asked again after it, and not before', async () => {
  const clock = new FakeClock()
  const patient = new KubernetesApi(api.connection, clock)
  let count = 0
  server.answer = (_, response) => {
    if (++count > 2) return false
    answerStatus(response, 429, 'TooManyRequests', 'slow down', { 'retry-after': '1' })
    return true
  }
  const promise = patient.list(PODS)
  for (const times of [1, 2]) {
    // The pause is the only timer of a second; the deadline's is longer.
    while (clock.nextDelayMs !== 1000 || count !== times) await new Promise(setImmediate)
    clock.advance(999)
    assert.equal(server.requests.length, times)
    clock.advance(1)
  }
  assert.deepEqual(await promise, [])
  assert.equal(count, 3)
})

test('a server that asks for pauses for ever is given up', async () => {
  server.answer = (_, response) => {
    answerStatus(response, 503, 'ServiceUnavailable', 'overloaded', { 'retry-after': '0' })
    return true
  }
  assert.equal((await failure(api.list(PODS))).status, 503)
  assert.equal(server.requests.length, 6)
})

test('the kubeconfig is read again after a 401 once it is some seconds old', async (t) => {
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() })
  const early = await KubernetesApi.open({ kubeconfig: server.kubeconfig })
  server.answer = ({ headers }, response) => {
    if (headers.authorization === 'Bearer new-token') return false
    answerStatus(response, 401, 'Unauthorized', 'Unauthorized')
    return true
  }
  await writeFile(server.kubeconfig, kubeconfigFor(server.url, 'new-token'))
  assert.equal((await failure(early.list(PODS))).status, 401)
  t.mock.timers.tick(10_001)
  assert.deepEqual(await early.list(PODS), [])
  assert.match(server.requests[0]!.headers.authorization!, /secret-token/)
  early.close()
})

test('a kubeconfig that cannot be used is said in one sentence', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'weft-kubeconfig-'))
  const file = join(directory, 'config')
  const refusal = async (text: string, context: string | null = null): Promise<string> => {
    await writeFile(file, text)
    const error: unknown = await KubernetesApi.open({ kubeconfig: file, context }).catch((reason: unknown) => reason)
    assert.ok(error instanceof WeftError)
    assert.equal(error.code, 'WEFT_CONFIG')
    return error.message
  }
  const good = kubeconfigFor('http://127.0.0.1:1', 't')
  assert.match(await refusal('clusters: [}'), /the kubeconfig \S+ cannot be read: /)
  assert.match(await refusal(''), /cannot be read|has no current context/)
  assert.match(await refusal('apiVersion: v1\nkind: Config\n'), /has no current context; set one/)
  assert.match(await refusal(good, 'nowhere'), /has no context "nowhere": it has test, other/)
  assert.match(await refusal(good.replace('cluster: fake,', 'cluster: gone,')), /has no cluster "gone"/)
  assert.match(await refusal(good.replace('http://127.0.0.1:1', 'nonsense')), /the server "nonsense".*is not an http/)
  await rm(file)
  await assert.rejects(KubernetesApi.open({ kubeconfig: file }), /cannot be read: ENOENT.*; see --kubeconfig/)
  await rm(directory, { recursive: true })
})

test('a context can be chosen, and its namespace is known', async () => {
  assert.equal(api.connection.namespace, 'shop')
  const other = await KubernetesApi.open({ kubeconfig: server.kubeconfig, context: 'other' })
  assert.deepEqual([other.connection.context, other.connection.namespace], ['other', 'default'])
})
