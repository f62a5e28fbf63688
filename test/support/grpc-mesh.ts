/** Two pods that serve gRPC on a mesh of two nodes: one a hop away from the client, one through a tunnel. */
import type * as grpc from '@grpc/grpc-js'
import { DEFAULT_RETRY, type Fault, type Retry, type Route, type RouteMatch } from '../../src/model/route.ts'
import { type Cluster, clusterKey, DEFAULT_POOL_LIMITS, PROTOCOL_GRPC, type Service } from '../../src/model/service.ts'
import type { AccessRecord } from '../../src/telemetry/recorder.ts'
import { Door, EchoClient } from './grpc-echo.ts'
import { TestMesh, type TestPod } from './mesh.ts'

/** Ways to the two pods, by index. */
export const WAYS: readonly (readonly [number, string])[] = [
  [0, 'in one hop'],
  [1, 'through a tunnel'],
]

export class GrpcMesh {
  readonly mesh: TestMesh
  readonly port: number
  readonly client: TestPod
  readonly pods: TestPod[] = []
  readonly services: Service[] = []
  private readonly doors: Door[] = []
  private readonly clients: EchoClient[] = []

  private constructor(mesh: TestMesh, port: number, client: TestPod) {
    this.mesh = mesh
    this.port = port
    this.client = client
  }

  /** What the pods serve is the caller's: on `pods[index].appAddress` and `port`. */
  static async open(port: number): Promise<GrpcMesh> {
    const mesh = new TestMesh(2)
    const made = new GrpcMesh(mesh, port, await mesh.pod('client', { node: 0 }))
    for (const [index, name] of ['local', 'remote'].entries()) {
      const pod = await mesh.pod(name, { node: index })
      made.pods.push(pod)
      const service = await mesh.service(name, [{ number: port, targetPort: port, protocol: PROTOCOL_GRPC }], [pod])
      made.services.push(service)
      made.doors.push(await Door.open(made.client.address, mesh.vip(service, 0), port))
    }
    return made
  }

  /** A client of the pod's service, from inside the client's pod. */
  echo(index: number, options: grpc.ClientOptions = {}): EchoClient {
    const one = new EchoClient(this.doors[index]!.target, options)
    this.clients.push(one)
    return one
  }

  /** Where grpc-js dials for a service of the caller's own. */
  target(index: number): string {
    return this.doors[index]!.target
  }

  vip(index: number): string {
    return this.mesh.vip(this.services[index]!, 0)
  }

  /** gRPC messages of clients and of servers that a node has counted as `reporter` since the mesh began. */
  messages(node: number, reporter: 'source' | 'destination'): readonly number[] {
    return [...this.mesh.nodes[node]!.recorder.messages[reporter]]
  }

  /** The last exchange that the proxy of a node recorded. */
  lastRecord(node: number): AccessRecord {
    return this.mesh.nodes[node]!.recorder.records.filter(({ http }) => http !== null).at(-1)!
  }

  /** One rule for the pod's service. */
  rules(index: number, route: Partial<Route>): void {
    const to = this.cluster(index)
    const base: Route = {
      source: 'default/rule',
      name: 'rule',
      matches: [],
      clusters: [{ cluster: to.key, weight: 1, requestEdits: null, responseEdits: null, authority: null }],
      redirect: null,
      directResponse: null,
      rewrite: null,
      requestEdits: null,
      responseEdits: null,
      timeoutMs: 0,
      retry: DEFAULT_RETRY,
      fault: null,
      mirrors: [],
    }
    this.mesh.traffic(this.services[index]!, this.port, {
      routes: [{ ...base, ...route }],
      clusters: [to],
      defaultCluster: to.key,
    })
  }

  /** Takes the clients of a test and its rules away. */
  reset(): void {
    for (const one of this.clients.splice(0)) one.close()
    for (const index of this.services.keys()) {
      const to = this.cluster(index)
      this.mesh.traffic(this.services[index]!, this.port, { routes: [], clusters: [to], defaultCluster: to.key })
    }
  }

  close(): void {
    this.mesh.close()
    for (const door of this.doors) door.close()
  }

  private cluster(index: number): Cluster {
    const service = this.services[index]!
    return {
      key: clusterKey(service.key, '', this.port),
      service: service.key,
      subset: '',
      port: this.port,
      members: null,
      balance: 0,
      limits: DEFAULT_POOL_LIMITS,
      outlier: null,
      isMutualTls: true,
    }
  }
}

export const NO_RETRY: Retry = { ...DEFAULT_RETRY, attempts: 0 }

export function retry(fields: Partial<Retry>): Retry {
  return { ...DEFAULT_RETRY, backoffBaseMs: 1, ...fields }
}

/** A fault that hits every request. */
export function abort(fields: Pick<Fault, 'abortStatus' | 'abortGrpcStatus'>): Fault {
  return { delayMs: 0, delayPpm: 0, abortPpm: 1_000_000, ...fields }
}

export function pathIs(value: string): RouteMatch {
  return {
    path: { kind: 'exact', value, ignoreCase: false },
    method: null,
    scheme: null,
    authority: null,
    headers: [],
    query: [],
  }
}
