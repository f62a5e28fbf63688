/** The subscription against a scripted server: refusals, incomplete generations, and the snapshot on disk. */
import assert from 'node:assert/strict'
import { readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { isEmptyDelta } from '../../src/model/delta.ts'
import { formatControllerIdentity, formatNodeIdentity } from '../../src/model/identity.ts'
import { FAILURE_BY_POLICY, type LocalPod } from '../../src/model/workload.ts'
import { CallError, STATUS_INVALID_ARGUMENT } from '../../src/wire/channel.ts'
import {
  RESOURCE_TYPES,
  type ResourceType,
  TYPE_ADDRESS,
  TYPE_LOCAL_POD,
  TYPE_POLICY,
} from '../../src/wire/discovery.ts'
import { encodePod } from '../../src/wire/mesh-codec.ts'
import type { DeltaRequest, ResourceMessage } from '../../src/wire/messages.ts'
import { ControlServer, type DiscoveryStream } from '../../src/wire/server.ts'
import { TestAuthority } from '../support/certificates.ts'
import { Events, linkTo, TestAgent, temporaryDirectory } from '../support/control-plane.ts'
import { FakeClock } from '../support/fake-clock.ts'

const NODE = 'node1'

/** A controller that does what a test says. */
class ScriptedController {
  readonly streams = new Events<DiscoveryStream>()
  readonly requests = new Events<DeltaRequest>()
  readonly closed = new Events<boolean>()
  port = 0
  private readonly authority: TestAuthority
  private server: ControlServer | null = null
  private nonce = 0

  constructor(authority: TestAuthority) {
    this.authority = authority
  }

  async listen(port = 0): Promise<void> {
    this.server = new ControlServer(this.authority.leafFor(formatControllerIdentity('cluster.local')), {
      onStream: (stream) => {
        this.streams.push(stream)
        return { onRequest: (request) => this.requests.push(request), onClose: () => this.closed.push(true) }
      },
      onSigningRequest: () => Promise.reject(new CallError(STATUS_INVALID_ARGUMENT, 'not here')),
    })
    this.port = await this.server.listen('127.0.0.1', port)
  }

  stop(): void {
    this.server?.stop()
  }

  /** The next stream with its subscriptions, by type. */
  async accept(): Promise<{ stream: DiscoveryStream; subscriptions: Map<string, DeltaRequest> }> {
    const stream = await this.streams.next()
    const subscriptions = new Map<string, DeltaRequest>()
    for (const _ of RESOURCE_TYPES) {
      const request = await this.requests.next()
      subscriptions.set(request.typeUrl, request)
    }
    return { stream, subscriptions }
  }

  send(stream: DiscoveryStream, typeUrl: ResourceType, generation: string, content: Partial<Content> = {}): void {
    const { resources = [], removed = [] } = content
    const nonce = String(++this.nonce)
    stream.send({ systemVersionInfo: generation, typeUrl, nonce, resources, removedResources: removed })
  }

  /** Everything empty but `content` of pods, complete. */
  sendAll(stream: DiscoveryStream, generation: string, content: Partial<Content> = {}): void {
    for (const typeUrl of RESOURCE_TYPES) {
      if (typeUrl !== TYPE_LOCAL_POD) this.send(stream, typeUrl, `${generation}+`)
    }
    this.send(stream, TYPE_LOCAL_POD, generation, content)
  }
}

interface Content {
  readonly resources: readonly ResourceMessage[]
  readonly removed: readonly string[]
}

function podResource(name: string, version = '1', scope = 'default'): ResourceMessage {
  const pod: LocalPod = { uid: name, netns: `/run/netns/${name}`, scope, failureMode: FAILURE_BY_POLICY }
  return { name, version, aliases: [], resource: { type_url: TYPE_LOCAL_POD, value: encodePod(pod).bytes } }
}

interface Setting {
  readonly server: ScriptedController
  readonly authority: TestAuthority
  readonly clock: FakeClock
  agent(options?: { snapshotFile?: string; node?: string }): TestAgent
}

async function setUp(t: TestContext): Promise<Setting> {
  const authority = new TestAuthority()
  const server = new ScriptedController(authority)
  await server.listen()
  t.after(() => server.stop())
  const clock = new FakeClock()
  const credential = authority.leafFor(formatNodeIdentity('cluster.local', NODE))
  const address = `127.0.0.1:${server.port}`
  return {
    server,
    authority,
    clock,
    agent: (options = {}) => {
      const link = linkTo(t, address, credential)
      return new TestAgent(t, { connect: () => link.connect(), node: NODE, clock, ...options })
    },
  }
}

test('nothing is put in force before every type has come and the generation is complete', async (t) => {
  const { server, agent: make } = await setUp(t)
  const agent = make()
  await agent.subscription.start()
  const { stream } = await server.accept()
  server.send(stream, TYPE_LOCAL_POD, '1', { resources: [podResource('a')] })
  for (const typeUrl of RESOURCE_TYPES) {
    if (typeUrl === TYPE_LOCAL_POD || typeUrl === TYPE_POLICY) continue
    server.send(stream, typeUrl, '1')
  }
  for (let i = 0; i < RESOURCE_TYPES.length - 1; i++) await server.requests.next()
  assert.equal(agent.deltas.count, 0)
  server.send(stream, TYPE_POLICY, '1+')
  await server.requests.next()
  assert.equal(agent.deltas.count, 0)
  server.send(stream, TYPE_POLICY, '1')
  const delta = await agent.deltas.next()
  assert.deepEqual(
    delta.pods.map((pod) => pod.uid),
    ['a'],
  )
  assert.equal(agent.subscription.status().generation, '1')
})

test('the parts of a generation are put in force together, the last state of each', async (t) => {
  const { server, agent: make } = await setUp(t)
  const agent = make()
  await agent.subscription.start()
  const { stream } = await server.accept()
  server.sendAll(stream, '1', { resources: [podResource('a'), podResource('b')] })
  await agent.deltas.next()
  server.send(stream, TYPE_LOCAL_POD, '2+', { resources: [podResource('c'), podResource('d')], removed: ['a'] })
  server.send(stream, TYPE_LOCAL_POD, '2+', { resources: [podResource('c', '2', 'other')], removed: ['d'] })
  server.send(stream, TYPE_ADDRESS, '2')
  const delta = await agent.deltas.next()
  assert.deepEqual(delta.pods, [{ uid: 'c', netns: '/run/netns/c', scope: 'other', failureMode: FAILURE_BY_POLICY }])
  assert.deepEqual(delta.removedPods, ['a'])
})

test('a first state with nothing in it is handed out too', async (t) => {
  const { server, agent: make } = await setUp(t)
  const agent = make()
  await agent.subscription.start()
  const { stream } = await server.accept()
  server.sendAll(stream, '1')
  assert.ok(isEmptyDelta(await agent.deltas.next()))
  assert.equal(agent.subscription.status().isReady, true)
})

test('every response is acknowledged by its nonce', async (t) => {
  const { server, agent: make } = await setUp(t)
  const agent = make()
  await agent.subscription.start()
  const { stream } = await server.accept()
  server.sendAll(stream, '1')
  for (let i = 1; i <= RESOURCE_TYPES.length; i++) {
    const answer = await server.requests.next()
    assert.equal(answer.responseNonce, String(i))
    assert.equal(answer.errorDetail, null)
  }
})

test('a resource that is not valid is refused by name; the others count and its last good version stays', async (t) => {
  const { server, agent: make } = await setUp(t)
  const agent = make()
  await agent.subscription.start()
  const { stream } = await server.accept()
  server.sendAll(stream, '1', { resources: [podResource('a', '1', 'good')] })
  await agent.deltas.next()
  for (const _ of RESOURCE_TYPES) await server.requests.next()

  const bad = { ...podResource('a', '2'), resource: { type_url: TYPE_LOCAL_POD, value: Buffer.from('0a0161', 'hex') } }
  server.send(stream, TYPE_LOCAL_POD, '2', { resources: [bad, podResource('b')] })
  const answer = await server.requests.next()
  assert.equal(answer.responseNonce, String(RESOURCE_TYPES.length + 1))
  assert.match(answer.errorDetail!.message, /pod "a": scope is missing/)
  const delta = await agent.deltas.next()
  assert.deepEqual(
    delta.pods.map((pod) => pod.uid),
    ['b'],
  )
  assert.deepEqual(delta.removedPods, [])
  const status = agent.subscription.status()
  assert.equal(status.rejectedCount, 1)
  assert.match(status.lastRejection!, /scope is missing/)

  // What it says it has is the version that is in force.
  agent.subscription.reconnect()
  const { subscriptions } = await server.accept()
  assert.deepEqual(subscriptions.get(TYPE_LOCAL_POD)!.initialResourceVersions, { a: '1', b: '1' })
})

test('a resource of another type than its response, or with nothing in it, is refused', async (t) => {
  const { server, agent: make } = await setUp(t)
  const agent = make()
  await agent.subscription.start()
  const { stream } = await server.accept()
  const wrong = { ...podResource('a'), resource: { type_url: TYPE_ADDRESS, value: new Uint8Array() } }
  server.send(stream, TYPE_LOCAL_POD, '1', { resources: [wrong, { ...podResource('b'), resource: null }] })
  const answer = await server.requests.next()
  assert.match(answer.errorDetail!.message, /"a" is of type .*Address; resource "b" has no content/)
})

test('a lost stream is opened again after a back-off, with the versions held', async (t) => {
  const { server, clock, agent: make } = await setUp(t)
  const agent = make()
  await agent.subscription.start()
  const { stream } = await server.accept()
  server.sendAll(stream, '1', { resources: [podResource('a', '7')] })
  await agent.deltas.next()
  for (const _ of RESOURCE_TYPES) await server.requests.next()
  server.stop()
  await server.closed.next()
  await server.listen(server.port)
  while (clock.pending === 0) await new Promise(setImmediate)
  assert.equal(agent.subscription.status().isConnected, false)
  assert.match(agent.subscription.status().lastError!, /the controller at 127\.0\.0\.1:\d+ answered/)
  clock.advance(clock.nextDelayMs!)
  const { subscriptions } = await server.accept()
  assert.deepEqual(subscriptions.get(TYPE_LOCAL_POD)!.initialResourceVersions, { a: '7' })
})

test('a controller that is no controller is refused, and the reason is told', async (t) => {
  const { authority, clock } = await setUp(t)
  const impostor = new ControlServer(authority.leaf('shop', 'web'), {
    onStream: () => assert.fail('a stream was opened'),
    onSigningRequest: () => assert.fail('a certificate was requested'),
  })
  const port = await impostor.listen('127.0.0.1', 0)
  t.after(() => impostor.stop())
  const credential = authority.leafFor(formatNodeIdentity('cluster.local', NODE))
  const link = linkTo(t, `127.0.0.1:${port}`, credential)
  const agent = new TestAgent(t, { connect: () => link.connect(), node: NODE, clock })
  await agent.subscription.start()
  while (agent.subscription.status().lastError === null) await new Promise(setImmediate)
  assert.match(agent.subscription.status().lastError!, /proved to be spiffe:\/\/cluster\.local\/ns\/shop\/sa\/web, not/)
})

// --- disk ---

/** Runs an agent until its snapshot is written, and ends it. */
async function leaveSnapshot(setting: Setting, snapshotFile: string): Promise<void> {
  const agent = setting.agent({ snapshotFile })
  await agent.subscription.start()
  const { stream } = await setting.server.accept()
  setting.server.sendAll(stream, '1', { resources: [podResource('a', '7')] })
  await agent.deltas.next()
  for (const _ of RESOURCE_TYPES) await setting.server.requests.next()
  await agent.subscription.stop()
}

test('with the controller away an agent starts with what it had', async (t) => {
  const setting = await setUp(t)
  const snapshotFile = join(await temporaryDirectory(t), 'state', 'snapshot.json')
  await leaveSnapshot(setting, snapshotFile)
  setting.server.stop()
  const agent = setting.agent({ snapshotFile })
  const delta = await agent.start()
  assert.deepEqual(
    delta.pods.map((pod) => pod.uid),
    ['a'],
  )
  assert.equal(agent.subscription.status().isFromDisk, true)
  assert.equal(agent.subscription.status().isConnected, false)
})

test('with the controller there, what is on disk is not used but spares sending it again', async (t) => {
  const setting = await setUp(t)
  const snapshotFile = join(await temporaryDirectory(t), 'snapshot.json')
  await leaveSnapshot(setting, snapshotFile)
  const agent = setting.agent({ snapshotFile })
  await agent.subscription.start()
  const { stream, subscriptions } = await setting.server.accept()
  assert.deepEqual(subscriptions.get(TYPE_LOCAL_POD)!.initialResourceVersions, { a: '7' })
  assert.equal(agent.deltas.count, 0)
  setting.server.sendAll(stream, '2', { resources: [podResource('b')], removed: ['a'] })
  const delta = await agent.deltas.next()
  assert.deepEqual(
    delta.pods.map((pod) => pod.uid),
    ['b'],
  )
  // It was never in force here, so there is nothing to take away.
  assert.deepEqual(delta.removedPods, [])
  assert.equal(agent.subscription.status().isFromDisk, false)
})

test('a controller that does not answer is waited for two seconds, then the disk is used', async (t) => {
  const setting = await setUp(t)
  const snapshotFile = join(await temporaryDirectory(t), 'snapshot.json')
  await leaveSnapshot(setting, snapshotFile)
  const agent = setting.agent({ snapshotFile })
  await agent.subscription.start()
  const { stream } = await setting.server.accept()
  setting.clock.advance(1999)
  assert.equal(agent.deltas.count, 0)
  setting.clock.advance(1)
  assert.deepEqual(
    (await agent.deltas.next()).pods.map((pod) => pod.uid),
    ['a'],
  )
  setting.server.sendAll(stream, '2', { removed: ['a'] })
  assert.deepEqual((await agent.deltas.next()).removedPods, ['a'])
})

test('the snapshot is readable by its owner only and belongs to one node', async (t) => {
  const setting = await setUp(t)
  const directory = join(await temporaryDirectory(t), 'state')
  const snapshotFile = join(directory, 'snapshot.json')
  await leaveSnapshot(setting, snapshotFile)
  assert.equal((await stat(snapshotFile)).mode & 0o777, 0o600)
  assert.equal((await stat(directory)).mode & 0o777, 0o700)
  const other = setting.agent({ snapshotFile, node: 'node2' })
  await other.subscription.start()
  const { subscriptions } = await setting.server.accept()
  assert.deepEqual(subscriptions.get(TYPE_LOCAL_POD)!.initialResourceVersions, {})
})

for (const [what, damage] of [
  ['cut short', (text: string) => text.slice(0, -20)],
  ['of another format', (text: string) => text.replace('"format":1', '"format":99')],
  ['without resources', () => '{"format":1,"node":"node1"}'],
  ['with a resource that is not valid', (text: string) => text.replace(/"bytes":"[^"]*"/, '"bytes":"AAAA"')],
  ['with a resource of an unknown type', (text: string) => text.replaceAll('LocalPod', 'Unknown')],
] as const) {
  test(`a snapshot ${what} is not used`, async (t) => {
    const setting = await setUp(t)
    const snapshotFile = join(await temporaryDirectory(t), 'snapshot.json')
    await leaveSnapshot(setting, snapshotFile)
    await writeFile(snapshotFile, damage(await readFile(snapshotFile, 'utf8')))
    const agent = setting.agent({ snapshotFile })
    await agent.subscription.start()
    const { stream, subscriptions } = await setting.server.accept()
    assert.deepEqual(subscriptions.get(TYPE_LOCAL_POD)!.initialResourceVersions, {})
    setting.server.sendAll(stream, '2')
    assert.ok(isEmptyDelta(await agent.deltas.next()))
  })
}
