/**
 * A mesh inside the test process: real proxies on real sockets and real mutual TLS, on loopback addresses.
 *
 * Every "node" is one MeshProxy. A pod has an address where its proxy listens (127.2x.N.P), an address where its app
 * listens (127.2y.N.P), and dials from the first. Services have one virtual IP per node. Ports are free ones per mesh,
 * except 15008, so every mesh has an address block of its own.
 */
import { performance } from 'node:perf_hooks'
import { Logger, silentLog } from '../../src/base/log.ts'
import { type Delta, EMPTY_DELTA } from '../../src/model/delta.ts'
import { formatIdentity } from '../../src/model/identity.ts'
import type { Policy } from '../../src/model/policy.ts'
import { type Traffic, trafficKey } from '../../src/model/route.ts'
import { type Protocol, type Service, serviceKey } from '../../src/model/service.ts'
import { FAILURE_BY_POLICY, TUNNEL_HBONE, TUNNEL_NONE, type Workload } from '../../src/model/workload.ts'
import {
  LISTEN_HBONE,
  LISTEN_INBOUND,
  LISTEN_OUTBOUND,
  MeshProxy,
  type PodListener,
} from '../../src/proxy/mesh-proxy.ts'
import type { AccessRecord, EdgeKey, EdgeMetrics, Recorder, ViolationSide } from '../../src/telemetry/recorder.ts'
import type { Transport } from '../../src/transport/conn.ts'
import { TestAuthority } from './certificates.ts'
import { defaultKind, type TransportKind } from './transports.ts'

/**
 * Blocks of 127.0.0.0/8, of 256 addresses each, that a process has for its meshes: as many as leave each of some two thousand
 * processes with neighbouring ids its own.
 */
const PROCESS_BLOCKS = 31
const PROCESSES = 2047
/** Meshes of this process so far. */
let meshCount = 0

/** The first three numbers of a mesh's addresses. */
function nextBlock(): string {
  const block = (process.pid % PROCESSES) * PROCESS_BLOCKS + (meshCount++ % PROCESS_BLOCKS)
  return `127.${1 + (block >> 8)}.${block % 256}`
}

export interface TestPodOptions {
  readonly node?: number
  readonly namespace?: string
  readonly serviceAccount?: string
  readonly isEnrolled?: boolean
  /** Enrolled, but by a proxy that is not ours: the test listens on its HBONE port. */
  readonly isForeign?: boolean
  readonly policies?: readonly string[]
}

export interface TestPod {
  readonly name: string
  readonly uid: string
  readonly node: number
  readonly isForeign: boolean
  readonly identity: string
  /** Where clients of other pods reach it, and where it dials from. */
  readonly address: string
  /** Where its app listens. */
  readonly appAddress: string
  workload: Workload
}

export interface TestPort {
  readonly number: number
  readonly targetPort: number
  readonly protocol: Protocol
}

/** What the proxies recorded. */
export class TestRecorder implements Recorder {
  isLogging = true
  readonly records: AccessRecord[] = []
  readonly edges: EdgeKey[] = []
  /** Exchanges by `reporter flag status`. */
  readonly finished = new Map<string, number>()
  /** Side and reason of each. */
  readonly violations: string[] = []
  opened = 0
  closed = 0
  received = 0
  sent = 0
  /** gRPC messages by reporter: of clients, of servers. */
  readonly messages = { source: [0, 0], destination: [0, 0] }

  edge(key: EdgeKey): EdgeMetrics {
    this.edges.push(key)
    return {
      exchangeFinished: (status, _grpcStatus, flag) => {
        const outcome = `${key.reporter} ${flag} ${status}`
        this.finished.set(outcome, (this.finished.get(outcome) ?? 0) + 1)
      },
      grpcMessages: (requests, responses) => {
        const counts = this.messages[key.reporter]
        counts[0]! += requests
        counts[1]! += responses
      },
      connectionOpened: () => {
        this.opened++
      },
      connectionClosed: () => {
        this.closed++
      },
      connectionBytes: (received, sent) => {
        this.received += received
        this.sent += sent
      },
    }
  }

  log(record: AccessRecord): void {
    this.records.push(record)
  }

  violation(side: ViolationSide, reason: string): void {
    this.violations.push(`${side} ${reason}`)
  }
}

class TestNode {
  readonly recorder = new TestRecorder()
  readonly transport: Transport
  readonly proxy: MeshProxy
  readonly pods = new Map<string, TestPod>()

  constructor(index: number, kind: TransportKind) {
    const { pods } = this
    this.transport = kind.create()
    this.proxy = new MeshProxy({
      node: `node${index}`,
      trustDomain: 'cluster.local',
      transport: this.transport,
      recorder: this.recorder,
      log: process.env['WEFT_TEST_LOG'] === undefined ? silentLog : new Logger(`node${index}`, 'debug', console.error),
      sockets: {
        originIn: (uid) => ({ fd: null, localAddress: pods.get(uid)!.address }),
        appAddress: (uid) => pods.get(uid)!.appAddress,
      },
      nowMs: () => performance.now(),
      random: Math.random,
    })
  }
}

export class TestMesh {
  readonly nodes: TestNode[]
  readonly pods: TestPod[] = []
  readonly services: Service[] = []
  readonly authority = new TestAuthority()
  private readonly block: string

  /** `kinds` are the transports by node, one after the other; the agents' default unless given. */
  constructor(nodeCount = 2, kinds: readonly TransportKind[] = [defaultKind]) {
    this.block = nextBlock()
    this.nodes = Array.from({ length: nodeCount }, (_, index) => new TestNode(index, kinds[index % kinds.length]!))
  }

  /** Enrols a pod (unless told not to): its proxy listens for it, and every proxy knows its workload. */
  async pod(name: string, options: TestPodOptions = {}): Promise<TestPod> {
    const { node = 0, namespace = 'default', serviceAccount = name, isEnrolled = true, policies = [] } = options
    const { isForeign = false } = options
    const host = this.pods.length * 2 + 2
    const pod: TestPod = {
      name,
      uid: `Kubernetes//Pod/${namespace}/${name}`,
      node,
      isForeign,
      identity: formatIdentity('cluster.local', namespace, serviceAccount),
      address: `${this.block}.${host}`,
      appAddress: isEnrolled ? `${this.block}.${host + 1}` : `${this.block}.${host}`,
      workload: {
        uid: `Kubernetes//Pod/${namespace}/${name}`,
        name,
        namespace,
        addresses: [`${this.block}.${host}`],
        node: `node${node}`,
        trustDomain: 'cluster.local',
        serviceAccount,
        tunnelProtocol: isEnrolled ? TUNNEL_HBONE : TUNNEL_NONE,
        isHealthy: true,
        services: [],
        policies,
        clusterId: 'Kubernetes',
        locality: { region: '', zone: '', subzone: '' },
        workloadName: name,
        workloadType: 'deployment',
        canonicalName: name,
        canonicalRevision: 'v1',
        capacity: 1,
      },
    }
    this.pods.push(pod)
    this.nodes[node]!.pods.set(pod.uid, pod)
    this.apply({ workloads: [pod.workload] })
    if (isEnrolled && !isForeign) {
      this.issue(pod)
      this.nodes[node]!.proxy.applyDelta({
        ...EMPTY_DELTA,
        pods: [{ uid: pod.uid, netns: '', scope: 'all', failureMode: FAILURE_BY_POLICY }],
      })
      const target = { address: pod.address, port: 15_008, isShared: false }
      await this.listen(pod, [{ role: LISTEN_HBONE, target }])
    }
    return pod
  }

  /** A new certificate for the pod, as at a rotation. */
  issue(pod: TestPod, lifetimeMs?: number): void {
    const node = this.nodes[pod.node]!
    const material = this.authority.leafFor(pod.identity, lifetimeMs === undefined ? {} : { lifetimeMs })
    node.proxy.setCredential(node.transport.tlsContext(material))
  }

  /**
   * A service in front of pods. Clients on node N dial `vip(service, N)`. Inbound plaintext is captured on the target
   * ports of enrolled pods.
   */
  async service(name: string, ports: readonly TestPort[], pods: readonly TestPod[]): Promise<Service> {
    const namespace = pods[0]?.workload.namespace ?? 'default'
    const hostname = `${name}.${namespace}.svc.cluster.local`
    const host = 200 + this.services.length
    const service: Service = {
      key: serviceKey(namespace, hostname),
      name,
      namespace,
      hostname,
      addresses: this.nodes.map((_, index) => `${this.vipBlock(index)}.${host}`),
      ports: ports.map(({ number, targetPort, protocol }) => ({ number, targetPort, name: '', protocol })),
    }
    this.services.push(service)
    for (const pod of pods) {
      const mapping = ports.map(({ number, targetPort }) => ({ servicePort: number, targetPort }))
      const listed = pod.workload.services
      pod.workload = { ...pod.workload, services: [...listed, { service: service.key, ports: mapping }] }
    }
    this.apply({ services: [service], workloads: pods.map((pod) => pod.workload) })
    for (const [index, node] of this.nodes.entries()) {
      const first = [...node.pods.values()].find(
        (pod) => pod.workload.tunnelProtocol === TUNNEL_HBONE && !pod.isForeign,
      )
      if (first === undefined) continue
      await this.listen(
        first,
        ports.map(({ number }) => ({
          role: LISTEN_OUTBOUND,
          target: { address: service.addresses[index]!, port: number, isShared: false },
        })),
      )
    }
    for (const pod of pods) {
      if (pod.workload.tunnelProtocol === TUNNEL_NONE || pod.isForeign) continue
      await this.listen(
        pod,
        ports.map(({ targetPort }) => ({
          role: LISTEN_INBOUND,
          target: { address: pod.address, port: targetPort, isShared: false },
        })),
      )
    }
    return service
  }

  /** The virtual IP of a service as pods of `node` dial it. */
  vip(service: Service, node: number): string {
    return service.addresses[node]!
  }

  apply(delta: Partial<Delta>): void {
    for (const node of this.nodes) node.proxy.applyDelta({ ...EMPTY_DELTA, ...delta })
  }

  policies(...policies: Policy[]): void {
    this.apply({ policies })
  }

  traffic(
    service: Service,
    port: number,
    fields: Pick<Traffic, 'routes' | 'clusters' | 'defaultCluster'> & Partial<Traffic>,
  ): void {
    const key = trafficKey('all', service.key, port)
    const protocol = service.ports.find(({ number }) => number === port)!.protocol
    this.apply({ traffic: [{ key, scope: 'all', service: service.key, port, protocol, tcpClusters: [], ...fields }] })
  }

  close(): void {
    for (const node of this.nodes) node.proxy.close()
  }

  private vipBlock(node: number): string {
    const [a, b, c] = this.block.split('.')
    return `${a}.${b}.${(Number(c) + 1 + node) % 256}`
  }

  private async listen(pod: TestPod, listeners: readonly PodListener[]): Promise<void> {
    await this.nodes[pod.node]!.proxy.addPod({ uid: pod.uid, identity: pod.identity }, listeners)
  }
}
