import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import { Logger } from '../../src/base/log.ts'
import { COMPILED } from '../../src/compiler/kinds.ts'
import { groupOf } from '../../src/compiler/object.ts'
import { KubernetesSource } from '../../src/controller/kubernetes-source.ts'
import { KubernetesApi, type ResourceType } from '../../src/kubernetes/api.ts'
import { answerStatus, FakeApiServer, type SeenRequest } from '../support/fake-api-server.ts'
import { FakeClock } from '../support/fake-clock.ts'

let server: FakeApiServer
let api: KubernetesApi
let clock: FakeClock
let source: KubernetesSource
let changes: number
let lines: string[]
/** What a change costs, on the clock. */
let changeCostMs: number
/** Until it is over, a change is being worked in. */
let isWorkedIn: Promise<void>

function typeOf(kind: string, version?: string): ResourceType {
  const apiVersion = COMPILED.get(kind)![0]!
  const found = version ?? apiVersion.slice(apiVersion.indexOf('/') + 1)
  const plural = kind === 'PeerAuthentication' ? 'peerauthentications' : `${kind.toLowerCase()}s`.replace(/ys$/, 'ies')
  const isNamespaced = kind !== 'Node' && kind !== 'Namespace'
  return { group: groupOf(apiVersion), version: found, plural, isNamespaced }
}

const PODS = typeOf('Pod')
const RULES = typeOf('VirtualService')

beforeEach(async () => {
  server = await FakeApiServer.start()
  api = await KubernetesApi.open({ kubeconfig: server.kubeconfig })
  clock = new FakeClock()
  changes = 0
  changeCostMs = 0
  isWorkedIn = Promise.resolve()
  lines = []
  for (const kind of COMPILED.keys()) server.addType(typeOf(kind), kind)
  source = newSource()
})

afterEach(async () => {
  await source.stop()
  api.close()
  await server.stop()
})

function newSource(): KubernetesSource {
  const log = new Logger('test', 'info', (line) => lines.push(line))
  const onChange = (): Promise<void> => {
    changes++
    clock.advance(changeCostMs)
    return isWorkedIn
  }
  return new KubernetesSource({ api, clock, log, onChange, random: () => 0 })
}

function putPod(name: string, labels: Readonly<Record<string, string>> = {}): void {
  server.put(PODS, { metadata: { name, namespace: 'shop', labels }, spec: {}, status: {} } as never)
}

function putRule(name: string, hosts: readonly string[]): void {
  server.put(RULES, { metadata: { name, namespace: 'shop' }, spec: { hosts } } as never)
}

const isWatch = ({ query }: SeenRequest): boolean => query.get('watch') === 'true'
const watches = (): number => server.requests.filter(isWatch).length
const names = (): string => source.objects.map(({ name }) => name).join(' ')

/** Turns the event loop until `test` holds. */
async function until(test: () => boolean): Promise<void> {
  while (!test()) await new Promise(setImmediate)
}

/** The same, and lets time pass, `stepMs` a turn. */
async function pass(stepMs: number, test: () => boolean): Promise<void> {
  while (!test()) {
    clock.advance(stepMs)
    await new Promise(setImmediate)
  }
}

async function start(): Promise<void> {
  await source.start()
  await until(() => watches() === COMPILED.size)
}

test('the first state is whole: all kinds, shrunk', async () => {
  putPod('cart')
  putRule('a', ['cart'])
  server.put(typeOf('Namespace'), {
    metadata: { name: 'shop', resourceVersion: '1' },
    status: { phase: 'Active' },
  } as never)
  await start()
  assert.deepEqual(source.objects.map(({ key }) => key).sort(), [
    'Namespace/shop',
    'Pod/shop/cart',
    'VirtualService.networking.istio.io/shop/a',
  ])
  const namespace = source.objects.find(({ kind }) => kind === 'Namespace')
  assert.equal(namespace?.status, null)
  assert.equal(changes, 0)
  assert.deepEqual(source.messages, [])
})

test('several changes are told as one, 100 ms after the first', async () => {
  await start()
  putPod('a')
  await until(() => names() === 'a')
  clock.advance(60)
  putPod('b')
  await until(() => names() === 'a b')
  clock.advance(39)
  assert.equal(changes, 0)
  clock.advance(1)
  assert.equal(changes, 1)
  clock.advance(10_000)
  assert.equal(changes, 1)
})

test('changes that cost much are told more seldom, and never later than two seconds', async () => {
  await start()
  changeCostMs = 400
  putPod('a')
  await until(() => names() === 'a')
  clock.advance(100)
  assert.equal(changes, 1)
  putPod('b')
  await until(() => names() === 'a b')
  clock.advance(799)
  assert.equal(changes, 1)
  changeCostMs = 5_000
  clock.advance(1)
  assert.equal(changes, 2)
  putPod('c')
  await until(() => names() === 'a b c')
  clock.advance(1_999)
  assert.equal(changes, 2)
  clock.advance(1)
  assert.equal(changes, 3)
})

test('what changes while a change is worked in is told once, afterwards', async () => {
  await source.start()
  let end = (): void => {}
  isWorkedIn = new Promise((resolve) => {
    end = resolve
  })
  putPod('a')
  await pass(20, () => changes === 1)
  putPod('b')
  await until(() => names() === 'a b')
  putPod('c')
  await until(() => names() === 'a b c')
  clock.advance(60_000)
  assert.equal(changes, 1)
  end()
  await pass(20, () => changes === 2)
  clock.advance(60_000)
  await new Promise(setImmediate)
  assert.equal(changes, 2)
})

test('what changes without a meaning for the mesh is not told, and the object stays the very same', async () => {
  putPod('a')
  await start()
  const [before] = source.objects
  server.put(PODS, {
    metadata: { name: 'a', namespace: 'shop', labels: {} },
    spec: {},
    status: { containerStatuses: [{ restartCount: 1 }] },
  } as never)
  putPod('b')
  await until(() => names() === 'a b')
  assert.equal(source.objects[0], before)
})

test('a status that is written to a rule is kept, and not told', async () => {
  putRule('a', ['x'])
  await start()
  server.put(RULES, {
    metadata: { name: 'a', namespace: 'shop' },
    spec: { hosts: ['x'] },
    status: { done: true },
  } as never)
  await until(() => (source.objects[0]?.status as { done?: boolean } | null)?.done === true)
  clock.advance(1_000)
  assert.equal(changes, 0)
})

test('kinds that are not served do not hold up the start, and are followed once they are', async () => {
  for (const kind of ['VirtualService', 'DestinationRule', 'ServiceEntry']) server.removeType(typeOf(kind))
  await source.start()
  server.addType(RULES, 'VirtualService')
  putRule('a', ['x'])
  await pass(500, () => changes === 1)
  assert.equal(names(), 'a')
  assert.deepEqual(source.messages, [])
})

test('a kind is read in the first version that both know', async () => {
  server.removeType(RULES)
  for (const version of ['v1alpha3', 'v1beta1']) server.addType(typeOf('VirtualService', version), 'VirtualService')
  server.put(typeOf('VirtualService', 'v1beta1'), { metadata: { name: 'a', namespace: 'shop' }, spec: {} } as never)
  await start()
  assert.equal(source.objects[0]?.apiVersion, 'networking.istio.io/v1beta1')
})

test('a version that is served no more is left for another, and nothing is lost meanwhile', async () => {
  server.removeType(RULES)
  const old = typeOf('VirtualService', 'v1beta1')
  server.addType(old, 'VirtualService')
  server.put(old, { metadata: { name: 'a', namespace: 'shop' }, spec: { hosts: ['x'] } } as never)
  await start()
  server.removeType(old)
  server.addType(RULES, 'VirtualService')
  putRule('a', ['y'])
  await pass(250, () => {
    assert.equal(names(), 'a')
    return source.objects[0]?.apiVersion === 'networking.istio.io/v1'
  })
})

test('a kind that is not served for a moment keeps its objects, and one that is gone for a minute loses them', async () => {
  putRule('a', ['x'])
  await start()
  server.removeType(RULES)
  const beganMs = clock.now()
  await pass(250, () => source.messages.length > 0)
  assert.match(source.messages[0]!.text, /virtualservices.networking.istio.io is not served by http\S+ in version v1/)
  await pass(250, () => names() === '')
  assert.ok(clock.now() - beganMs >= 60_000)
  await pass(250, () => source.messages.length === 0)
})

test('the start waits for a server that is not ready, and says so', async () => {
  server.isReady = false
  let isStarted = false
  const started = source.start().then(() => {
    isStarted = true
  })
  await pass(100, () => lines.some((line) => line.includes('waiting for the first state')))
  assert.match(lines.at(-1)!, /"kinds":\["Namespace".*answered GET \/readyz with 500/)
  assert.equal(isStarted, false)
  server.isReady = true
  await pass(100, () => isStarted)
  await started
})

test('the start waits for every list, and names a missing permission', async () => {
  server.answer = (request, response) => {
    if (request.path !== '/api/v1/pods') return false
    answerStatus(response, 403, 'Forbidden', 'User "weft" cannot list resource "pods"')
    return true
  }
  let isStarted = false
  const started = source.start().then(() => {
    isStarted = true
  })
  await pass(250, () => lines.some((line) => line.includes('cannot list resource')))
  assert.match(lines.at(-1)!, /"kinds":\["Pod"\].*Grant the verbs get, list and watch on pods/)
  assert.equal(isStarted, false)
  server.answer = null
  await pass(250, () => isStarted)
  await started
})

test('a server that goes away changes nothing but the messages, and those only when it stays away', async () => {
  putPod('a')
  putRule('r', ['x'])
  await start()
  await server.goAway()
  await pass(250, () => source.messages.length > 0)
  assert.equal(source.messages.length, 1)
  assert.match(source.messages[0]!.text, /^The last state stays in force for Namespace, Node, Pod,.*cannot be reached/)
  assert.equal(names(), 'a r')
  await pass(250, () => changes === 1)
  await server.listenAgain()
  server.remove(PODS, 'shop', 'a')
  await pass(250, () => source.messages.length === 0 && names() === 'r')
  await pass(250, () => changes >= 2)
})

test('a watch that is cut and comes back is not worth a message', async () => {
  await start()
  server.endWatches(PODS, 'reset')
  await until(() => JSON.stringify(source.status()).includes('failing'))
  clock.advance(500)
  await until(() => !JSON.stringify(source.status()).includes('failing'))
  clock.advance(3_000)
  assert.equal(changes, 0)
  assert.deepEqual(source.messages, [])
})

test('an object that cannot be read is reported, and its last good version stays', async () => {
  putPod('a', { x: '1' })
  await start()
  server.put(PODS, { metadata: { name: 'a', namespace: 'shop', labels: { x: 2 } } } as never)
  await until(() => source.messages.length === 1)
  assert.deepEqual([source.messages[0]?.object, source.messages[0]?.field], ['Pod/shop/a', 'metadata.labels.x'])
  assert.equal(source.messages[0]?.position, null)
  assert.equal(source.objects[0]?.labels['x'], '1')
  putPod('a', { x: '3' })
  await until(() => source.messages.length === 0)
  assert.equal(source.objects[0]?.labels['x'], '3')
})

test('stop ends a start that has not come to its end, and leaves no timer', async () => {
  server.isReady = false
  const started = source.start()
  await server.seen(({ path }) => path === '/readyz')
  await source.stop()
  await assert.rejects(started, /was stopped before the API server answered/)
  await until(() => clock.pending === 0)
})
