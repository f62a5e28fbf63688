import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import { Logger } from '../../src/base/log.ts'
import { KubernetesApi } from '../../src/kubernetes/api.ts'
import { LEASES, LeaderElection, replicaName } from '../../src/kubernetes/lease.ts'
import { Events } from '../support/control-plane.ts'
import { answerStatus, FakeApiServer } from '../support/fake-api-server.ts'
import { FakeClock } from '../support/fake-clock.ts'

const NAMESPACE = 'weft-system'
const NAME = 'weft-controller'
const RETRY_MS = 2_000

let server: FakeApiServer
const replicas: Replica[] = []

class Replica {
  readonly clock = new FakeClock()
  readonly changes = new Events<'leading' | 'following'>()
  readonly lines: string[] = []
  readonly election: LeaderElection
  private readonly api: KubernetesApi
  private rounds = 0
  private readonly done = new Events<true>()

  constructor(identity: string, api: KubernetesApi) {
    this.api = api
    // A round is over when it has asked for the next one.
    const clock = {
      now: () => this.clock.now(),
      after: (delayMs: number, callback: () => void) => {
        if (delayMs === RETRY_MS) this.done.push(true)
        return this.clock.after(delayMs, callback)
      },
    }
    this.election = new LeaderElection(
      {
        api: this.api,
        namespace: NAMESPACE,
        name: NAME,
        identity,
        clock,
        log: new Logger('election', 'info', (line) => this.lines.push(line)),
      },
      { onLeading: () => this.changes.push('leading'), onFollowing: () => this.changes.push('following') },
    )
    replicas.push(this)
  }

  static async make(identity: string): Promise<Replica> {
    return new Replica(identity, await KubernetesApi.open({ kubeconfig: server.kubeconfig }))
  }

  /** The first round, or the next one; resolves when it is over. */
  async round(): Promise<void> {
    if (this.rounds++ === 0) this.election.start()
    else this.clock.advance(RETRY_MS)
    await this.done.next()
  }

  async end(): Promise<void> {
    await this.election.stop()
    this.api.close()
  }
}

beforeEach(async () => {
  server = await FakeApiServer.start()
  server.addType(LEASES, 'Lease')
})

afterEach(async () => {
  for (const replica of replicas.splice(0)) await replica.end()
  await server.stop()
})

interface LeaseSpec {
  readonly holderIdentity: string
  readonly leaseDurationSeconds: number
  readonly renewTime: string
  readonly leaseTransitions: number
}

function spec(): LeaseSpec {
  return server.stored(LEASES, NAMESPACE, NAME)?.['spec'] as LeaseSpec
}

/** Somebody else writes it. */
function edit(changed: LeaseSpec): void {
  const metadata = { name: NAME, namespace: NAMESPACE }
  server.put(LEASES, { metadata, spec: changed })
}

test('the first replica makes the Lease and leads', async () => {
  const a = await Replica.make('a')
  await a.round()
  assert.equal(a.election.isLeader, true)
  assert.equal(a.changes.count, 1)
  assert.deepEqual([spec().holderIdentity, spec().leaseDurationSeconds, spec().leaseTransitions], ['a', 15, 0])
  assert.match(spec().renewTime, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$/)
})

test('of two that stand at once exactly one leads', async () => {
  const [a, b] = [await Replica.make('a'), await Replica.make('b')]
  await Promise.all([a.round(), b.round()])
  assert.equal(Number(a.election.isLeader) + Number(b.election.isLeader), 1)
})

test('a leader renews and stays; a follower follows as long as it does', async () => {
  const [a, b] = [await Replica.make('a'), await Replica.make('b')]
  await a.round()
  for (let i = 0; i < 20; i++) {
    await b.round()
    await a.round()
  }
  assert.deepEqual([a.election.isLeader, b.election.isLeader, b.election.holder], [true, false, 'a'])
  assert.equal(spec().leaseTransitions, 0)
})

test('a follower takes a Lease that it saw unchanged for its whole duration, and not a moment sooner', async () => {
  const [a, b] = [await Replica.make('a'), await Replica.make('b')]
  await a.round()
  // The first look begins the wait; 15 s are 8 further looks.
  for (let looks = 0; looks < 8; looks++) await b.round()
  assert.equal(b.election.isLeader, false)
  await b.round()
  assert.equal(b.election.isLeader, true)
  assert.deepEqual([spec().holderIdentity, spec().leaseTransitions], ['b', 1])
  // The old leader finds out with its next renewal.
  await a.round()
  assert.equal(a.election.isLeader, false)
  assert.deepEqual([await a.changes.next(), await a.changes.next()], ['leading', 'following'])
})

test('clocks of replicas may differ by hours', async () => {
  const [a, b] = [await Replica.make('a'), await Replica.make('b')]
  a.clock.advance(7 * 3_600_000)
  await a.round()
  for (let i = 0; i < 20; i++) {
    await b.round()
    await a.round()
  }
  assert.equal(b.election.isLeader, false)
})

test('a leader that cannot renew stops leading before anyone else may take over', async () => {
  const [a, b] = [await Replica.make('a'), await Replica.make('b')]
  await a.round()
  server.answer = (request, response) => {
    if (request.method !== 'PUT') return false
    answerStatus(response, 500, 'InternalError', 'etcd is away')
    return true
  }
  for (let ms = 0; ms < 8_000; ms += RETRY_MS) await a.round()
  assert.equal(a.election.isLeader, true)
  await a.round()
  assert.equal(a.election.isLeader, false)
  // Ten seconds are not fifteen.
  for (let looks = 0; looks < 6; looks++) await b.round()
  assert.equal(b.election.isLeader, false)
  assert.equal(a.lines.filter((line) => line.includes('cannot go on')).length, 1)
  // When it works again one of them leads.
  server.answer = null
  await a.round()
  assert.equal(a.election.isLeader, true)
})

test('a leader keeps on when its Lease was edited, and resigns when it was given to somebody else', async () => {
  const a = await Replica.make('a')
  await a.round()
  edit({ ...spec() })
  await a.round()
  await a.round()
  assert.equal(a.election.isLeader, true)
  edit({ ...spec(), holderIdentity: 'x' })
  await a.round()
  assert.equal(a.election.isLeader, false)
})

test('a leader that stops gives the Lease up; the next one leads at its next look', async () => {
  const [a, b] = [await Replica.make('a'), await Replica.make('b')]
  await a.round()
  await b.round()
  await a.election.stop()
  assert.equal(a.election.isLeader, false)
  assert.equal(spec().holderIdentity, '')
  await b.round()
  assert.equal(b.election.isLeader, true)
})

test('a Lease that was deleted is made again', async () => {
  const a = await Replica.make('a')
  await a.round()
  server.remove(LEASES, NAMESPACE, NAME)
  await a.round()
  await a.round()
  assert.equal(a.election.isLeader, true)
  assert.equal(spec().holderIdentity, 'a')
})

test('without permission nobody leads, and the log says which one is missing', async () => {
  const a = await Replica.make('a')
  server.answer = (_request, response) => {
    answerStatus(response, 403, 'Forbidden', 'leases.coordination.k8s.io is forbidden')
    return true
  }
  await a.round()
  await a.round()
  assert.equal(a.election.isLeader, false)
  const said = a.lines.filter((line) => line.includes('leases.coordination.k8s.io is forbidden'))
  assert.equal(said.length, 1)
  server.answer = null
})

test('no two replicas have one name, not even in one pod', () => {
  assert.notEqual(replicaName(), replicaName())
})
