/** The kernel carries a part of a service's connections, the proxy the rest: together they keep to the weights. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Numbers } from '../../src/agent/carriage.ts'
import { type CarriagePlan, planCarriage } from '../../src/agent/carriage-plan.ts'
import { FAMILY_IPV4 } from '../../src/base/address.ts'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import { type Traffic, trafficKey } from '../../src/model/route.ts'
import { BALANCE_RANDOM, BALANCE_ROUND_ROBIN, clusterKey, PROTOCOL_TCP, type Service } from '../../src/model/service.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { FAILURE_BY_POLICY, type Workload } from '../../src/model/workload.ts'
import { CarriedEndpoints, carriedKey } from '../../src/proxy/carried-endpoints.ts'
import { ClusterRegistry } from '../../src/proxy/cluster-registry.ts'
import { CompiledTraffic } from '../../src/proxy/route-tables.ts'
import { chooseTcpCluster } from '../../src/proxy/tcp-choice.ts'
import { clusterOf, destination, workloadOf } from '../support/proxy-objects.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const CONNECTIONS = 40_000
const SCOPE = 'shop'
const SERVICE: Service = {
  key: 'shop/db.shop.svc.cluster.local',
  name: 'db',
  namespace: 'shop',
  hostname: 'db.shop.svc.cluster.local',
  addresses: ['198.19.0.9'],
  ports: [{ number: 5432, targetPort: 15432, name: 'tcp', protocol: PROTOCOL_TCP }],
}

function pod(name: string, index: number, capacity: number): Workload {
  return workloadOf(name, {
    addresses: [`198.18.1.${index}`],
    services: [{ service: SERVICE.key, ports: [{ servicePort: 5432, targetPort: 15432 }] }],
    capacity,
  })
}

const PODS = [pod('near', 1, 1), pod('close', 2, 3), pod('far', 3, 1), pod('away', 4, 2), pod('distant', 5, 1)]
const LOCAL = PODS.slice(0, 2)

/** Connections that each endpoint gets: the kernel draws a slot, and what is the agent's comes to a proxy. */
function spread(snapshot: Snapshot, plan: CarriagePlan, traffic: Traffic, seed: number): Map<string, number> {
  const random = new SeededRandom(seed)
  const next = (): number => random.next()
  const carried = new CarriedEndpoints(next)
  carried.change([...plan.carried])
  const clusters = new ClusterRegistry(() => 0, next)
  const compiled = new CompiledTraffic(traffic)
  const frontend = plan.frontends.get('1 198.19.0.9 5432')!
  const counts = new Map<string, number>()
  for (let i = 0; i < CONNECTIONS; i++) {
    const slot = Math.floor(random.next() * frontend.slots)
    const { address, pod: number } = plan.backends.get(`${frontend.service} ${slot}`)!.backend
    let name = PODS.find(({ addresses }) => addresses[0] === address)!.name
    if (number === 0) {
      const port = carried.of(carriedKey(SCOPE, SERVICE.key, 5432, FAMILY_IPV4))
      const cluster = chooseTcpCluster(compiled, port, clusters, snapshot, next)!
      name = (port === null ? cluster.pick(null) : port.pick(cluster, null))!.workload.name
    }
    counts.set(name, (counts.get(name) ?? 0) + 1)
  }
  return counts
}

function meshWith(traffic: Traffic): { snapshot: Snapshot; plan: CarriagePlan } {
  const snapshot = Snapshot.empty.apply({
    ...EMPTY_DELTA,
    services: [SERVICE],
    workloads: PODS,
    traffic: [traffic],
    pods: LOCAL.map(({ uid }) => ({ uid, netns: '/var/run/netns/x', scope: SCOPE, failureMode: FAILURE_BY_POLICY })),
  })
  const pods = new Map(LOCAL.map(({ uid }, index) => [uid, index + 1]))
  const numbers = { scopes: new Numbers(), services: new Numbers(), policies: new Numbers() }
  return { snapshot, plan: planCarriage({ snapshot, pods, mustEncrypt: () => false, ...numbers }) }
}

function trafficWith(fields: Pick<Traffic, 'clusters' | 'tcpClusters'>): Traffic {
  return {
    key: trafficKey(SCOPE, SERVICE.key, 5432),
    scope: SCOPE,
    service: SERVICE.key,
    port: 5432,
    protocol: PROTOCOL_TCP,
    defaultCluster: fields.clusters[0]!.key,
    routes: [],
    ...fields,
  }
}

/** Five standard deviations: with a fixed seed it holds or it does not, on every run. */
function assertShares(counts: ReadonlyMap<string, number>, shares: Readonly<Record<string, number>>): void {
  for (const [name, share] of Object.entries(shares)) {
    const deviation = Math.sqrt(CONNECTIONS * share * (1 - share))
    const gap = Math.abs((counts.get(name) ?? 0) - CONNECTIONS * share)
    assert.ok(gap <= 5 * deviation, `${name}: ${counts.get(name)} of ${CONNECTIONS}, wanted ${share}`)
  }
}

for (const balance of [BALANCE_RANDOM, BALANCE_ROUND_ROBIN] as const) {
  test(`endpoints get connections by capacity, whoever carries them (balance ${balance})`, () => {
    const key = clusterKey(SERVICE.key, '', 5432)
    const traffic = trafficWith({
      clusters: [clusterOf({ key, service: SERVICE.key, port: 5432, balance })],
      tcpClusters: [],
    })
    const { snapshot, plan } = meshWith(traffic)
    const counts = spread(snapshot, plan, traffic, 1)
    assertShares(counts, { near: 1 / 8, close: 3 / 8, far: 1 / 8, away: 2 / 8, distant: 1 / 8 })
  })
}

test('weights of subsets hold when the kernel carries to some of their endpoints', () => {
  const [one, two] = ['v1', 'v2'].map((subset) => clusterKey(SERVICE.key, subset, 5432)) as [string, string]
  const members = (...names: string[]): string[] =>
    PODS.filter(({ name }) => names.includes(name)).map(({ uid }) => uid)
  const settings = { service: SERVICE.key, port: 5432, balance: BALANCE_RANDOM } as const
  const traffic = trafficWith({
    clusters: [
      clusterOf({ ...settings, key: one, members: members('near', 'far') }),
      clusterOf({ ...settings, key: two, members: members('close', 'away') }),
    ],
    tcpClusters: [destination(one, 80), destination(two, 20)],
  })
  const { snapshot, plan } = meshWith(traffic)
  const counts = spread(snapshot, plan, traffic, 2)
  assertShares(counts, { near: 0.4, far: 0.4, close: 0.12, away: 0.08, distant: 0 })
})

test('a subset that the kernel carries alone gets nothing from the proxy', () => {
  const [one, two] = ['v1', 'v2'].map((subset) => clusterKey(SERVICE.key, subset, 5432)) as [string, string]
  const settings = { service: SERVICE.key, port: 5432, balance: BALANCE_RANDOM } as const
  const traffic = trafficWith({
    clusters: [
      clusterOf({ ...settings, key: one, members: [PODS[0]!.uid] }),
      clusterOf({ ...settings, key: two, members: [PODS[2]!.uid] }),
    ],
    tcpClusters: [destination(one, 90), destination(two, 10)],
  })
  const { snapshot, plan } = meshWith(traffic)
  assertShares(spread(snapshot, plan, traffic, 3), { near: 0.9, far: 0.1 })
})

test('what the kernel carries is picked when nothing else is left, and after all others have failed', () => {
  const clusters = new ClusterRegistry(() => 0, Math.random)
  const key = clusterKey(SERVICE.key, '', 5432)
  const cluster = clusterOf({ key, service: SERVICE.key, port: 5432, balance: BALANCE_RANDOM })
  const { snapshot } = meshWith(trafficWith({ clusters: [cluster], tcpClusters: [] }))
  const state = clusters.get(cluster, snapshot)
  const carried = new CarriedEndpoints(Math.random)
  carried.change([['some', PODS.slice(1).map(({ uid }) => uid)]])
  carried.change([['all', PODS.map(({ uid }) => uid)]])
  const first = carried.of('some')!.pick(state, null)!
  assert.equal(first.workload.name, 'near')
  assert.notEqual(carried.of('some')!.pick(state, [first])!.workload.name, 'near')
  assert.notEqual(carried.of('all')!.pick(state, null), null)
  assert.equal(carried.of('all')!.shareOf(state), 0)
  carried.change([['some', []]])
  assert.equal(carried.of('some'), null)
})
