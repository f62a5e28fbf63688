import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { Carrier } from '../../src/agent/capture.ts'
import { Numbers } from '../../src/agent/carriage.ts'
import type { CarriedNumbers } from '../../src/agent/carried-numbers.ts'
import { KernelCarriage } from '../../src/agent/kernel-carriage.ts'
import { FAMILY_IPV4 } from '../../src/base/address.ts'
import { silentLog } from '../../src/base/log.ts'
import { BackendMap, FrontendMap, VerdictMap } from '../../src/kernel/carry-maps.ts'
import {
  BACKEND,
  BACKEND_KEY,
  FRONTEND,
  FRONTEND_KEY,
  VERDICT_KEY,
  VERDICT_VALUE,
} from '../../src/kernel/layout.generated.ts'
import { type Delta, EMPTY_DELTA } from '../../src/model/delta.ts'
import { ACTION_DENY, POLICY_SCOPE_NAMESPACE, type Policy } from '../../src/model/policy.ts'
import { PROTOCOL_TCP, type Service } from '../../src/model/service.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { FAILURE_BY_POLICY } from '../../src/model/workload.ts'
import { type CarriedChange, carriedKey } from '../../src/proxy/carried-endpoints.ts'
import { MemoryMap } from '../support/memory-map.ts'
import { workloadOf } from '../support/proxy-objects.ts'

const SERVICE: Service = {
  key: 'shop/db.shop.svc.cluster.local',
  name: 'db',
  namespace: 'shop',
  hostname: 'db.shop.svc.cluster.local',
  addresses: ['198.19.0.9'],
  ports: [{ number: 5432, targetPort: 15432, name: 'tcp', protocol: PROTOCOL_TCP }],
}
const CLIENT = workloadOf('client', { namespace: 'shop', addresses: ['198.18.1.1'] })
const SERVER = workloadOf('server', {
  namespace: 'shop',
  addresses: ['198.18.1.2'],
  services: [{ service: SERVICE.key, ports: [{ servicePort: 5432, targetPort: 15432 }] }],
})
const DENY_ALL: Policy = {
  key: 'shop/no',
  name: 'no',
  namespace: 'shop',
  scope: POLICY_SCOPE_NAMESPACE,
  action: ACTION_DENY,
  isDryRun: false,
  rules: [{ clauses: [] }],
}

/** A carriage on maps in memory, of a capture whose pods are CLIENT (1) and SERVER (2). */
class Setup {
  readonly frontends = new FrontendMap(new MemoryMap(FRONTEND_KEY.bytes, FRONTEND.bytes))
  readonly backends = new BackendMap(new MemoryMap(BACKEND_KEY.bytes, BACKEND.bytes))
  readonly verdicts = new VerdictMap(new MemoryMap(VERDICT_KEY.bytes, VERDICT_VALUE.bytes))
  readonly scopes = new Map<string, number>()
  readonly told: CarriedChange[] = []
  readonly carriage: KernelCarriage
  snapshot = Snapshot.empty
  looks = 0

  constructor() {
    const numbers = { scopes: new Numbers(), services: new Numbers(), policies: new Numbers(), save: () => {} }
    const carrier: Carrier = {
      maps: this,
      numbers: numbers as unknown as CarriedNumbers,
      found: new Map(),
      numberOf: (uid) => (uid === CLIENT.uid ? 1 : uid === SERVER.uid ? 2 : null),
      peersOf: () => {
        this.looks++
        return []
      },
      breakOff: () => false,
      setScope: (uid, scope) => this.scopes.set(uid, scope),
    }
    this.carriage = new KernelCarriage(carrier, silentLog, (changes) => this.told.push(...changes))
  }

  async update(delta: Partial<Delta>): Promise<void> {
    this.snapshot = this.snapshot.apply({ ...EMPTY_DELTA, ...delta })
    this.carriage.update(this.snapshot)
    await this.inStep()
  }

  /** Both pods are captured, and everything is in the maps. */
  async begin(): Promise<void> {
    const local = { netns: '', scope: '*', failureMode: FAILURE_BY_POLICY } as const
    this.carriage.adopt(CLIENT.uid)
    this.carriage.adopt(SERVER.uid)
    await this.update({
      services: [SERVICE],
      workloads: [CLIENT, SERVER],
      pods: [CLIENT, SERVER].map(({ uid }) => ({ uid, ...local })),
    })
  }

  async inStep(): Promise<void> {
    while (!this.carriage.isInStep) await nextTurn()
  }

  judged(): string[] {
    return [...this.verdicts.entries()].map(
      ({ pair, isAllowed }) => `${pair.source} to ${pair.destination}: ${isAllowed ? 'allow' : 'deny'}`,
    )
  }

  slots(): number[] {
    return [...this.backends.entries()]
      .filter(({ backend }) => backend.port === 15432)
      .map(({ backend }) => backend.pod)
  }
}

const KEY = carriedKey('', SERVICE.key, 5432, FAMILY_IPV4)

test('what is captured is carried; the proxy hears of it, and pods know their scope', async () => {
  const setup = new Setup()
  await setup.begin()
  assert.deepEqual(setup.judged().sort(), ['1 to 2: allow', '2 to 2: allow'])
  assert.deepEqual(setup.told, [[KEY, [SERVER.uid]]])
  assert.equal(setup.scopes.get(CLIENT.uid), setup.scopes.get(SERVER.uid))
  assert.equal(setup.carriage.names.podOf(2), SERVER)
  for (const { service } of setup.frontends.entries()) assert.equal(setup.carriage.names.serviceOf(service), SERVICE)
  setup.carriage.stop()
})

test('a pod that goes is in no slot at once, before anything is planned anew, and its name is kept', async () => {
  const setup = new Setup()
  await setup.begin()
  setup.carriage.drop(SERVER.uid)
  assert.ok(setup.slots().every((pod) => pod === 0))
  assert.deepEqual(setup.judged(), [])
  await setup.inStep()
  assert.deepEqual(setup.told.at(-1), [KEY, []])
  assert.equal(setup.carriage.names.podOf(2), SERVER)
  setup.carriage.stop()
})

test('open connections are looked at when policies change, and not when anything else does', async () => {
  const setup = new Setup()
  await setup.begin()
  const before = setup.looks
  await setup.update({ workloads: [{ ...SERVER, isHealthy: false }] })
  assert.equal(setup.looks, before)
  await setup.update({ workloads: [SERVER], policies: [DENY_ALL] })
  assert.deepEqual(setup.judged().sort(), ['1 to 2: deny', '2 to 2: deny'])
  assert.ok(setup.looks > before)
  for (const { policy } of setup.verdicts.entries()) assert.equal(setup.carriage.names.policyOf(policy), 'shop/no')
  setup.carriage.stop()
})

test('open connections are looked at when a namespace begins to ask for encryption', async () => {
  const setup = new Setup()
  await setup.begin()
  const before = setup.looks
  const pod = setup.snapshot.pods.get(SERVER.uid)!
  await setup.update({ pods: [{ ...pod, mustEncrypt: true }] })
  assert.ok(setup.looks > before)
  setup.carriage.stop()
})

test('what changes in one go makes one plan, and nothing is planned after the end', async () => {
  const setup = new Setup()
  await setup.begin()
  setup.told.length = 0
  setup.carriage.drop(SERVER.uid)
  setup.carriage.adopt(SERVER.uid)
  await setup.inStep()
  assert.deepEqual(setup.told, [], 'it was never away for the proxy')
  assert.ok(setup.slots().every((pod) => pod === 2))
  setup.carriage.stop()
  setup.carriage.drop(CLIENT.uid)
  assert.equal(setup.carriage.isInStep, true)
})
