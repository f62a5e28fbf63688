import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { Numbers } from '../../src/agent/carriage.ts'
import { type CarriagePlan, planCarriage } from '../../src/agent/carriage-plan.ts'
import { slotsOf } from '../../src/agent/carriage-slots.ts'
import { FAMILY_IPV4 } from '../../src/base/address.ts'
import type { Delta } from '../../src/model/delta.ts'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import { ACTION_DENY, EMPTY_POLICY_MATCH, POLICY_SCOPE_NAMESPACE, type Policy } from '../../src/model/policy.ts'
import { type Traffic, trafficKey } from '../../src/model/route.ts'
import {
  clusterKey,
  DEFAULT_POOL_LIMITS,
  PROTOCOL_DETECT,
  PROTOCOL_HTTP1,
  PROTOCOL_TCP,
  PROTOCOL_TLS,
  type Service,
} from '../../src/model/service.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { ENDPOINT_DRAINING, FAILURE_BY_POLICY, type LocalPod, type Workload } from '../../src/model/workload.ts'
import { carriedKey } from '../../src/proxy/carried-endpoints.ts'
import { clusterOf, destination, OUTLIER, workloadOf } from '../support/proxy-objects.ts'

const TCP: Service = {
  key: 'shop/db.shop.svc.cluster.local',
  name: 'db',
  namespace: 'shop',
  hostname: 'db.shop.svc.cluster.local',
  addresses: ['198.19.0.9', 'fd77:9::9'],
  ports: [{ number: 5432, targetPort: 15432, name: 'tcp', protocol: PROTOCOL_TCP }],
}
const SCOPE = 'shop'

function pod(name: string, index: number, fields: Partial<Workload> = {}): Workload {
  return workloadOf(name, {
    addresses: [`198.18.1.${index}`, `fd77:1::${index}`],
    services: [{ service: TCP.key, ports: [{ servicePort: 5432, targetPort: 15432 }] }],
    ...fields,
  })
}

const CLIENT = pod('client', 1, { services: [] })
const NEAR = pod('near', 2)
const FAR = pod('far', 3, { node: 'node2' })

function localPod(workload: Workload): LocalPod {
  return { uid: workload.uid, netns: `/var/run/netns/${workload.name}`, scope: SCOPE, failureMode: FAILURE_BY_POLICY }
}

/** A plan for CLIENT (pod 1) and NEAR (pod 2) on this node, and whatever else `delta` says. */
function plan(delta: Partial<Delta> = {}, mustEncrypt: (workload: Workload) => boolean = () => false): CarriagePlan {
  const snapshot = Snapshot.empty.apply({
    ...EMPTY_DELTA,
    services: [TCP],
    workloads: [CLIENT, NEAR],
    ...delta,
    pods: [localPod(CLIENT), localPod(NEAR)],
  })
  const pods = new Map([
    [CLIENT.uid, 1],
    [NEAR.uid, 2],
  ])
  const numbers = { scopes: new Numbers(), services: new Numbers(), policies: new Numbers() }
  return planCarriage({ snapshot, pods, mustEncrypt, ...numbers })
}

/** `address port -> pod, pod` as the kernel finds it for the only scope: its own frontend, else everyone's. */
function servicesIn({ frontends, backends }: CarriagePlan, wantsFallbacks = false): Record<string, string> {
  const found: Record<string, string> = {}
  for (const address of TCP.addresses) {
    const frontend = frontends.get(`1 ${address} 5432`) ?? frontends.get(`0 ${address} 5432`)
    if (frontend === undefined || frontend.isFallback !== wantsFallbacks) continue
    const pods = Array.from({ length: frontend.slots }, (_, slot) => {
      const { address: target, port, pod: number } = backends.get(`${frontend.service} ${slot}`)!.backend
      return number === 0 ? 'agent' : `${number}=${target} ${port}`
    })
    found[`${address} 5432`] = pods.join(', ')
  }
  return found
}

function traffic(fields: Partial<Traffic>): Partial<Delta> {
  const key = clusterKey(TCP.key, '', 5432)
  const cluster = clusterOf({ key, service: TCP.key, port: 5432 })
  return {
    traffic: [
      {
        key: trafficKey(SCOPE, TCP.key, 5432),
        scope: SCOPE,
        service: TCP.key,
        port: 5432,
        protocol: PROTOCOL_TCP,
        defaultCluster: key,
        clusters: [cluster],
        routes: [],
        tcpClusters: [],
        ...fields,
      },
    ],
  }
}

function policy(name: string, fields: Partial<Policy>): Policy {
  return {
    key: `shop/${name}`,
    name,
    namespace: 'shop',
    scope: POLICY_SCOPE_NAMESPACE,
    action: ACTION_DENY,
    isDryRun: false,
    rules: [],
    ...fields,
  }
}

const BOTH_FAMILIES = { '198.19.0.9 5432': '2=198.18.1.2 15432', 'fd77:9::9 5432': '2=fd77:1::2 15432' }

describe('the plan of what the kernel carries', () => {
  it('has opaque services with an endpoint on this node, each family to its own addresses', () => {
    assert.deepEqual(servicesIn(plan()), BOTH_FAMILIES)
    const tls = { ...TCP, ports: [{ ...TCP.ports[0]!, protocol: PROTOCOL_TLS }] } as Service
    assert.deepEqual(servicesIn(plan({ services: [tls] })), BOTH_FAMILIES)
  })

  for (const [name, protocol] of [
    ['HTTP', PROTOCOL_HTTP1],
    ['undeclared', PROTOCOL_DETECT],
  ] as const) {
    it(`leaves ${name} ports to the agent, by the service and by the pod's own address`, () => {
      const service = { ...TCP, ports: [{ ...TCP.ports[0]!, protocol }] } as Service
      const made = plan({ services: [service] })
      assert.deepEqual([servicesIn(made), made.verdicts.size, made.carried.size], [{}, 0, 0])
      assert.ok([...made.frontends.values()].every(({ isFallback }) => isFallback))
      assert.deepEqual(servicesIn(made, true), { '198.19.0.9 5432': 'agent', 'fd77:9::9 5432': 'agent' })
    })
  }

  it('leaves services with session affinity to the agent, also behind the rules of others', () => {
    const sticky = { ...TCP, affinityMs: 10_000 }
    const made = plan({ services: [sticky] })
    assert.deepEqual([servicesIn(made), made.carried.size], [{}, 0])
    assert.deepEqual(servicesIn(made, true), { '198.19.0.9 5432': 'agent', 'fd77:9::9 5432': 'agent' })
    assert.deepEqual(servicesIn(plan({ services: [sticky], ...traffic({}) })), {})
  })

  it('has no endpoints of other nodes where the service is local to the node', () => {
    const local = plan({ services: [{ ...TCP, isNodeLocal: true }], workloads: [CLIENT, NEAR, FAR] })
    assert.deepEqual(servicesIn(local), BOTH_FAMILIES)
  })

  it('has endpoints that drain only where there is no other', () => {
    const membership = { ...NEAR.services[0]!, readiness: ENDPOINT_DRAINING } as const
    const draining = { ...NEAR, isHealthy: false, services: [membership] }
    assert.deepEqual(servicesIn(plan({ workloads: [CLIENT, draining] })), BOTH_FAMILIES)
    assert.deepEqual(servicesIn(plan({ workloads: [CLIENT, draining, FAR] })), {})
  })

  it('knows no port where only the workload could say which (a named target port)', () => {
    const named = { ...TCP, ports: [{ ...TCP.ports[0]!, targetPort: 0 }] }
    assert.deepEqual(servicesIn(plan({ services: [named] })), BOTH_FAMILIES)
    const unmapped = { ...NEAR, services: [{ service: TCP.key, ports: [] }] }
    assert.deepEqual(servicesIn(plan({ services: [named], workloads: [CLIENT, unmapped] })), {})
  })

  it('gives endpoints elsewhere their share, which the agent gets, and leaves services without local endpoints out', () => {
    const shared = plan({ workloads: [CLIENT, NEAR, FAR] })
    const slots = servicesIn(shared)['198.19.0.9 5432']!.split(', ')
    assert.deepEqual(slots.sort(), ['2=198.18.1.2 15432', 'agent'])
    assert.deepEqual(servicesIn(plan({ workloads: [CLIENT, FAR] })), {})
    assert.deepEqual(servicesIn(plan({ workloads: [CLIENT, { ...NEAR, isHealthy: false }] })), {})
  })

  it('leaves a family that the endpoint has not to the agent', () => {
    const single = plan({ workloads: [CLIENT, { ...NEAR, addresses: ['198.18.1.2'] }] })
    assert.deepEqual(servicesIn(single), { '198.19.0.9 5432': '2=198.18.1.2 15432' })
  })

  it('leaves what must be encrypted, and what has limits that need watching, to the agent', () => {
    assert.deepEqual(servicesIn(plan({}, () => true)), {})
    assert.equal(plan({}, () => true).verdicts.size, 0)
    for (const fields of [
      { limits: { ...DEFAULT_POOL_LIMITS, connectionsMax: 5 } },
      { limits: { ...DEFAULT_POOL_LIMITS, connectTimeoutMs: 100 } },
      { limits: { ...DEFAULT_POOL_LIMITS, connectionAgeMsMax: 1000 } },
      { outlier: OUTLIER },
    ]) {
      const key = clusterKey(TCP.key, '', 5432)
      const cluster = clusterOf({ key, service: TCP.key, port: 5432, ...fields })
      assert.deepEqual(servicesIn(plan(traffic({ clusters: [cluster] }))), {}, JSON.stringify(fields))
    }
  })

  it('follows weights and subsets', () => {
    const [one, two] = ['v1', 'v2'].map((subset) => clusterKey(TCP.key, subset, 5432)) as [string, string]
    const clusters = [
      clusterOf({ key: one, service: TCP.key, port: 5432, members: [NEAR.uid] }),
      clusterOf({ key: two, service: TCP.key, port: 5432, members: [FAR.uid] }),
    ]
    const delta = {
      ...traffic({ clusters, tcpClusters: [destination(one, 75), destination(two, 25)] }),
      workloads: [CLIENT, NEAR, FAR],
    }
    const slots = servicesIn(plan(delta))['198.19.0.9 5432']!.split(', ')
    assert.deepEqual(slots.sort(), [...Array(3).fill('2=198.18.1.2 15432'), 'agent'])
    const unknown = traffic({ clusters: [], tcpClusters: [destination('nothing', 1)] })
    assert.deepEqual(servicesIn(plan(unknown)), {})
  })

  it('has pods dialled by their own addresses', () => {
    const { frontends } = plan()
    const own = [...frontends.values()].filter(({ frontend }) => NEAR.addresses.includes(frontend.address))
    assert.deepEqual(
      own.map(({ frontend, slots }) => [frontend.address, frontend.port, slots]),
      [
        ['198.18.1.2', 15432, 1],
        ['fd77:1::2', 15432, 1],
      ],
    )
  })

  it('judges every pair by policy, by identity and port', () => {
    assert.deepEqual(
      [...plan().verdicts.values()],
      [1, 2].map((source) => ({ pair: { source, destination: 2, port: 15432 }, isAllowed: true, policy: 0 })),
    )
    const match = { ...EMPTY_POLICY_MATCH, namespaces: [{ kind: 'exact', value: 'shop' }] } as const
    const denied = plan({ policies: [policy('no', { rules: [{ clauses: [{ matches: [match] }] }] })] })
    const [verdict] = [...denied.verdicts.values()]
    assert.deepEqual([verdict!.isAllowed, verdict!.policy], [false, 1])
  })

  it('leaves a port to the agent for everyone when somebody cannot be judged beforehand', () => {
    const match = { ...EMPTY_POLICY_MATCH, sourceIps: ['198.18.1.1/32'] }
    const one = policy('one-family', { rules: [{ clauses: [{ matches: [match] }] }] })
    const made = plan({ policies: [one] })
    assert.deepEqual([servicesIn(made), made.carried.size], [{}, 0])
  })

  it('tells which endpoints the kernel carries connections to, by family', () => {
    const single = plan({ workloads: [CLIENT, FAR, { ...NEAR, addresses: ['198.18.1.2'] }] })
    assert.deepEqual([...single.carried], [[carriedKey('', TCP.key, 5432, FAMILY_IPV4), [NEAR.uid]]])
  })

  it('leaves a pair to the agent when policies tell its addresses apart, or one is rehearsed', () => {
    const match = { ...EMPTY_POLICY_MATCH, sourceIps: ['198.18.1.1/32'] }
    const rules = [{ clauses: [{ matches: [match] }] }]
    assert.equal(plan({ policies: [policy('one-family', { rules })] }).verdicts.size, 0)
    const named = { ...EMPTY_POLICY_MATCH, namespaces: [{ kind: 'exact', value: 'shop' }] } as const
    const rehearsed = policy('rehearsed', { isDryRun: true, rules: [{ clauses: [{ matches: [named] }] }] })
    assert.equal(plan({ policies: [rehearsed] }).verdicts.size, 0)
  })
})

describe('slots', () => {
  const share = (pod: number, weight: number) => ({ backend: { address: '198.18.1.1', port: 1, pod }, weight })
  const counts = (weights: readonly number[]): number[] => {
    const slots = slotsOf(weights.map((weight, index) => share(index + 1, weight)))
    return weights.map((_, index) => slots.filter(({ pod }) => pod === index + 1).length)
  }

  it('are as few as weights allow', () => {
    assert.deepEqual(counts([1]), [1])
    assert.deepEqual(counts([5, 5, 5]), [1, 1, 1])
    assert.deepEqual(counts([80, 20]), [4, 1])
    assert.deepEqual(counts([0.5, 0.25, 0.25]), [2, 1, 1])
  })

  it('come close to weights that have no common measure, are 256 then, and leave nobody out', () => {
    for (const weights of [[999, 1], [0.123456, 0.876544], [1, 1, 10_000], Array(100).fill(1).concat(7.77)]) {
      const found = counts(weights)
      assert.equal(
        found.reduce((sum, count) => sum + count, 0),
        256,
      )
      assert.ok(Math.min(...found) >= 1)
    }
    assert.deepEqual(counts([999, 1]), [255, 1])
  })

  it('are 256 for more endpoints than that, one each', () => {
    assert.equal(slotsOf(Array.from({ length: 300 }, (_, index) => share(index + 1, 1))).length, 256)
  })
})
