/**
 * One Weft data path as a process of its own, for measuring: the MeshProxy of a worker on loopback addresses, without
 * capture and without the main thread, so that it does the work that the other proxies do and nothing more.
 *
 * Started with a JSON `WeftPlan` as its argument. Says `ready` on standard output when it listens, and a line of JSON
 * about its heap for every line that it reads; ends with its input.
 */
import { readFileSync } from 'node:fs'
import { PerformanceObserver, performance } from 'node:perf_hooks'
import { createInterface } from 'node:readline'
import { openTransport, type TransportName } from '../../src/agent/worker-transport.ts'
import { Logger } from '../../src/base/log.ts'
import { type Delta, EMPTY_DELTA } from '../../src/model/delta.ts'
import { DEFAULT_RETRY, type Route, type Traffic, trafficKey } from '../../src/model/route.ts'
import {
  BALANCE_LEAST_REQUEST,
  type Cluster,
  clusterKey,
  DEFAULT_POOL_LIMITS,
  PROTOCOL_GRPC,
  PROTOCOL_HTTP1,
  PROTOCOL_HTTP2,
  PROTOCOL_TCP,
  type Protocol,
  type Service,
  serviceKey,
} from '../../src/model/service.ts'
import { FAILURE_BY_POLICY, TUNNEL_HBONE, TUNNEL_NONE, type Workload } from '../../src/model/workload.ts'
import { LISTEN_HBONE, LISTEN_OUTBOUND, METRICS_FLUSH_MS, MeshProxy } from '../../src/proxy/mesh-proxy.ts'
import { WorkerRecorder } from '../../src/telemetry/worker-recorder.ts'
import {
  ADDED_HEADERS,
  BENCH_HOST,
  type Leaf,
  RETRIES,
  ROUTE_COUNT,
  ROUTE_TIMEOUT_MS,
  routePrefix,
  type Site,
  type Topology,
} from '../peers/work.ts'

/** `client` is the only proxy, or the client's side of a pair. */
export interface WeftPlan {
  readonly role: 'client' | 'server'
  readonly transport: TransportName
  readonly site: Site
}

export interface HeapReport {
  readonly usedBytes: number
  readonly collections: number
}

/** What loopback connections come from: the client's pod. */
const CLIENT_ADDRESS = '127.0.0.1'
const TRUST_DOMAIN = 'cluster.local'
const SERVICE_KEY = serviceKey('bench', BENCH_HOST)
const SCOPE = 'all'

const PROTOCOLS: Readonly<Record<Topology, Protocol>> = {
  http: PROTOCOL_HTTP1,
  http2: PROTOCOL_HTTP2,
  grpc: PROTOCOL_GRPC,
  'http-pair': PROTOCOL_HTTP1,
  'tcp-pair': PROTOCOL_TCP,
}

const plan = JSON.parse(process.argv[2]!) as WeftPlan
const { site, role } = plan
const isPair = site.topology.endsWith('-pair')
const serverAddress = isPair ? site.middle.host : site.upstream.host
const client = workload('client', CLIENT_ADDRESS, 'node1', true)
const server = workload('server', serverAddress, 'node2', isPair)
const own = role === 'client' ? client : server

const transport = openTransport(plan.transport)
const recorder = new WorkerRecorder(null)
const proxy = new MeshProxy({
  node: own.node,
  trustDomain: TRUST_DOMAIN,
  transport,
  recorder,
  log: new Logger('bench', 'warn', console.error),
  sockets: {
    originIn: () => ({ fd: null, localAddress: null }),
    appAddress: () => site.upstream.host,
  },
  nowMs: () => performance.timeOrigin + performance.now(),
  random: Math.random,
})
setInterval(() => proxy.flushMetrics(), METRICS_FLUSH_MS).unref()

proxy.applyDelta(mesh())
if (isPair) proxy.setCredential(transport.tlsContext(material(site.certificates[role])))
await proxy.addPod({ uid: own.uid, identity: site.certificates[role].identity }, [
  role === 'client'
    ? { role: LISTEN_OUTBOUND, target: { address: site.listen.host, port: site.listen.port, isShared: false } }
    : { role: LISTEN_HBONE, target: { address: site.middle.host, port: site.middle.port, isShared: false } },
])

let collections = 0
new PerformanceObserver((list) => {
  collections += list.getEntries().length
}).observe({ entryTypes: ['gc'] })

const input = createInterface({ input: process.stdin })
input.on('line', () => {
  // A turn later, so that the observer has heard of what was collected until now.
  setTimeout(() => {
    const heap: HeapReport = { usedBytes: process.memoryUsage().heapUsed, collections }
    console.log(JSON.stringify(heap))
  }, 50)
})
input.on('close', () => process.exit(0))
// In order, so that a profiler writes what it has.
process.on('SIGTERM', () => process.exit(0))
console.log('ready')

// --- the mesh that the proxy knows ---

function mesh(): Delta {
  const protocol = PROTOCOLS[site.topology]
  const { port } = site.listen
  const service: Service = {
    key: SERVICE_KEY,
    name: 'web',
    namespace: 'bench',
    hostname: BENCH_HOST,
    addresses: [site.listen.host],
    ports: [{ number: port, targetPort: site.upstream.port, name: '', protocol }],
  }
  const key = clusterKey(SERVICE_KEY, '', port)
  const cluster: Cluster = {
    key,
    service: SERVICE_KEY,
    subset: '',
    port,
    members: null,
    balance: BALANCE_LEAST_REQUEST,
    limits: DEFAULT_POOL_LIMITS,
    outlier: null,
    isMutualTls: isPair,
  }
  const traffic: Traffic = {
    key: trafficKey(SCOPE, SERVICE_KEY, port),
    scope: SCOPE,
    service: SERVICE_KEY,
    port,
    protocol,
    defaultCluster: key,
    clusters: [cluster],
    routes: protocol === PROTOCOL_TCP ? [] : Array.from({ length: ROUTE_COUNT }, (_, index) => route(index, key)),
    tcpClusters: [],
  }
  return {
    ...EMPTY_DELTA,
    workloads: [client, server],
    services: [service],
    traffic: [traffic],
    pods: [{ uid: own.uid, netns: '', scope: SCOPE, failureMode: FAILURE_BY_POLICY }],
  }
}

function route(index: number, cluster: string): Route {
  return {
    source: 'bench/web',
    name: `route${index}`,
    matches: [
      {
        path: { kind: 'prefix', value: routePrefix(index), ignoreCase: false },
        method: null,
        scheme: null,
        authority: { kind: 'exact', value: BENCH_HOST },
        headers: [],
        query: [],
      },
    ],
    clusters: [{ cluster, weight: 1, requestEdits: null, responseEdits: null, authority: null }],
    redirect: null,
    directResponse: null,
    rewrite: null,
    requestEdits: { set: [], add: ADDED_HEADERS.map(([name, value]) => ({ name, value })), remove: [] },
    responseEdits: null,
    timeoutMs: ROUTE_TIMEOUT_MS,
    retry: { ...DEFAULT_RETRY, attempts: RETRIES },
    fault: null,
    mirrors: [],
  }
}

function workload(name: string, address: string, node: string, isEnrolled: boolean): Workload {
  const isServer = name === 'server'
  return {
    uid: `Kubernetes//Pod/bench/${name}`,
    name,
    namespace: 'bench',
    addresses: [address],
    node,
    trustDomain: TRUST_DOMAIN,
    serviceAccount: name,
    tunnelProtocol: isEnrolled ? TUNNEL_HBONE : TUNNEL_NONE,
    isHealthy: true,
    services: isServer
      ? [{ service: SERVICE_KEY, ports: [{ servicePort: site.listen.port, targetPort: site.upstream.port }] }]
      : [],
    policies: [],
    clusterId: 'Kubernetes',
    locality: { region: '', zone: '', subzone: '' },
    workloadName: name,
    workloadType: 'deployment',
    canonicalName: name,
    canonicalRevision: 'v1',
    capacity: 1,
  }
}

function material({ certificate, key, identity }: Leaf) {
  return {
    identity,
    certificateChain: readFileSync(certificate, 'utf8'),
    key: readFileSync(key, 'utf8'),
    bundle: readFileSync(site.certificates.root, 'utf8'),
    trustDomain: TRUST_DOMAIN,
  }
}
