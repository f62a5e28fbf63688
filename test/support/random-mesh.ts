/**
 * A small mesh of Kubernetes objects that changes at random: few names, addresses, hosts and labels, so that everything
 * meets everything else. Many of the objects are at odds with each other, some are wrong.
 */
import assert from 'node:assert/strict'
import { type MeshObject, parseObject } from '../../src/compiler/object.ts'
import type { SeededRandom } from './seeded-random.ts'

type Tree = Record<string, unknown>

const NAMESPACES = ['shop', 'bank', 'outside', 'istio-system'] as const
/** Where objects are: mostly where others are. */
const PLACES = [...NAMESPACES, 'shop', 'shop', 'shop', 'shop', 'bank'] as const
const NODES = ['node1', 'node2', 'node3'] as const
const SERVICES = ['web', 'cart', 'db', 'cache'] as const
const PODS = ['web-1', 'web-2', 'cart-1', 'cart-2', 'db-0', 'alone'] as const
const VERSIONS = ['v1', 'v2'] as const
const NAMES = ['one', 'two', 'three'] as const

/** How often each kind changes: pods and slices most of all, as in a cluster. */
const KINDS = [
  ...new Array<'Pod'>(8).fill('Pod'),
  ...new Array<'EndpointSlice'>(6).fill('EndpointSlice'),
  ...new Array<'Service'>(3).fill('Service'),
  ...(['Namespace', 'Node', 'VirtualService', 'VirtualService', 'DestinationRule', 'DestinationRule'] as const),
  ...(['ServiceEntry', 'ServiceEntry', 'PeerAuthentication', 'AuthorizationPolicy', 'AuthorizationPolicy'] as const),
  'HTTPRoute' as const,
]

/** See the head of the file. An object that does not change stays the very same. */
export class RandomMesh {
  private readonly random: SeededRandom
  private readonly byPlace = new Map<string, MeshObject>()

  constructor(random: SeededRandom) {
    this.random = random
    for (const name of NAMESPACES) this.put(this.namespace(name))
    for (let i = 0; i < 60; i++) this.change()
  }

  /** In the order in which they came. */
  get objects(): readonly MeshObject[] {
    return [...this.byPlace.values()]
  }

  /** One object comes, changes or goes. */
  change(): void {
    const { random } = this
    const dice = random.next()
    if (dice < 0.2 && this.byPlace.size > 12) {
      this.byPlace.delete(random.pick([...this.byPlace.keys()]))
      return
    }
    if (dice < 0.3 && this.byPlace.size > 0) {
      // The same, read anew; and now and then younger, or with one label more.
      const raw = structuredClone(random.pick(this.objects).raw) as Tree
      const metadata = raw['metadata'] as Tree
      if (random.next() < 0.3) metadata['creationTimestamp'] = this.time()
      if (random.next() < 0.3) metadata['labels'] = { ...(metadata['labels'] as object), extra: random.pick(NAMES) }
      this.put(raw)
      return
    }
    this.put(this.object(random.pick(KINDS)))
  }

  /** A rule that somebody may be about to write. */
  candidate(): MeshObject {
    const { random } = this
    const kinds = ['VirtualService', 'DestinationRule', 'AuthorizationPolicy', 'ServiceEntry'] as const
    return parsed(this.object(random.pick(kinds)))
  }

  private put(raw: Tree): void {
    const object = parsed(raw)
    // Twins: the same object in another version of its API.
    this.byPlace.set(`${object.apiVersion} ${object.key}`, object)
  }

  private object(kind: (typeof KINDS)[number]): Tree {
    const { random } = this
    const name = random.pick(NAMES)
    switch (kind) {
      case 'Namespace':
        return this.namespace(random.pick(NAMESPACES))
      case 'Node': {
        const labels = { 'topology.kubernetes.io/zone': random.pick(['z1', 'z2']) }
        return this.made('v1', 'Node', null, random.pick(NODES), { labels })
      }
      case 'Pod':
        return this.pod()
      case 'Service':
        return this.service()
      case 'EndpointSlice':
        return this.slice()
      case 'VirtualService':
        return this.rule('networking.istio.io', kind, name, this.virtualServiceSpec())
      case 'DestinationRule':
        return this.rule('networking.istio.io', kind, name, this.destinationRuleSpec())
      case 'ServiceEntry':
        return this.rule('networking.istio.io', kind, name, this.serviceEntrySpec())
      case 'PeerAuthentication':
        return this.rule('security.istio.io', kind, name, this.peerSpec())
      case 'AuthorizationPolicy':
        return this.rule('security.istio.io', kind, name, this.policySpec())
      default:
        return this.made('gateway.networking.k8s.io/v1', kind, random.pick(PLACES), name, {}, { spec: {} })
    }
  }

  // --- what Kubernetes says ---

  private namespace(name: string): Tree {
    const { random } = this
    return this.made('v1', 'Namespace', null, name, {
      labels: {
        ...this.maybe(0.7, { 'weft.dev/mesh': random.pick(['enabled', 'enabled', 'disabled', 'maybe']) }),
        ...this.maybe(0.2, { 'weft.dev/rev': random.pick(['', 'other']) }),
      },
      annotations: {
        ...this.maybe(0.2, { 'weft.dev/failure-mode': random.pick(['open', 'closed', 'ajar']) }),
        ...this.maybe(0.2, { 'weft.dev/dns-capture': random.pick(['true', 'false']) }),
        ...this.maybe(0.2, { 'weft.dev/encrypt-same-node': random.pick(['true', 'false', 'x']) }),
      },
    })
  }

  private pod(): Tree {
    const { random } = this
    const name = random.pick(PODS)
    const metadata = {
      labels: {
        app: name.split('-')[0]!,
        version: random.pick(VERSIONS),
        ...this.maybe(0.1, { 'weft.dev/mesh': random.pick(['enabled', 'disabled', 'x']) }),
        ...this.maybe(0.1, { 'weft.dev/rev': 'other' }),
      },
      annotations: this.maybe(0.1, { 'weft.dev/failure-mode': random.pick(['open', 'x']) }),
      uid: `uid-${random.integer(1, 2)}`,
      ...this.maybe(0.1, { deletionTimestamp: this.time() }),
      ...this.maybe(0.3, { ownerReferences: [{ kind: 'ReplicaSet', name: `${name}-abc`, controller: true }] }),
    }
    const container = {
      name: 'app',
      ports: [{ name: 'http', containerPort: random.pick([8080, 8081]) }],
      ...this.maybe(0.3, { readinessProbe: { httpGet: { port: random.pick([8080, 'http']) } } }),
      ...this.maybe(0.1, { securityContext: { privileged: true } }),
    }
    const spec = {
      ...this.maybe(0.9, { nodeName: random.pick(NODES) }),
      ...this.maybe(0.3, { serviceAccountName: random.pick(NAMES) }),
      ...this.maybe(0.1, { hostNetwork: true }),
      containers: [container],
    }
    const address = `10.0.0.${random.integer(1, 12)}`
    const status = {
      phase: random.pick(['Running', 'Running', 'Running', 'Pending', 'Succeeded']),
      ...this.maybe(0.85, { podIP: random.next() < 0.03 ? 'nonsense' : address }),
      ...this.maybe(0.1, { podIPs: [{ ip: address }, { ip: `fd00::${random.integer(1, 4)}` }] }),
      ...this.maybe(0.6, { conditions: [{ type: 'Ready', status: random.pick(['True', 'True', 'False']) }] }),
    }
    return this.made('v1', 'Pod', random.pick(PLACES), name, metadata, { spec, status })
  }

  private service(): Tree {
    const { random } = this
    const name = random.pick(SERVICES)
    const address = random.next() < 0.15 ? 'None' : `10.1.0.${random.integer(1, 10)}`
    const ports = [
      { name: random.pick(['http', 'tcp']), port: 80, targetPort: random.pick([8080, 'http', 'absent']) },
      ...random.list(1, () => ({ name: 'grpc', port: 81 })),
    ]
    const spec = {
      ...this.maybe(0.8, { clusterIP: address }),
      ...this.maybe(0.7, { selector: { app: name } }),
      ...this.maybe(0.1, { type: 'ExternalName', externalName: 'elsewhere.example.com' }),
      ...this.maybe(0.1, { publishNotReadyAddresses: true }),
      ...this.maybe(0.1, { internalTrafficPolicy: 'Local' }),
      ports,
    }
    const annotations = this.maybe(0.1, { 'networking.istio.io/exportTo': random.pick(['.', 'shop', '~', '!']) })
    return this.made('v1', 'Service', random.pick(PLACES), name, { annotations }, { spec })
  }

  private slice(): Tree {
    const { random } = this
    const service = random.pick(SERVICES)
    const endpoints = random.list(4, () => ({
      addresses: [`10.0.0.${random.integer(1, 14)}`],
      conditions: { ready: random.next() < 0.8, serving: random.boolean(), terminating: random.next() < 0.2 },
      ...this.maybe(0.8, {
        targetRef: { kind: 'Pod', name: random.pick(PODS), ...this.maybe(0.3, { uid: 'uid-1' }) },
      }),
      ...this.maybe(0.2, { hostname: random.pick(NAMES) }),
      ...this.maybe(0.2, { zone: 'z1', hints: { forZones: [{ name: 'z1' }] } }),
      ...this.maybe(0.2, { nodeName: random.pick(NODES) }),
    }))
    const ports = [{ name: random.pick(['http', 'tcp']), port: 8080, protocol: 'TCP' }]
    const metadata = { labels: this.maybe(0.95, { 'kubernetes.io/service-name': service }) }
    const name = `${service}-${random.pick(['a', 'b'])}`
    const content = { addressType: 'IPv4', endpoints, ports }
    return this.made('discovery.k8s.io/v1', 'EndpointSlice', random.pick(PLACES), name, metadata, content)
  }

  // --- rules ---

  private host(): string {
    const { random } = this
    const service = random.pick(SERVICES)
    const full = `${service}.${random.pick(PLACES)}.svc.cluster.local`
    const short = random.pick([service, service, full, '*.shop.svc.cluster.local', 'api.example.com', 'nobody'])
    return short
  }

  private virtualServiceSpec(): unknown {
    const { random } = this
    const destination = (): unknown => ({
      host: this.host().replace('*', 'web'),
      ...this.maybe(0.5, { subset: random.pick(VERSIONS) }),
      ...this.maybe(0.2, { port: { number: random.pick([80, 81, 9]) } }),
    })
    const match = (): unknown => ({
      ...this.maybe(0.5, { uri: { prefix: random.pick(['/', '/a']) } }),
      ...this.maybe(0.3, { sourceLabels: { version: random.pick(VERSIONS) } }),
      ...this.maybe(0.2, { sourceNamespace: random.pick(NAMESPACES) }),
      ...this.maybe(0.2, { port: 80 }),
    })
    const http = random.list(2, () => ({
      ...this.maybe(0.6, { match: [match()] }),
      route: [{ destination: destination() }],
      ...this.maybe(0.2, { timeout: random.pick(['1s', 'soon']) }),
    }))
    return {
      hosts: [this.host()],
      ...this.exported(),
      ...(http.length === 0 ? { tcp: [{ route: [{ destination: destination() }] }] } : { http }),
    }
  }

  private destinationRuleSpec(): unknown {
    const { random } = this
    const subsets = random.list(2, () => random.pick([...VERSIONS, 'v3']))
    return {
      host: this.host(),
      ...this.exported(),
      subsets: [...new Set(subsets)].map((name) => ({ name, labels: { version: name } })),
      ...this.maybe(0.4, { trafficPolicy: { loadBalancer: { simple: random.pick(['RANDOM', 'ROUND_ROBIN']) } } }),
      ...this.maybe(0.2, { workloadSelector: { matchLabels: { version: random.pick(VERSIONS) } } }),
    }
  }

  private serviceEntrySpec(): unknown {
    const { random } = this
    const isStatic = random.boolean()
    const host = random.pick(['api.example.com', 'db.example.com', 'web.shop.svc.cluster.local'])
    return {
      hosts: [host],
      ...this.exported(),
      ports: [{ number: 80, name: 'http', protocol: 'HTTP' }],
      resolution: isStatic ? 'STATIC' : random.pick(['DNS', 'NONE']),
      ...this.maybe(0.3, { addresses: [`10.1.0.${random.integer(1, 12)}`] }),
      ...(isStatic ? { endpoints: random.list(3, () => ({ address: `10.0.0.${random.integer(1, 14)}` })) } : {}),
    }
  }

  private peerSpec(): unknown {
    const { random } = this
    const selector = this.maybe(0.5, { selector: { matchLabels: { version: random.pick(VERSIONS) } } })
    return {
      ...selector,
      mtls: { mode: random.pick(['STRICT', 'STRICT', 'PERMISSIVE', 'DISABLE', 'UNSET']) },
      ...('selector' in selector ? this.maybe(0.5, { portLevelMtls: { 8080: { mode: 'PERMISSIVE' } } }) : {}),
    }
  }

  private policySpec(): unknown {
    const { random } = this
    const target = random.next()
    return {
      ...(target < 0.4 ? { selector: { matchLabels: { app: random.pick(['web', 'cart', 'nobody']) } } } : {}),
      ...(target > 0.8 ? { targetRefs: [{ kind: 'Service', group: '', name: random.pick(SERVICES) }] } : {}),
      action: random.pick(['ALLOW', 'DENY', 'DENY', 'CUSTOM']),
      rules: random.list(2, () => ({
        ...this.maybe(0.6, { to: [{ operation: { methods: ['GET'], ...this.maybe(0.3, { ports: ['8080'] }) } }] }),
        ...this.maybe(0.5, { from: [{ source: { namespaces: [random.pick(NAMESPACES)] } }] }),
      })),
    }
  }

  // --- parts ---

  private rule(group: string, kind: string, name: string, spec: unknown): Tree {
    const { random } = this
    const version = random.pick(['v1', 'v1', 'v1', 'v1beta1'])
    const labels = this.maybe(0.1, { 'weft.dev/rev': random.pick(['', 'other']) })
    const content = { spec, ...this.maybe(0.05, { spce: {} }) }
    return this.made(`${group}/${version}`, kind, random.pick(PLACES), name, { labels }, content)
  }

  private exported(): object {
    return this.maybe(0.3, { exportTo: [this.random.pick(['.', '*', ...NAMESPACES])] })
  }

  private made(
    apiVersion: string,
    kind: string,
    namespace: string | null,
    name: string,
    metadata: object = {},
    content: object = {},
  ): Tree {
    const place = namespace === null ? { name } : { namespace, name }
    return { apiVersion, kind, metadata: { ...place, creationTimestamp: this.time(), ...metadata }, ...content }
  }

  /** Few different ones, so that objects are as old as each other. */
  private time(): string {
    return `2026-01-01T00:00:0${this.random.integer(0, 4)}Z`
  }

  private maybe<T extends object>(share: number, content: T): T | object {
    return this.random.next() < share ? content : {}
  }
}

function parsed(raw: Tree): MeshObject {
  const object = parseObject(raw, () => null)
  assert.ok(!Array.isArray(object), JSON.stringify(object))
  return object as MeshObject
}
