import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { silentLog } from '../../src/base/log.ts'
import { compile } from '../../src/compiler/compile.ts'
import type { MeshObject } from '../../src/compiler/object.ts'
import type { InForce } from '../../src/controller/status-of-object.ts'
import { StatusWriter } from '../../src/controller/status-writer.ts'
import { KubernetesError } from '../../src/kubernetes/error.ts'
import type { KubernetesObject } from '../../src/kubernetes/object.ts'
import { parse, SETTINGS, shop, type Tree, virtualService } from '../compiler/builders.ts'
import { FakeClock } from '../support/fake-clock.ts'

const PATH = '/apis/networking.istio.io/v1/namespaces/shop/virtualservices/cart/status'
const GOOD_SPEC = { hosts: ['cart'], http: [{ route: [{ destination: { host: 'cart' } }] }] }
const BAD_SPEC = { hosts: ['cart'], http: [{ rote: [] }] }

interface Condition {
  readonly type: string
  readonly status: string
  readonly reason: string
  readonly message: string
  readonly observedGeneration: number
  readonly lastTransitionTime: string
}

interface Status {
  readonly conditions: readonly Condition[]
  readonly observedGeneration: number
  readonly validationMessages: readonly { readonly level: string; readonly type: { name: string; code: string } }[]
}

function failure(status: number): KubernetesError {
  return new KubernetesError(`no: ${status}`, { status, reason: '', apiMessage: '' })
}

/** An API server with one rule, of which only the status can be written. */
class Rules {
  current: Tree
  readonly writes: { readonly path: string; readonly status: Status }[] = []
  failures: KubernetesError[] = []

  constructor(spec: Tree, metadata: Tree = {}, status?: unknown) {
    const made = virtualService('cart', spec)
    const common = { generation: 1, resourceVersion: '5', uid: 'u' }
    this.current = { ...made, metadata: { ...(made['metadata'] as Tree), ...common, ...metadata }, status }
  }

  get object(): MeshObject {
    return parse(this.current)
  }

  get status(): Status {
    return this.current['status'] as Status
  }

  get conditions(): string[] {
    return this.status.conditions.map(({ type, status, reason }) => `${type} ${status} ${reason}`)
  }

  /** Somebody else writes. */
  change(fields: Tree, metadata: Tree = {}): void {
    const known = this.current['metadata'] as Tree
    const resourceVersion = String(Number(known['resourceVersion']) + 1)
    this.current = { ...this.current, ...fields, metadata: { ...known, resourceVersion, ...metadata } }
  }

  async get(): Promise<KubernetesObject> {
    return this.current as unknown as KubernetesObject
  }

  async request(method: string, path: string, body: unknown): Promise<unknown> {
    assert.equal(method, 'PATCH')
    const { status, metadata } = body as { status: Status; metadata: { resourceVersion: string } }
    this.writes.push({ path, status })
    const error = this.failures.shift()
    if (error !== undefined) throw error
    if (metadata.resourceVersion !== (this.current['metadata'] as Tree)['resourceVersion']) throw failure(409)
    this.change({ status: { ...(this.status as unknown as Tree), ...status } })
    return this.current
  }
}

class Fixture {
  readonly clock = new FakeClock()
  readonly rules: Rules
  readonly writer: StatusWriter

  constructor(rules: Rules) {
    this.rules = rules
    const options = { api: rules, revision: '', clock: this.clock, log: silentLog, random: () => 1 }
    this.writer = new StatusWriter(options)
    this.writer.setLeading(true)
  }

  /** What an analysis of the mesh as it is says. */
  update(inForce: InForce = 'written', object: MeshObject = this.rules.object): void {
    const objects = [...shop().map(parse), object]
    const { messages } = compile(objects, SETTINGS)
    this.writer.update(objects, messages, () => inForce)
  }

  /** Writes that are due are over. */
  async settle(): Promise<void> {
    this.clock.advance(60_000)
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve))
  }
}

describe('the status of a rule', () => {
  test('says that it is accepted and in force, for its generation', async () => {
    const fixture = new Fixture(new Rules(GOOD_SPEC, { generation: 7 }))
    fixture.update()
    await fixture.settle()
    const { rules } = fixture
    assert.equal(rules.writes[0]!.path, PATH)
    assert.deepEqual(rules.conditions, ['weft.dev/Accepted True Accepted', 'weft.dev/Programmed True Programmed'])
    assert.equal(rules.status.observedGeneration, 7)
    assert.ok(rules.status.conditions.every(({ observedGeneration }) => observedGeneration === 7))
    assert.deepEqual(rules.status.validationMessages, [])
  })

  for (const [inForce, reason] of [
    ['none', 'NotInForce'],
    ['earlier', 'LastGood'],
  ] as const) {
    test(`says what is wrong with it, and what is in force instead: ${inForce}`, async () => {
      const fixture = new Fixture(new Rules(BAD_SPEC))
      fixture.update(inForce)
      await fixture.settle()
      const { rules } = fixture
      assert.deepEqual(rules.conditions, ['weft.dev/Accepted False Invalid', `weft.dev/Programmed False ${reason}`])
      assert.match(rules.status.conditions[0]!.message, /^spec\.http\[0\]\.rote: .*Did you mean route\?/)
      const [first] = rules.status.validationMessages
      assert.deepEqual(first!.type, { name: 'SchemaValidationError', code: 'IST0106' })
      assert.equal(first!.level, 'ERROR')
    })
  }

  test('is written once, and again only when something has changed', async () => {
    const fixture = new Fixture(new Rules(GOOD_SPEC))
    const { rules } = fixture
    fixture.update()
    await fixture.settle()
    fixture.update()
    await fixture.settle()
    assert.equal(rules.writes.length, 1)
    rules.change({ spec: BAD_SPEC }, { generation: 2 })
    fixture.update('earlier')
    await fixture.settle()
    assert.equal(rules.writes.length, 2)
    assert.equal(rules.status.observedGeneration, 2)
    rules.change({}, { labels: { a: 'b' } })
    fixture.update('earlier')
    await fixture.settle()
    assert.equal(rules.writes.length, 2)
  })

  test('is not written again because a CRD of others drops fields of it', async () => {
    const fixture = new Fixture(new Rules(BAD_SPEC))
    const { rules } = fixture
    fixture.update('none')
    await fixture.settle()
    const { conditions, validationMessages, observedGeneration } = rules.status
    const status = {
      observedGeneration: String(observedGeneration),
      conditions: conditions.map(({ observedGeneration: _, ...rest }) => rest),
      validationMessages: validationMessages.map(({ level, type }) => ({ level, type })),
    }
    rules.change({ status })
    fixture.update('none')
    await fixture.settle()
    assert.equal(rules.writes.length, 1)
  })

  test('is not written again while its echo is under way', async () => {
    const fixture = new Fixture(new Rules(GOOD_SPEC))
    const old = fixture.rules.object
    fixture.update('written', old)
    fixture.clock.advance(0)
    await new Promise((resolve) => setImmediate(resolve))
    fixture.update('written', old)
    fixture.clock.advance(1_000)
    await new Promise((resolve) => setImmediate(resolve))
    assert.equal(fixture.rules.writes.length, 1)
  })

  test('keeps the conditions of others, and times of what has not changed', async () => {
    const theirs = { type: 'Reconciled', status: 'True' }
    const time = '2020-01-01T00:00:00Z'
    const ours = { type: 'weft.dev/Accepted', status: 'True', reason: 'Old', lastTransitionTime: time }
    const fixture = new Fixture(new Rules(GOOD_SPEC, {}, { conditions: [ours, theirs], addresses: ['x'] }))
    fixture.update()
    await fixture.settle()
    const { status } = fixture.rules
    assert.deepEqual(status.conditions[0], theirs)
    assert.deepEqual((status as unknown as Tree)['addresses'], ['x'])
    const [accepted, programmed] = status.conditions.slice(1)
    assert.equal(accepted!.lastTransitionTime, time)
    assert.notEqual(programmed!.lastTransitionTime, time)
  })

  test('is worked out anew when somebody else has written the status meanwhile', async () => {
    const fixture = new Fixture(new Rules(GOOD_SPEC))
    const old = fixture.rules.object
    fixture.rules.change({ status: { conditions: [{ type: 'Theirs', status: 'True' }] } })
    fixture.update('written', old)
    await fixture.settle()
    assert.deepEqual(
      fixture.rules.status.conditions.map(({ type }) => type),
      ['Theirs', 'weft.dev/Accepted', 'weft.dev/Programmed'],
    )
    assert.equal(fixture.rules.writes.length, 2)
  })

  test('of an older generation is not written over a newer one', async () => {
    const fixture = new Fixture(new Rules(GOOD_SPEC))
    const old = fixture.rules.object
    fixture.rules.change({ spec: BAD_SPEC }, { generation: 2 })
    fixture.update('written', old)
    await fixture.settle()
    assert.equal(fixture.rules.status, undefined)
  })

  test('is tried again after a failure, which is told', async () => {
    const fixture = new Fixture(new Rules(GOOD_SPEC))
    fixture.rules.failures = [failure(503)]
    fixture.update()
    fixture.clock.advance(0)
    await new Promise((resolve) => setImmediate(resolve))
    await new Promise((resolve) => setImmediate(resolve))
    assert.match(fixture.writer.status().problem, /no: 503/)
    assert.equal(fixture.writer.status().waiting, 1)
    await fixture.settle()
    assert.equal(fixture.writer.status().problem, '')
    assert.equal(fixture.rules.conditions.length, 2)
  })

  for (const status of [404, 422]) {
    test(`is not tried again after a ${status}`, async () => {
      const fixture = new Fixture(new Rules(GOOD_SPEC))
      fixture.rules.failures = [failure(status)]
      fixture.update()
      await fixture.settle()
      await fixture.settle()
      assert.equal(fixture.rules.writes.length, 1)
      assert.equal(fixture.writer.status().waiting, 0)
    })
  }

  test('is the leader’s to write, and of rules of this revision', async () => {
    const follower = new Fixture(new Rules(GOOD_SPEC))
    follower.writer.setLeading(false)
    follower.update()
    await follower.settle()
    const other = new Fixture(new Rules(GOOD_SPEC, { labels: { 'weft.dev/rev': 'canary' } }))
    other.update()
    await other.settle()
    assert.equal(follower.rules.writes.length + other.rules.writes.length, 0)
  })

  test('that waits is not written by who has ceased to lead', async () => {
    const fixture = new Fixture(new Rules(GOOD_SPEC))
    fixture.update()
    fixture.writer.setLeading(false)
    await fixture.settle()
    assert.equal(fixture.rules.writes.length, 0)
  })

  test('comes slowly, and what is wrong first', async () => {
    const written: string[] = []
    const clock = new FakeClock()
    const api = {
      get: async () => null,
      request: async (_method: string, path: string) => {
        written.push(path.split('/').at(-2)!)
      },
    }
    const writer = new StatusWriter({ api, revision: '', clock, log: silentLog })
    writer.setLeading(true)
    const objects = ['a', 'b', 'c', 'd'].map((name) => parse(virtualService(name, GOOD_SPEC)))
    writer.update(objects, [], ({ name }) => (name === 'd' ? 'none' : 'written'))
    for (const [ms, expected] of [
      [0, ['d']],
      [49, ['d']],
      [1, ['d', 'a']],
      [50, ['d', 'a', 'b']],
    ] as const) {
      clock.advance(ms)
      for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve))
      assert.deepEqual(written, expected)
    }
    await writer.stop()
  })
})
