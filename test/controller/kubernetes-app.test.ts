/** A controller on an API server in this process, from list to agents. */
import assert from 'node:assert/strict'
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, type TestContext, test } from 'node:test'
import { WeftError } from '../../src/base/errors.ts'
import { COMPILED } from '../../src/compiler/kinds.ts'
import { groupOf } from '../../src/compiler/object.ts'
import type { ResourceType } from '../../src/kubernetes/api.ts'
import { makeRootFiles, TestAgent, TestController } from '../support/control-plane.ts'
import { FakeApiServer } from '../support/fake-api-server.ts'

let server: FakeApiServer

function typeOf(kind: string): ResourceType {
  const apiVersion = COMPILED.get(kind)![0]!
  const version = apiVersion.slice(apiVersion.indexOf('/') + 1)
  const isNamespaced = kind !== 'Node' && kind !== 'Namespace'
  return { group: groupOf(apiVersion), version, plural: `${kind.toLowerCase()}s`, isNamespaced }
}

function put(kind: string, object: unknown): void {
  server.put(typeOf(kind), object as never)
}

function putPod(name: string, address: string): void {
  put('Pod', {
    metadata: { name, namespace: 'shop' },
    spec: { nodeName: 'node1', containers: [{ name: 'c', env: [{ name: 'PASSWORD', value: 'hunter2' }] }] },
    status: { phase: 'Running', podIP: address },
  })
}

beforeEach(async () => {
  server = await FakeApiServer.start()
  for (const kind of COMPILED.keys()) server.addType(typeOf(kind), kind)
  put('Namespace', { metadata: { name: 'shop', labels: { 'weft.dev/mesh': 'enabled' } } })
  putPod('web-1', '10.0.1.1')
})

afterEach(() => server.stop())

async function start(t: TestContext): Promise<TestController> {
  const source = { kind: 'kubernetes', kubeconfig: server.kubeconfig, context: null } as const
  return await TestController.start(t, {}, { config: { source, givenRoot: await makeRootFiles(t) } })
}

async function agentOf(t: TestContext, mesh: TestController): Promise<TestAgent> {
  const link = await mesh.link(t, 'node1')
  return new TestAgent(t, { connect: () => link.connect(), node: 'node1' })
}

function rule(mode: string): unknown {
  return { metadata: { name: 'default', namespace: 'shop' }, spec: { mtls: { mode } } }
}

test('what the server has reaches an agent, and so does a change', async (t) => {
  const mesh = await start(t)
  const agent = await agentOf(t, mesh)
  const first = await agent.start()
  assert.deepEqual(
    first.pods.map(({ uid }) => uid),
    ['Kubernetes//Pod/shop/web-1'],
  )
  putPod('web-2', '10.0.1.2')
  const second = await agent.deltas.until(({ pods }) => pods.length > 0)
  assert.deepEqual(
    second.pods.map(({ uid }) => uid),
    ['Kubernetes//Pod/shop/web-2'],
  )
})

test('a rule that is broken after a restart stays in force as it was; of pods nothing is written down', async (t) => {
  put('PeerAuthentication', rule('STRICT'))
  const mesh = await start(t)
  assert.equal((await (await agentOf(t, mesh)).start()).policies.length, 1)
  await mesh.stop()
  const text = await readFile(join(mesh.config.stateDirectory, 'last-good.json'), 'utf8')
  assert.match(text, /"STRICT"/)
  assert.doesNotMatch(text, /web-1|hunter2/)
  put('PeerAuthentication', rule('STRIKT'))
  await mesh.startAgain(0)
  assert.equal(mesh.running.messages()[0]?.object, 'PeerAuthentication.security.istio.io/shop/default')
  assert.equal((await (await agentOf(t, mesh)).start()).policies.length, 1)
})

test('the file of last good rules is not written again while only pods change', async (t) => {
  put('PeerAuthentication', rule('STRICT'))
  const mesh = await start(t)
  const agent = await agentOf(t, mesh)
  await agent.start()
  const path = join(mesh.config.stateDirectory, 'last-good.json')
  const before = await stat(path, { bigint: true })
  putPod('web-2', '10.0.1.2')
  await agent.deltas.until(({ pods }) => pods.length > 0)
  await mesh.stop()
  assert.equal((await stat(path, { bigint: true })).ino, before.ino)
})

test('a server that is not ready is waited for; then the controller is ready, and says what it follows', async (t) => {
  server.isReady = false
  const starting = start(t)
  await server.seen(({ path }) => path === '/readyz')
  server.isReady = true
  const mesh = await starting
  const answer = await fetch(`http://127.0.0.1:${mesh.running.adminPort}/healthz/ready`)
  assert.equal(answer.status, 200)
  const status = mesh.status() as unknown as { source: { isWhole: boolean; kinds: { Pod: unknown } } }
  assert.deepEqual(status.source.kinds.Pod, { state: 'watching', version: 'v1', objects: 1 })
})

test('a kubeconfig that is not there keeps the controller from starting, with a sentence', async (t) => {
  const source = { kind: 'kubernetes', kubeconfig: '/nowhere/config', context: null } as const
  await assert.rejects(TestController.start(t, {}, { config: { source } }), (error) => {
    return error instanceof WeftError && /the kubeconfig \/nowhere\/config cannot be read/.test(error.message)
  })
})
