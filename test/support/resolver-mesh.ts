/** A resolver with a small mesh, a fake upstream and a clock, and pods that ask it. */
import { TimerWheel } from '../../src/base/timers.ts'
import { Resolver } from '../../src/dns/resolver.ts'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import { PROTOCOL_TCP, type Service, type ServicePort, serviceKey } from '../../src/model/service.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import type { Workload } from '../../src/model/workload.ts'
import { DnsCounts } from '../../src/telemetry/dns-counts.ts'
import { type ReadMessage, readMessage } from './dns-messages.ts'
import { FakeUpstream } from './fake-upstream.ts'
import { workloadOf } from './proxy-objects.ts'

/** What pods of these tests have in resolv.conf. */
export const RESOLVER = '198.19.0.10'

/** A pod with both families in namespace shop. */
export const CLIENT: Workload = workloadOf('client', { addresses: ['198.18.2.1', 'fd00::2:1'] })
export const CLIENT_V4: Workload = workloadOf('client-v4', { addresses: ['198.18.2.2'] })
/** Its network was made just now, and nobody has published its addresses yet. */
export const NEWCOMER: Workload = workloadOf('newcomer', { addresses: [] })
export const STRANGER: Workload = workloadOf('stranger', {
  uid: 'Kubernetes//Pod/other/stranger',
  namespace: 'other',
  addresses: ['198.18.2.3', 'fd00::2:3'],
})

const PORTS: readonly ServicePort[] = [{ number: 80, targetPort: 80, name: 'tcp', protocol: PROTOCOL_TCP }]

/** A service of Kubernetes. */
export function clusterService(name: string, namespace: string, addresses: readonly string[]): Service {
  const hostname = `${name}.${namespace}.svc.cluster.local`
  return { key: serviceKey(namespace, hostname), name, namespace, hostname, addresses, ports: PORTS }
}

/** A host of a ServiceEntry. */
export function externalHost(
  hostname: string,
  namespace: string,
  addresses: readonly string[],
  exportTo?: readonly string[],
): Service {
  const service = { key: serviceKey(namespace, hostname), name: hostname, namespace, hostname, addresses, ports: PORTS }
  return exportTo === undefined ? service : { ...service, exportTo }
}

export const SERVICES: readonly Service[] = [
  clusterService('reviews', 'shop', ['198.19.0.1', 'fd00::1:1']),
  clusterService('ratings', 'shop', ['198.19.0.2']),
  clusterService('headless', 'shop', []),
  clusterService('billing', 'other', ['198.19.0.3']),
  externalHost('api.example.com', 'shop', ['198.19.240.1', 'fd00::240:1']),
  externalHost('*.wild.example.com', 'shop', ['198.19.240.9']),
  externalHost('private.example.com', 'shop', ['198.19.240.2'], ['shop']),
  externalHost('hidden.example.com', 'shop', ['198.19.240.3'], []),
]

export class ResolverMesh {
  readonly upstream = new FakeUpstream()
  readonly counts = new DnsCounts()
  readonly timers = new TimerWheel(100)
  readonly resolver: Resolver
  nowMs = 5_000
  /** Id of the next forwarded query. */
  nextId = 0x7000

  constructor(services: readonly Service[] = SERVICES, endpoints: readonly Workload[] = []) {
    const parts = {
      upstream: this.upstream,
      timers: this.timers,
      now: () => this.nowMs,
      randomId: () => this.nextId++,
      counts: this.counts,
    }
    this.resolver = new Resolver(parts)
    this.setServices(services, endpoints)
  }

  setServices(services: readonly Service[], endpoints: readonly Workload[] = []): void {
    const workloads = [CLIENT, CLIENT_V4, NEWCOMER, STRANGER, ...endpoints]
    this.resolver.applySnapshot(Snapshot.empty.apply({ ...EMPTY_DELTA, services, workloads }))
  }

  /** The list that answers to this query are put into; a query that is not answered leaves it empty. */
  send(bytes: Uint8Array, pod: Workload = CLIENT, isTcp = false, resolverAddress = RESOLVER): Uint8Array[] {
    const answers: Uint8Array[] = []
    this.resolver.query(pod.uid, resolverAddress, bytes, isTcp, { answer: (answer) => answers.push(answer) })
    return answers
  }

  /** The answer that came at once; null when the query went out or nothing came. */
  ask(bytes: Uint8Array, pod: Workload = CLIENT, isTcp = false): ReadMessage | null {
    const [answer] = this.send(bytes, pod, isTcp)
    return answer === undefined ? null : readMessage(answer)
  }

  /** Lets time go by, timers with it. */
  wait(ms: number): void {
    for (let passed = 0; passed < ms; passed += this.timers.tickMs) {
      this.nowMs += this.timers.tickMs
      this.timers.advance()
    }
  }

  /** `source/result count` and `reason count`, sorted. */
  counted(): string[] {
    const { queries, failures } = this.counts.take()
    return [
      ...queries.map(({ source, result, count }) => `${source}/${result} ${count}`),
      ...failures.map(({ reason, count }) => `${reason} ${count}`),
    ].sort()
  }
}
