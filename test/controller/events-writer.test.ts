import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { silentLog } from '../../src/base/log.ts'
import { compile } from '../../src/compiler/compile.ts'
import { EventsWriter } from '../../src/controller/events-writer.ts'
import { KubernetesError } from '../../src/kubernetes/error.ts'
import type { KubernetesObject } from '../../src/kubernetes/object.ts'
import { namespace, parse, pod, SETTINGS, shop, type Tree, virtualService } from '../compiler/builders.ts'
import { FakeClock } from '../support/fake-clock.ts'

interface Event {
  readonly metadata: { readonly name: string; readonly namespace: string }
  readonly involvedObject: Tree
  readonly reason: string
  readonly message: string
}

class Events {
  readonly clock = new FakeClock()
  readonly written: Event[] = []
  failures: KubernetesError[] = []
  readonly writer: EventsWriter

  constructor() {
    const api = {
      create: async (object: KubernetesObject): Promise<KubernetesObject> => {
        const error = this.failures.shift()
        if (error !== undefined) throw error
        if (this.written.some(({ metadata }) => metadata.name === object.metadata.name)) throw failure(409)
        this.written.push(object as unknown as Event)
        return object
      },
    }
    this.writer = new EventsWriter({ api, clock: this.clock, log: silentLog, instance: 'one', random: () => 1 })
    this.writer.setLeading(true)
  }

  update(...trees: readonly unknown[]): void {
    const objects = trees.map(parse)
    this.writer.update(objects, compile(objects, SETTINGS).messages)
  }

  async settle(ms = 120_000): Promise<void> {
    this.clock.advance(0)
    for (let passed = 0; passed < ms; passed += 5_000) {
      for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve))
      this.clock.advance(5_000)
    }
  }
}

function failure(status: number): KubernetesError {
  return new KubernetesError(`no: ${status}`, { status, reason: '', apiMessage: '' })
}

const BAD = virtualService('cart', { hosts: ['cart'], http: [{ rote: [] }] })

function hostPod(name: string, uid: string, hostNetwork = true): Tree {
  const made = pod(name, { 'weft.dev/mesh': 'enabled' }, {}, { hostNetwork }, { podIP: '198.18.0.1' })
  ;(made['metadata'] as Tree)['uid'] = uid
  return made
}

describe('events', () => {
  test('stand beside what is rejected, with the field', async () => {
    const events = new Events()
    events.update(...shop(), BAD)
    await events.settle()
    assert.deepEqual(
      events.written.map(({ reason, involvedObject }) => [reason, involvedObject['kind'], involvedObject['fieldPath']]),
      [['Rejected', 'VirtualService', 'spec.http[0].rote']],
    )
    const [first] = events.written
    assert.equal(first!.metadata.namespace, 'shop')
    assert.match(first!.metadata.name, /^cart\.[0-9a-f]{16}$/)
  })

  test('are one for an object, whatever is wrong with it', async () => {
    const events = new Events()
    const rules = [{ rote: [] }, { timeout: '5' }, ...Array.from({ length: 40 }, () => ({ mach: [] }))]
    events.update(...shop(), virtualService('cart', { hosts: ['cart'], http: rules }))
    await events.settle()
    assert.equal(events.written.length, 1)
    const [event] = events.written
    assert.match(event!.message, /^spec\.http\[0\]\.rote: .*\nspec\.http\[1\]/)
    assert.equal(event!.message.length, 1_024)
    assert.equal(event!.involvedObject['fieldPath'], undefined)
  })

  test('stand beside pods that may change their own network', async () => {
    const events = new Events()
    const spec = { containers: [{ name: 'vpn', securityContext: { capabilities: { add: ['NET_ADMIN'] } } }] }
    const made = pod('vpn', { 'weft.dev/mesh': 'enabled' }, {}, spec, { podIP: '198.18.0.2' })
    ;(made['metadata'] as Tree)['uid'] = 'u2'
    events.update(namespace('shop'), made)
    await events.settle()
    const [event] = events.written
    assert.equal(event!.reason, 'NetworkChangeable')
    assert.match(
      event!.message,
      /^spec\.containers\[0\]\.securityContext\.capabilities\.add: The pod may change its own/,
    )
  })

  test('stand beside pods that cannot be enrolled, and say why', async () => {
    const events = new Events()
    events.update(namespace('shop'), hostPod('a', 'u1'))
    await events.settle()
    const [event] = events.written
    assert.equal(event!.reason, 'NotEnrolled')
    assert.deepEqual([event!.involvedObject['kind'], event!.involvedObject['uid']], ['Pod', 'u1'])
    assert.match(
      event!.message,
      /^spec\.hostNetwork: The pod is not enrolled in the mesh: it uses the network of its node/,
    )
  })

  test('are told once, also by the next leader, and again for another pod of the name', async () => {
    const events = new Events()
    events.update(namespace('shop'), hostPod('a', 'u1'))
    await events.settle()
    events.update(namespace('shop'), hostPod('a', 'u1'))
    await events.settle()
    assert.equal(events.written.length, 1)
    events.writer.setLeading(false)
    events.writer.setLeading(true)
    events.update(namespace('shop'), hostPod('a', 'u1'))
    await events.settle()
    assert.equal(events.written.length, 1)
    events.update(namespace('shop'), hostPod('a', 'u2'))
    await events.settle()
    assert.equal(events.written.length, 2)
  })

  test('are not about warnings', async () => {
    const events = new Events()
    events.update(
      ...shop(),
      virtualService('lost', { hosts: ['nobody'], http: [{ route: [{ destination: { host: 'cart' } }] }] }),
    )
    await events.settle()
    assert.deepEqual(events.written, [])
  })

  test('that wait are forgotten when what they tell is over, or another leads', async () => {
    const events = new Events()
    events.update(namespace('shop'), hostPod('a', 'u1'))
    events.update(namespace('shop'), hostPod('a', 'u1', false))
    await events.settle()
    events.update(namespace('shop'), hostPod('a', 'u1'))
    events.writer.setLeading(false)
    await events.settle()
    assert.deepEqual(events.written, [])
  })

  test('come slowly, so many at most, and the rest is counted', async () => {
    const events = new Events()
    events.update(namespace('shop'), ...Array.from({ length: 1_010 }, (_, i) => hostPod(`p${i}`, `u${i}`)))
    assert.deepEqual([events.writer.status().waiting, events.writer.status().dropped], [1_000, 10])
    events.clock.advance(0)
    for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve))
    assert.equal(events.written.length, 1)
    events.clock.advance(199)
    for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve))
    assert.equal(events.written.length, 1)
    await events.writer.stop()
    assert.equal(events.clock.pending, 0)
  })

  test('are tried again when the server is away, and given up when it does not want them', async () => {
    const events = new Events()
    events.failures = [failure(0), failure(500)]
    events.update(namespace('shop'), hostPod('a', 'u1'))
    await events.settle(20_000)
    assert.equal(events.written.length, 1)
    events.failures = [failure(403)]
    events.update(namespace('shop'), hostPod('a', 'u1'), hostPod('b', 'u3'))
    await events.settle(20_000)
    assert.equal(events.written.length, 1)
    assert.match(events.writer.status().problem, /no: 403/)
  })
})
