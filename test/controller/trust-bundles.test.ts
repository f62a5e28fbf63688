/** The roots in namespaces: written where they belong, repaired, removed, and never in a hurry. */
import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import { Logger } from '../../src/base/log.ts'
import { CONFIG_MAPS, TRUST_CONFIG_MAP, TrustBundles } from '../../src/controller/trust-bundles.ts'
import { KubernetesApi } from '../../src/kubernetes/api.ts'
import { Events } from '../support/control-plane.ts'
import { answerJson, answerStatus, FakeApiServer, type SeenRequest } from '../support/fake-api-server.ts'
import { FakeClock } from '../support/fake-clock.ts'

const STEP_MS = 50

let server: FakeApiServer
let api: KubernetesApi
let clock: FakeClock
let lines: Events<string>
let bundles: TrustBundles

beforeEach(async () => {
  server = await FakeApiServer.start()
  server.addType(CONFIG_MAPS, 'ConfigMap')
  api = await KubernetesApi.open({ kubeconfig: server.kubeconfig })
  clock = new FakeClock()
  lines = new Events()
  bundles = new TrustBundles({
    api,
    systemNamespace: 'weft-system',
    clock,
    watchClock: systemClock,
    log: new Logger('bundles', 'info', (line) => lines.push(line)),
    random: () => 1,
  })
})

afterEach(async () => {
  server.answer = null
  await bundles.stop()
  api.close()
  await server.stop()
})

function isWrite({ method }: SeenRequest): boolean {
  return method === 'PATCH' || method === 'DELETE'
}

function writes(): string[] {
  return server.requests.filter(isWrite).map(({ method, path }) => `${method} ${path.split('/')[4]}`)
}

function textIn(namespace: string): string | null {
  const data = server.stored(CONFIG_MAPS, namespace, TRUST_CONFIG_MAP)?.['data'] as Record<string, string> | undefined
  return data?.['root-cert.pem'] ?? null
}

/** Resolves when `test` holds, letting time pass as it is asked for. */
async function until(test: () => boolean): Promise<void> {
  while (!test()) {
    // Longer waits are of repetitions: tests let those pass by themselves.
    if ((clock.nextDelayMs ?? Number.POSITIVE_INFINITY) <= STEP_MS) clock.advance(STEP_MS)
    await new Promise(setImmediate)
  }
}

async function lead(bundle: string, ...namespaces: string[]): Promise<void> {
  bundles.setBundle(bundle)
  bundles.setNamespaces(new Set(namespaces))
  bundles.setLeading(true)
  await until(() => ['weft-system', ...namespaces].every((namespace) => textIn(namespace) === bundle))
}

test('the leader writes the roots beside itself and into every namespace of the mesh, one after the other', async () => {
  await lead('one', 'a', 'b')
  assert.deepEqual(writes(), ['PATCH weft-system', 'PATCH a', 'PATCH b'])
  await until(() => bundles.counts().written === 3)
})

test('a follower writes nothing and does not even look', async () => {
  bundles.setBundle('one')
  bundles.setNamespaces(new Set(['a']))
  await new Promise(setImmediate)
  assert.deepEqual(server.requests, [])
})

test('what is right already is not written, also by the next leader', async () => {
  await lead('one', 'a')
  bundles.setLeading(false)
  bundles.setLeading(true)
  await server.next(({ query }) => query.get('watch') === 'true')
  for (let i = 0; i < 20; i++) {
    clock.advance(STEP_MS)
    await new Promise(setImmediate)
  }
  assert.equal(writes().length, 2)
})

test('new roots go everywhere', async () => {
  await lead('one', 'a')
  bundles.setBundle('two')
  await until(() => textIn('a') === 'two' && textIn('weft-system') === 'two')
})

test('a namespace that joins gets them, one that leaves loses them, and keeps what is not ours', async () => {
  await lead('one', 'a')
  bundles.setNamespaces(new Set(['b']))
  await until(() => textIn('b') === 'one' && textIn('a') === null)
  const metadata = { name: TRUST_CONFIG_MAP, namespace: 'c' }
  server.put(CONFIG_MAPS, { metadata, data: { 'root-cert.pem': 'foreign' } })
  bundles.setNamespaces(new Set(['d']))
  await until(() => textIn('d') === 'one' && textIn('b') === null)
  assert.equal(textIn('c'), 'foreign')
})

test('one that was edited or deleted is repaired, at first after a second, then ever more seldom', async () => {
  await lead('one', 'a')
  const spoil = (): void => {
    const metadata = { ...server.stored(CONFIG_MAPS, 'a', TRUST_CONFIG_MAP)!.metadata }
    server.put(CONFIG_MAPS, { metadata, data: { 'root-cert.pem': 'spoiled', other: 'kept' } })
  }
  /** The wait before a repair, which steps of other work may have shortened. */
  const passWait = async (waitMs: number): Promise<void> => {
    await until(() => clock.nextDelayMs !== null && clock.nextDelayMs > STEP_MS && clock.nextDelayMs < 20_000)
    const leftMs = clock.nextDelayMs!
    assert.ok(leftMs <= waitMs && leftMs > waitMs - 10 * STEP_MS, `${leftMs} ms of ${waitMs}`)
    clock.advance(leftMs)
  }
  for (const waitMs of [1_000, 2_000, 4_000]) {
    spoil()
    await passWait(waitMs)
    await until(() => textIn('a') === 'one')
  }
  const data = server.stored(CONFIG_MAPS, 'a', TRUST_CONFIG_MAP)?.['data']
  assert.deepEqual(data, { 'root-cert.pem': 'one', other: 'kept' })
  server.remove(CONFIG_MAPS, 'a', TRUST_CONFIG_MAP)
  await passWait(8_000)
  await until(() => textIn('a') === 'one')
})

test('a namespace that is refused is tried again and holds up no other', async () => {
  server.answer = (request, response) => {
    if (!isWrite(request) || !request.path.includes('/a/')) return false
    answerStatus(response, 403, 'Forbidden', 'exceeded quota')
    return true
  }
  bundles.setBundle('one')
  bundles.setNamespaces(new Set(['a', 'b']))
  bundles.setLeading(true)
  await until(() => lines.count > 0)
  assert.match(await lines.next(), /"namespace":"a","error":"the API server .* exceeded quota/)
  await until(() => textIn('b') === 'one')
  server.answer = null
  clock.advance(1_000)
  await until(() => textIn('a') === 'one')
})

test('a namespace that is being deleted is left alone', async () => {
  let refused = 0
  server.answer = (request, response) => {
    if (!isWrite(request) || !request.path.includes('/a/')) return false
    refused++
    const details = { causes: [{ reason: 'NamespaceTerminating', message: 'namespace a is being terminated' }] }
    answerJson(response, 403, { kind: 'Status', status: 'Failure', code: 403, reason: 'Forbidden', details })
    return true
  }
  bundles.setBundle('one')
  bundles.setNamespaces(new Set(['a', 'b']))
  bundles.setLeading(true)
  await until(() => textIn('b') === 'one')
  for (let i = 0; i < 100; i++) {
    clock.advance(1_000)
    await new Promise(setImmediate)
  }
  assert.equal(refused, 1)
  assert.equal(lines.count, 0)
})

test('who does not lead any more stops in the middle', async () => {
  bundles.setBundle('one')
  bundles.setNamespaces(new Set(Array.from({ length: 20 }, (_, i) => `n${i}`)))
  bundles.setLeading(true)
  await until(() => writes().length >= 3)
  bundles.setLeading(false)
  const { length } = writes()
  for (let i = 0; i < 50; i++) {
    clock.advance(STEP_MS)
    await new Promise(setImmediate)
  }
  assert.ok(writes().length <= length + 1, `${writes().length}`)
})
