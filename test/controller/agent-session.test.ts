/** Sessions and resource sets without a network: what is sent when, in which pieces. */
import assert from 'node:assert/strict'
import test from 'node:test'
import { silentLog } from '../../src/base/log.ts'
import type { MeshState } from '../../src/compiler/compile.ts'
import type { AgentSession } from '../../src/controller/agent-session.ts'
import { Publisher } from '../../src/controller/publisher.ts'
import { FAILURE_BY_POLICY, type LocalPod, type Workload } from '../../src/model/workload.ts'
import type { CallError } from '../../src/wire/channel.ts'
import {
  RESOURCE_TYPES,
  TYPE_ADDRESS,
  TYPE_AUTHORIZATION,
  TYPE_LOCAL_POD,
  TYPE_TRAFFIC,
} from '../../src/wire/discovery.ts'
import type { DeltaRequest, DeltaResponse } from '../../src/wire/messages.ts'
import type { DiscoveryStream } from '../../src/wire/server.ts'
import { RandomModel } from '../support/random-model.ts'
import { SeededRandom } from '../support/seeded-random.ts'

class FakeStream implements DiscoveryStream {
  readonly peer = { certificate: null, address: '192.0.2.1:1' }
  readonly sent: DeltaResponse[] = []
  failure: CallError | null = null

  send(response: DeltaResponse): void {
    this.sent.push(response)
  }

  fail(error: CallError): void {
    this.failure = error
  }

  /** What was sent since the last call. */
  take(): DeltaResponse[] {
    return this.sent.splice(0)
  }
}

const NOTHING: MeshState = { workloads: [], services: [], policies: [], traffic: [], pods: [], namespaces: [] }
const TEMPLATE = new RandomModel(new SeededRandom(1)).workload()

function workload(uid: string, node = 'node1'): Workload {
  return { ...TEMPLATE, uid, node }
}

function state(...uids: string[]): MeshState {
  return { ...NOTHING, workloads: uids.map((uid) => workload(uid)) }
}

function subscribe(session: AgentSession, typeUrl: string, fields: Partial<DeltaRequest> = {}): void {
  session.onRequest({
    node: null,
    typeUrl,
    resourceNamesSubscribe: [],
    resourceNamesUnsubscribe: [],
    initialResourceVersions: {},
    responseNonce: '',
    errorDetail: null,
    ...fields,
  })
}

function acknowledge(session: AgentSession, responses: readonly DeltaResponse[], error: string | null = null): void {
  for (const { typeUrl, nonce } of responses) {
    const errorDetail = error === null ? null : { code: 3, message: error }
    subscribe(session, typeUrl, { responseNonce: nonce, errorDetail })
  }
}

function names(responses: readonly DeltaResponse[]): string[] {
  return responses.flatMap((response) => response.resources.map((resource) => resource.name))
}

function setUp(first: MeshState | null): { publisher: Publisher; stream: FakeStream; session: AgentSession } {
  const publisher = new Publisher(silentLog)
  if (first !== null) publisher.publish(first)
  const stream = new FakeStream()
  return { publisher, stream, session: publisher.accept(stream, 'node1') }
}

test('before the first generation nothing is said, not even that there is nothing', () => {
  const { publisher, stream, session } = setUp(null)
  subscribe(session, TYPE_ADDRESS)
  assert.deepEqual(stream.take(), [])
  publisher.publish(state('a'))
  assert.deepEqual(names(stream.take()), ['a'])
})

test('a subscription is answered even when there is nothing', () => {
  const { stream, session } = setUp(NOTHING)
  subscribe(session, TYPE_AUTHORIZATION)
  const [response] = stream.take()
  assert.deepEqual([response?.typeUrl, response?.resources, response?.removedResources], [TYPE_AUTHORIZATION, [], []])
})

test('nothing more is sent while an answer is owed; then only the newest state', () => {
  const { publisher, stream, session } = setUp(state('a'))
  subscribe(session, TYPE_ADDRESS)
  const first = stream.take()
  publisher.publish(state('a', 'b'))
  publisher.publish(state('a', 'c'))
  assert.deepEqual(stream.take(), [])
  acknowledge(session, first)
  const second = stream.take()
  assert.deepEqual(names(second), ['c'])
  assert.deepEqual(second[0]?.removedResources, [])
  assert.equal(second[0]?.systemVersionInfo, '3')
})

test('until a generation is whole, the one before is what agents get; then it is the newest before anybody is told', () => {
  const { publisher, stream, session } = setUp(state('a'))
  subscribe(session, TYPE_ADDRESS)
  acknowledge(session, stream.take())
  const uids = Array.from({ length: 300 }, (_, i) => `b${i}`)
  const told: number[] = []
  const steps = publisher.publishSteps(state(...uids), 0, () => told.push(publisher.generation, stream.sent.length))
  for (let i = 0; i < 3; i++) assert.equal(steps.next().done, false)
  // In the middle of it an agent comes, and one asks again.
  const late = new FakeStream()
  subscribe(publisher.accept(late, 'node2'), TYPE_ADDRESS)
  assert.deepEqual(names(late.take()), ['a'])
  session.push()
  assert.deepEqual([stream.take(), told, publisher.generation], [[], [], 1])
  while (steps.next().done !== true);
  assert.deepEqual(told, [2, 0])
  assert.deepEqual(names(stream.take()), uids)
})

test('a generation that changes nothing for an agent sends nothing, and counts as acknowledged', () => {
  const { publisher, stream, session } = setUp(state('a'))
  subscribe(session, TYPE_ADDRESS)
  acknowledge(session, stream.take())
  publisher.publish(state('a'))
  assert.deepEqual(stream.take(), [])
  assert.equal(session.status().generation, 2)
})

test('versions follow content: the same object has the same version in another controller', () => {
  const versions = [1, 2].map(() => {
    const { stream, session } = setUp(state('a'))
    subscribe(session, TYPE_ADDRESS)
    return stream.take()[0]!.resources[0]!.version
  })
  assert.equal(versions[0], versions[1])
  const { stream, session } = setUp({ ...NOTHING, workloads: [workload('a', 'node2')] })
  subscribe(session, TYPE_ADDRESS)
  assert.notEqual(stream.take()[0]!.resources[0]!.version, versions[0])
})

test('an agent that names what it has gets the rest, and what to forget', () => {
  const { stream, session } = setUp(state('a', 'b'))
  const before = setUp(state('a', 'gone'))
  subscribe(before.session, TYPE_ADDRESS)
  const versions = before.stream.take()[0]!.resources.map(({ name, version }) => [name, version])
  subscribe(session, TYPE_ADDRESS, { initialResourceVersions: Object.fromEntries(versions) })
  const responses = stream.take()
  assert.deepEqual(names(responses), ['b'])
  assert.deepEqual(
    responses.flatMap((response) => response.removedResources),
    ['gone'],
  )
})

test('a push is cut into pieces of bounded size, and only the last one says that it is complete', () => {
  const uids = Array.from({ length: 400 }, (_, i) => `uid-${i}`)
  const padded = uids.map((uid) => ({ ...workload(uid), canonicalName: 'x'.repeat(8000) }))
  const { stream, session } = setUp({ ...NOTHING, workloads: padded })
  subscribe(session, TYPE_ADDRESS)
  const responses = stream.take()
  assert.ok(responses.length >= 3)
  for (const { resources } of responses) {
    const bytes = resources.reduce((sum, { resource }) => sum + resource!.value.length, 0)
    assert.ok(bytes <= 1_048_576, `${bytes}`)
  }
  assert.deepEqual(names(responses), uids)
  const marks = responses.map((response) => response.systemVersionInfo)
  assert.deepEqual(marks, [...marks.slice(1).map(() => '1+'), '1'])
  assert.equal(new Set(responses.map((response) => response.nonce)).size, responses.length)
  // All but one acknowledged: still waiting.
  acknowledge(session, responses.slice(1))
  assert.equal(session.status().outstanding, 1)
})

test('pods go to the agent of their node only, and traffic rules to the nodes whose pods follow them', () => {
  const random = new RandomModel(new SeededRandom(2))
  const traffic = { ...random.traffic(), scope: 'scope-1', key: 'scope-1|a/b|80', service: 'a/b', port: 80 }
  const pod = (uid: string, scope: string): LocalPod => ({ uid, netns: '', scope, failureMode: FAILURE_BY_POLICY })
  const publisher = new Publisher(silentLog)
  publisher.publish({
    ...NOTHING,
    traffic: [traffic],
    pods: [
      { node: 'node1', pod: pod('a', 'scope-1') },
      { node: 'node2', pod: pod('b', 'scope-2') },
    ],
  })
  const got = ['node1', 'node2'].map((node) => {
    const stream = new FakeStream()
    const session = publisher.accept(stream, node)
    subscribe(session, TYPE_TRAFFIC)
    acknowledge(session, stream.sent)
    subscribe(session, TYPE_LOCAL_POD)
    return names(stream.sent)
  })
  assert.deepEqual(got, [['scope-1|a/b|80', 'a'], ['b']])
})

test('a refusal is counted and remembered, and the resource is not sent again until it changes', () => {
  const { publisher, stream, session } = setUp(state('a'))
  subscribe(session, TYPE_ADDRESS)
  acknowledge(session, stream.take(), 'workload "a": bad')
  const status = session.status()
  assert.deepEqual([status.acks, status.nacks, status.lastError], [0, 1, 'workload "a": bad'])
  publisher.publish(state('a', 'b'))
  assert.deepEqual(names(stream.take()), ['b'])
})

test('an answer with a nonce that was never sent, or twice, says nothing', () => {
  const { stream, session } = setUp(state('a'))
  subscribe(session, TYPE_ADDRESS)
  const responses = stream.take()
  subscribe(session, TYPE_ADDRESS, { responseNonce: '999' })
  assert.equal(session.status().acks, 0)
  acknowledge(session, responses)
  acknowledge(session, responses)
  assert.equal(session.status().acks, 1)
})

test('subscribing to single resources, or to an unknown type, ends the stream with the reason', () => {
  for (const [typeUrl, resourceNamesSubscribe, pattern] of [
    [TYPE_ADDRESS, ['a'], /single resources/],
    ['type.googleapis.com/unknown', [], /no resource type/],
  ] as const) {
    const { publisher, stream, session } = setUp(state('a'))
    subscribe(session, typeUrl, { resourceNamesSubscribe })
    assert.match(stream.failure!.message, pattern)
    assert.deepEqual(publisher.status(), [])
  }
})

test('subscribing to everything by its name is the same as naming nothing', () => {
  const { stream, session } = setUp(state('a'))
  subscribe(session, TYPE_ADDRESS, { resourceNamesSubscribe: ['*'] })
  assert.deepEqual(names(stream.take()), ['a'])
})

test('a session that has ended is told nothing more and is not shown', () => {
  const { publisher, stream, session } = setUp(state('a'))
  subscribe(session, TYPE_ADDRESS)
  acknowledge(session, stream.take())
  session.onClose()
  publisher.publish(state('b'))
  assert.deepEqual(stream.take(), [])
  assert.deepEqual(publisher.status(), [])
})

test('a fifth stream of one node ends its oldest; other nodes are not touched', () => {
  const publisher = new Publisher(silentLog)
  const other = new FakeStream()
  publisher.accept(other, 'node2')
  const streams = Array.from({ length: 5 }, () => new FakeStream())
  for (const stream of streams) publisher.accept(stream, 'node1')
  assert.deepEqual(
    streams.map((stream) => stream.failure !== null),
    [true, false, false, false, false],
  )
  assert.equal(other.failure, null)
  assert.equal(publisher.status().length, 5)
})

test('an object that cannot be encoded keeps its last good version published, and is reported', () => {
  const { publisher, stream, session } = setUp(state('a'))
  for (const typeUrl of RESOURCE_TYPES) {
    subscribe(session, typeUrl)
    acknowledge(session, stream.take())
  }
  publisher.publish({ ...NOTHING, workloads: [{ ...workload('a'), addresses: ['bad'] }, workload('b')] })
  const responses = stream.take()
  assert.deepEqual(names(responses), ['b'])
  assert.deepEqual(
    responses.flatMap((response) => response.removedResources),
    [],
  )
  assert.match(publisher.problems[0]!, /workload "a": addresses "bad" is no address/)
})

test('how long an agent waited for a change is told: not of its first state, nor of one that it was not sent', () => {
  const waits: number[] = []
  let nowMs = 1_000
  const publisher = new Publisher(silentLog, () => nowMs, {
    pushed: () => {},
    rejected: () => {},
    converged: () => {},
    failed: () => {},
    queued: (ms) => waits.push(ms),
  })
  publisher.publish(state('a'))
  const stream = new FakeStream()
  const session = publisher.accept(stream, 'node1')
  nowMs += 500
  subscribe(session, TYPE_ADDRESS)
  const first = stream.take()
  publisher.publish(state('a', 'b'))
  nowMs += 20
  publisher.publish(state('a', 'b', 'c'))
  nowMs += 30
  assert.deepEqual(waits, [], 'it still owes an answer')
  acknowledge(session, first)
  assert.deepEqual(waits, [30], 'of the newest only')
  acknowledge(session, stream.take())
  publisher.publish(state('a', 'b', 'c'))
  publisher.publish(state('a', 'b', 'c', 'd'))
  assert.deepEqual(waits, [30, 0])
})
