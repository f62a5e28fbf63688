/** Requests, routes, workloads and clusters with everything at its default, for tests of the data path's decisions. */
import type { RequestHead } from '../../src/http/codec.ts'
import { HeaderList } from '../../src/http/headers.ts'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import {
  DEFAULT_RETRY,
  type HeaderEdits,
  type Route,
  type RouteMatch,
  type WeightedCluster,
} from '../../src/model/route.ts'
import {
  BALANCE_ROUND_ROBIN,
  type Cluster,
  clusterKey,
  DEFAULT_POOL_LIMITS,
  type OutlierDetection,
  PROTOCOL_HTTP1,
  type Service,
} from '../../src/model/service.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { TUNNEL_HBONE, type Workload } from '../../src/model/workload.ts'

export interface HeadFields extends Partial<Omit<RequestHead, 'headers'>> {
  readonly headers?: readonly (readonly [string, string])[]
}

export function requestHead(fields: HeadFields = {}): RequestHead {
  return {
    method: 'GET',
    target: '/',
    scheme: 'http',
    authority: 'reviews.shop:9080',
    version: 11,
    bodyLength: 0,
    upgrade: null,
    expectsContinue: false,
    ...fields,
    headers: HeaderList.of(fields.headers ?? []),
  }
}

export function headerPairs(list: HeaderList): [string, string][] {
  return Array.from({ length: list.length }, (_, index) => [list.nameAt(index), list.valueAt(index)])
}

export const NO_EDITS: HeaderEdits = { set: [], add: [], remove: [] }

export const ANY_MATCH: RouteMatch = {
  path: null,
  method: null,
  scheme: null,
  authority: null,
  headers: [],
  query: [],
}

export function destination(cluster: string, weight = 1, fields: Partial<WeightedCluster> = {}): WeightedCluster {
  return { cluster, weight, requestEdits: null, responseEdits: null, authority: null, ...fields }
}

export function routeOf(fields: Partial<Route> = {}): Route {
  return {
    source: 'shop/reviews',
    name: '',
    matches: [],
    clusters: [destination('to-reviews')],
    redirect: null,
    directResponse: null,
    rewrite: null,
    requestEdits: null,
    responseEdits: null,
    timeoutMs: 0,
    retry: DEFAULT_RETRY,
    fault: null,
    mirrors: [],
    ...fields,
  }
}

export const SERVICE: Service = {
  key: 'shop/reviews.shop.svc.cluster.local',
  name: 'reviews',
  namespace: 'shop',
  hostname: 'reviews.shop.svc.cluster.local',
  addresses: ['198.19.0.1'],
  ports: [{ number: 80, targetPort: 9080, name: 'http', protocol: PROTOCOL_HTTP1 }],
}

export function workloadOf(name: string, fields: Partial<Workload> = {}): Workload {
  return {
    uid: `Kubernetes//Pod/shop/${name}`,
    name,
    namespace: 'shop',
    addresses: ['198.18.1.1'],
    node: 'node1',
    trustDomain: 'cluster.local',
    serviceAccount: 'reviews',
    tunnelProtocol: TUNNEL_HBONE,
    isHealthy: true,
    services: [{ service: SERVICE.key, ports: [{ servicePort: 80, targetPort: 9080 }] }],
    policies: [],
    clusterId: 'Kubernetes',
    locality: { region: '', zone: '', subzone: '' },
    workloadName: 'reviews',
    workloadType: 'deployment',
    canonicalName: 'reviews',
    canonicalRevision: 'v1',
    capacity: 1,
    ...fields,
  }
}

export function clusterOf(fields: Partial<Cluster> = {}): Cluster {
  return {
    key: clusterKey(SERVICE.key, '', 80),
    service: SERVICE.key,
    subset: '',
    port: 80,
    members: null,
    balance: BALANCE_ROUND_ROBIN,
    limits: DEFAULT_POOL_LIMITS,
    outlier: null,
    isMutualTls: true,
    ...fields,
  }
}

export const OUTLIER: OutlierDetection = {
  consecutive5xx: 3,
  consecutiveGatewayErrors: 0,
  intervalMs: 10_000,
  baseEjectionMs: 30_000,
  ejectionPercentMax: 100,
  healthPercentMin: 0,
}

/** A snapshot with SERVICE and `workloads`. */
export function snapshotOf(workloads: readonly Workload[]): Snapshot {
  return Snapshot.empty.apply({ ...EMPTY_DELTA, services: [SERVICE], workloads })
}

/** A clock that a test moves. */
export class TestClock {
  nowMs: number

  constructor(nowMs = 1_000_000) {
    this.nowMs = nowMs
  }

  readonly read = (): number => this.nowMs
}
