import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  ADDRESSES_MAX,
  type FoundAddresses,
  NamedEndpoints,
  REFRESH_MS_MAX,
  REFRESH_MS_MIN,
} from '../../src/agent/named-endpoints.ts'
import { Logger } from '../../src/base/log.ts'
import { type Delta, EMPTY_DELTA } from '../../src/model/delta.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import type { Workload } from '../../src/model/workload.ts'
import { FakeClock } from '../support/fake-clock.ts'
import { workloadOf } from '../support/proxy-objects.ts'

const HOST = 'api.example.com'

function named(uid: string, hostname = HOST, fields: Partial<Workload> = {}): Workload {
  return workloadOf('api', { uid, addresses: [], hostname, ...fields })
}

/** A NamedEndpoints with a clock, names that the test sets, and the snapshot that comes out of it. */
class Agent {
  readonly clock = new FakeClock()
  readonly asked: string[] = []
  readonly lines: string[] = []
  readonly names = new Map<string, FoundAddresses>()
  deltaCount = 0
  snapshot = Snapshot.empty
  readonly endpoints = new NamedEndpoints({
    lookUp: async (hostname) => {
      this.asked.push(hostname)
      const found = this.names.get(hostname)
      if (found === undefined) throw new Error(`no ${hostname}`)
      return found
    },
    clock: this.clock,
    log: new Logger('test', 'warn', (line) => this.lines.push(line)),
    onDelta: (delta) => {
      this.deltaCount++
      this.snapshot = this.snapshot.apply(delta)
    },
  })

  set(addresses: readonly string[], ttlS = 30, host = HOST): void {
    this.names.set(host, { addresses, ttlMs: ttlS * 1_000 })
  }

  async apply(delta: Partial<Delta>): Promise<void> {
    this.snapshot = this.snapshot.apply(this.endpoints.translate({ ...EMPTY_DELTA, ...delta }))
    await this.settled()
  }

  async advance(ms: number): Promise<void> {
    this.clock.advance(ms)
    await this.settled()
  }

  /** Look-ups under way are over. */
  settled(): Promise<void> {
    return new Promise((resolve) => setImmediate(resolve))
  }

  /** `uid address` of every workload. */
  get state(): string[] {
    return [...this.snapshot.workloads.values()].map(({ uid, addresses }) => `${uid} ${addresses}`).sort()
  }
}

describe('endpoints with a name', () => {
  test('become a workload for each address that the name has, and follow it', async () => {
    const agent = new Agent()
    agent.set(['198.18.5.2', '198.18.5.1', '198.18.5.1'], 10)
    await agent.apply({ workloads: [named('a', HOST, { capacity: 7 }), workloadOf('pod', { uid: 'pod' })] })
    assert.deepEqual(agent.state, ['a/198.18.5.1 198.18.5.1', 'a/198.18.5.2 198.18.5.2', 'pod 198.18.1.1'])
    const made = agent.snapshot.workloads.get('a/198.18.5.1')!
    assert.deepEqual([made.capacity, 'hostname' in made], [7, false])
    agent.set(['198.18.5.2', '198.18.5.3'])
    await agent.advance(9_999)
    assert.equal(agent.asked.length, 1)
    await agent.advance(1)
    assert.deepEqual(agent.state, ['a/198.18.5.2 198.18.5.2', 'a/198.18.5.3 198.18.5.3', 'pod 198.18.1.1'])
    agent.set(['198.18.5.3', '198.18.5.2'])
    await agent.advance(30_000)
    assert.deepEqual([agent.asked.length, agent.deltaCount], [3, 2], 'another order is no change')
  })

  test('are looked up again after their TTL, within bounds', async () => {
    for (const [ttlS, expected] of [
      [0, REFRESH_MS_MIN],
      [20, 20_000],
      [86_400, REFRESH_MS_MAX],
    ] as const) {
      const agent = new Agent()
      agent.set(['198.18.5.1'], ttlS)
      await agent.apply({ workloads: [named('a')] })
      assert.equal(agent.clock.nextDelayMs, expected)
    }
  })

  test('keep their addresses while the name cannot be looked up, which is said once', async () => {
    const agent = new Agent()
    agent.set(['198.18.5.1'])
    await agent.apply({ workloads: [named('a')] })
    agent.names.clear()
    await agent.advance(30_000)
    assert.equal(agent.clock.nextDelayMs, REFRESH_MS_MIN)
    await agent.advance(REFRESH_MS_MIN)
    agent.set([])
    await agent.advance(REFRESH_MS_MIN)
    assert.deepEqual(agent.state, ['a/198.18.5.1 198.18.5.1'])
    assert.equal(agent.lines.length, 1)
    agent.set(['198.18.5.9'])
    await agent.advance(REFRESH_MS_MIN)
    assert.deepEqual(agent.state, ['a/198.18.5.9 198.18.5.9'])
  })

  test('with one name share its look-up, and the last of them ends it', async () => {
    const agent = new Agent()
    agent.set(['198.18.5.1'])
    await agent.apply({ workloads: [named('a'), named('b')] })
    await agent.apply({ workloads: [named('c')] })
    assert.equal(agent.asked.length, 1)
    assert.deepEqual(agent.state, ['a/198.18.5.1 198.18.5.1', 'b/198.18.5.1 198.18.5.1', 'c/198.18.5.1 198.18.5.1'])
    await agent.apply({ removedWorkloads: ['a', 'b'] })
    assert.deepEqual(agent.state, ['c/198.18.5.1 198.18.5.1'])
    await agent.advance(30_000)
    assert.equal(agent.asked.length, 2)
    await agent.apply({ removedWorkloads: ['c'] })
    assert.deepEqual([agent.state, agent.clock.pending], [[], 0])
  })

  test('that change their name or their settings are as the controller says', async () => {
    const agent = new Agent()
    agent.set(['198.18.5.1'])
    agent.set(['198.18.6.1'], 30, 'other.example.com')
    await agent.apply({ workloads: [named('a')] })
    await agent.apply({ workloads: [named('a', HOST, { capacity: 9 })] })
    assert.equal(agent.snapshot.workloads.get('a/198.18.5.1')!.capacity, 9)
    await agent.apply({ workloads: [named('a', 'other.example.com')] })
    assert.deepEqual(agent.state, ['a/198.18.6.1 198.18.6.1'])
    await agent.apply({ workloads: [workloadOf('a', { uid: 'a' })] })
    assert.deepEqual([agent.state, agent.clock.pending], [['a 198.18.1.1'], 0])
    await agent.apply({ removedWorkloads: ['a'] })
    assert.deepEqual(agent.state, [])
  })

  test('that are gone when their look-up ends stay gone', async () => {
    const agent = new Agent()
    agent.set(['198.18.5.1'])
    agent.snapshot = agent.snapshot.apply(agent.endpoints.translate({ ...EMPTY_DELTA, workloads: [named('a')] }))
    await agent.apply({ removedWorkloads: ['a'] })
    assert.deepEqual([agent.state, agent.clock.pending, agent.deltaCount], [[], 0, 0])
    agent.snapshot = agent.snapshot.apply(agent.endpoints.translate({ ...EMPTY_DELTA, workloads: [named('b')] }))
    agent.endpoints.stop()
    await agent.settled()
    assert.deepEqual([agent.state, agent.clock.pending, agent.deltaCount], [[], 0, 0])
  })

  test(`have IPv4 addresses where there are any, and at most ${ADDRESSES_MAX}`, async () => {
    const agent = new Agent()
    agent.set(['fd00::1', '198.18.5.1'])
    await agent.apply({ workloads: [named('a')] })
    assert.deepEqual(agent.state, ['a/198.18.5.1 198.18.5.1'])
    agent.set(['FD00::1', 'nonsense'])
    await agent.advance(30_000)
    assert.deepEqual(agent.state, ['a/fd00::1 fd00::1'])
    agent.set(Array.from({ length: 40 }, (_, i) => `198.18.5.${i + 1}`))
    await agent.advance(30_000)
    assert.equal(agent.state.length, ADDRESSES_MAX)
  })

  test('leave deltas without names as they are', () => {
    const agent = new Agent()
    const delta = { ...EMPTY_DELTA, workloads: [workloadOf('pod')], removedWorkloads: ['x'] }
    assert.equal(agent.endpoints.translate(delta), delta)
  })
})
