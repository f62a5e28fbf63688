/** A mesh of any size as Kubernetes objects: ten pods to a service, one service in five with routes, one in ten with a policy. */
import type { KubernetesObject, ResourceType } from '../../src/kubernetes/api.ts'

/** Pods of one service. */
export const PODS_PER_SERVICE = 10
/** As large clusters have them: what counts is that there are many of each. */
const NAMESPACES = 100
/** Nodes that the pods are on. */
export const NODES = 200

const CORE = (plural: string, isNamespaced = true): ResourceType => ({ group: '', version: 'v1', plural, isNamespaced })
const NETWORKING = { group: 'networking.istio.io', isNamespaced: true }

/** Resources that are written, in the order in which they can be. */
export const TYPES = {
  Namespace: CORE('namespaces', false),
  ServiceAccount: CORE('serviceaccounts'),
  Node: CORE('nodes', false),
  Service: CORE('services'),
  Pod: CORE('pods'),
  EndpointSlice: { group: 'discovery.k8s.io', version: 'v1', plural: 'endpointslices', isNamespaced: true },
  VirtualService: { ...NETWORKING, version: 'v1', plural: 'virtualservices' },
  DestinationRule: { ...NETWORKING, version: 'v1', plural: 'destinationrules' },
  AuthorizationPolicy: {
    group: 'security.istio.io',
    version: 'v1',
    plural: 'authorizationpolicies',
    isNamespaced: true,
  },
} as const satisfies Readonly<Record<string, ResourceType>>

export type BenchKind = keyof typeof TYPES

/** An object to write, and its status, which needs a request of its own. */
export interface BenchObject {
  readonly kind: BenchKind
  readonly object: KubernetesObject
  readonly status: unknown
}

/** All objects for so many pods. */
export function* meshObjects(pods: number): Generator<BenchObject> {
  for (let i = 0; i < NAMESPACES; i++) {
    yield made('Namespace', null, namespaceOf(i), { labels: { 'weft.dev/mesh': 'enabled' } })
    yield made('ServiceAccount', namespaceOf(i), 'default')
  }
  for (let i = 0; i < NODES; i++) {
    const labels = { 'topology.kubernetes.io/region': 'r1', 'topology.kubernetes.io/zone': `z${i % 3}` }
    yield made('Node', null, `bench-${i}`, { labels })
  }
  for (let i = 0; i < pods / PODS_PER_SERVICE; i++) yield* serviceObjects(i)
}

/** One service with its pods and rules. */
function* serviceObjects(index: number): Generator<BenchObject> {
  const namespace = namespaceOf(index)
  const name = `svc-${index}`
  const ports = [
    { name: 'http', port: 80, targetPort: 8080 },
    { name: 'tcp-db', port: 9000, targetPort: 9000 },
  ]
  yield made('Service', namespace, name, {}, { spec: { ports } })
  for (let i = 0; i < PODS_PER_SERVICE; i++) yield podObject(index * PODS_PER_SERVICE + i)
  yield sliceObject(index)
  if (index % 5 === 0) {
    const to = (subset: string, weight: number): unknown => ({ destination: { host: name, subset }, weight })
    const spec = { hosts: [name], http: [{ route: [to('v1', 90), to('v2', 10)] }] }
    yield made('VirtualService', namespace, name, {}, { spec })
    const subsets = ['v1', 'v2'].map((version) => ({ name: version, labels: { version } }))
    yield made('DestinationRule', namespace, name, {}, { spec: { host: name, subsets } })
  }
  if (index % 10 === 0) {
    const rules = [{ from: [{ source: { namespaces: [namespace] } }], to: [{ operation: { methods: ['GET'] } }] }]
    const selector = { matchLabels: { app: name } }
    yield made('AuthorizationPolicy', namespace, name, {}, { spec: { selector, rules } })
  }
}

/** The EndpointSlice of a service. */
export function sliceObject(index: number): BenchObject {
  const namespace = namespaceOf(index)
  const name = `svc-${index}`
  const endpoints = Array.from({ length: PODS_PER_SERVICE }, (_, i) => {
    const pod = podObject(index * PODS_PER_SERVICE + i)
    const { podIP } = pod.status as { podIP: string }
    return {
      addresses: [podIP],
      conditions: { ready: true, serving: true, terminating: false },
      nodeName: (pod.object['spec'] as { nodeName: string }).nodeName,
      targetRef: { kind: 'Pod', name: pod.object.metadata.name, namespace },
    }
  })
  const ports = [
    { name: 'http', port: 8080, protocol: 'TCP' },
    { name: 'tcp-db', port: 9000, protocol: 'TCP' },
  ]
  const labels = { 'kubernetes.io/service-name': name }
  return made('EndpointSlice', namespace, `${name}-a`, { labels }, { addressType: 'IPv4', endpoints, ports })
}

/** A pod as large as those of real clusters: most of it is of no use to a mesh. */
export function podObject(index: number): BenchObject {
  const service = Math.floor(index / PODS_PER_SERVICE)
  const name = `svc-${service}-6d4cf56db6-${index}`
  const labels = { app: `svc-${service}`, version: index % 5 === 0 ? 'v2' : 'v1', 'pod-template-hash': '6d4cf56db6' }
  const env = Array.from({ length: 20 }, (_, i) => ({
    name: `SETTING_${i}`,
    value: `the value of setting ${i} of ${name}`,
  }))
  const container = {
    name: 'app',
    image: 'registry.example.com/team/app:1.2.3',
    ports: [{ name: 'http', containerPort: 8080 }],
    env,
    resources: { requests: { cpu: '100m', memory: '128Mi' }, limits: { memory: '256Mi' } },
    volumeMounts: [{ name: 'config', mountPath: '/etc/app' }],
    readinessProbe: { httpGet: { path: '/ready', port: 8080 } },
  }
  const spec = {
    nodeName: `bench-${index % NODES}`,
    containers: [container, { ...container, name: 'log', ports: [] }],
    volumes: [{ name: 'config', configMap: { name: 'app' } }],
  }
  const podIP = `10.${(index >> 16) & 255}.${(index >> 8) & 255}.${index & 255}`
  const status = {
    phase: 'Running',
    podIP,
    podIPs: [{ ip: podIP }],
    conditions: ['Initialized', 'Ready', 'ContainersReady', 'PodScheduled'].map((type) => ({ type, status: 'True' })),
    containerStatuses: ['app', 'log'].map((one) => ({
      name: one,
      image: container.image,
      imageID: `sha256:${'0'.repeat(64)}`,
      ready: true,
      restartCount: 0,
      state: { running: { startedAt: '2026-01-01T00:00:00Z' } },
    })),
  }
  const ownerReferences = [
    {
      apiVersion: 'apps/v1',
      kind: 'ReplicaSet',
      name: `svc-${service}-6d4cf56db6`,
      uid: `rs-${service}`,
      controller: true,
    },
  ]
  return { ...made('Pod', namespaceOf(service), name, { labels, ownerReferences }, { spec }), status }
}

export function namespaceOf(service: number): string {
  return `bench-${service % NAMESPACES}`
}

function made(
  kind: BenchKind,
  namespace: string | null,
  name: string,
  metadata: object = {},
  content: object = {},
): BenchObject {
  const { group, version } = TYPES[kind]
  const apiVersion = group === '' ? version : `${group}/${version}`
  const place = namespace === null ? { name } : { namespace, name }
  return { kind, object: { apiVersion, kind, metadata: { ...place, ...metadata }, ...content }, status: null }
}
