/**
 * What the demo consists of: nodes, pods, services and all their addresses. Pure data from the capture kind; everything
 * else in this folder (topology, manifests, programs, checks) is derived from it.
 *
 *      node1  198.18.0.1 ----------------- 198.18.0.2  node2
 *      productpage, reviews-v1,                client, details, reviews-v2,
 *      reviews-v3, greeter                     ratings, tcp-echo, outsider
 *
 * Pods lie so that there are edges between the nodes and on one node for HTTP as well as TCP. In loopback capture the
 * same pods are addresses of 127.0.0.0/8: 127.20.N.x where the agent listens for a pod and from where it calls, and
 * 127.21.N.x where its program listens.
 */

export type CaptureKind = 'ebpf' | 'loopback'

/** Everything the demo makes in the kernel or on disk bears this name. */
export const DEMO_NAME = 'weft-demo'

export interface DemoNode {
  readonly name: string
  /** Name of its network namespace; null on loopback addresses. */
  readonly netns: string | null
  readonly address: string
  /** Address of the pods' gateway and its prefix, of the node's bridge; null on loopback addresses. */
  readonly bridge: { readonly ipv4: string; readonly ipv6: string } | null
  /** Loopback only: the block of service addresses on which this node's agent listens. */
  readonly serviceBlock: string | null
}

export interface DemoPod {
  readonly name: string
  readonly namespace: string
  readonly node: string
  readonly labels: Readonly<Record<string, string>>
  readonly serviceAccount: string
  /** Program under deploy/demo, without its extension. */
  readonly program: string
  readonly environment: Readonly<Record<string, string>>
  readonly netns: string | null
  /** The pod's addresses, IPv4 first. */
  readonly addresses: readonly string[]
  /** Loopback only: where its program listens. */
  readonly appAddress: string | null
}

export interface DemoService {
  readonly name: string
  readonly namespace: string
  readonly addresses: readonly string[]
  readonly selector: Readonly<Record<string, string>>
  readonly ports: readonly { readonly name: string | null; readonly port: number }[]
}

export interface DemoNamespace {
  readonly name: string
  readonly isMeshed: boolean
}

export interface DemoPlan {
  /** Everything made in the kernel or on disk for this plan bears this name. */
  readonly name: string
  readonly kind: CaptureKind
  readonly nodes: readonly DemoNode[]
  readonly namespaces: readonly DemoNamespace[]
  readonly pods: readonly DemoPod[]
  readonly services: readonly DemoService[]
  /** Blocks of service addresses that never leave a pod, captured or not. */
  readonly localBlocks: readonly string[]
  /** `host:port` at which agents find the controller. */
  readonly controller: string
}

/** Virtual addresses of the services; only the mesh knows the way to them. */
export const SERVICE_BLOCKS: readonly string[] = ['198.19.0.0/16', 'fd77:ffff::/64']

const CONTROLLER_PORT = 15_012
const SHOP = 'default'
/** Namespace with STRICT peer authentication (deploy/demo/mesh/peers.yaml). */
const VAULT = 'vault'
const OUTSIDE = 'outside'

type PodRow = Pick<DemoPod, 'name' | 'namespace' | 'labels' | 'serviceAccount' | 'program' | 'environment'> & {
  readonly nodeIndex: 1 | 2
}

function shopPod(nodeIndex: 1 | 2, app: string, version: string, name = app): PodRow {
  return {
    name,
    namespace: SHOP,
    nodeIndex,
    labels: { app, version },
    serviceAccount: `bookinfo-${app}`,
    program: app,
    environment: app === 'reviews' ? { VERSION: version } : {},
  }
}

function otherPod(nodeIndex: 1 | 2, namespace: string, name: string, program: string): PodRow {
  return {
    name,
    namespace,
    nodeIndex,
    labels: { app: name, version: 'v1' },
    serviceAccount: name,
    program,
    environment: {},
  }
}

const PODS: readonly PodRow[] = [
  shopPod(1, 'productpage', 'v1'),
  shopPod(1, 'reviews', 'v1', 'reviews-v1'),
  shopPod(2, 'reviews', 'v2', 'reviews-v2'),
  shopPod(1, 'reviews', 'v3', 'reviews-v3'),
  shopPod(2, 'details', 'v1'),
  shopPod(2, 'ratings', 'v1'),
  otherPod(2, VAULT, 'tcp-echo', 'tcp-echo'),
  otherPod(1, VAULT, 'greeter', 'greeter'),
  otherPod(2, SHOP, 'client', 'load'),
  otherPod(2, OUTSIDE, 'outsider', 'idle'),
]

const SERVICES: readonly (Pick<DemoService, 'name' | 'namespace' | 'ports'> & { readonly app: string })[] = [
  ...['productpage', 'details', 'reviews', 'ratings'].map((name) => ({
    name,
    namespace: SHOP,
    app: name,
    ports: [{ name: 'http', port: 9080 }],
  })),
  {
    name: 'tcp-echo',
    namespace: VAULT,
    app: 'tcp-echo',
    ports: [
      { name: 'tcp', port: 9000 },
      { name: 'tcp-other', port: 9001 },
    ],
  },
  // No name, so no declared protocol: the mesh has to find out, and this server speaks first.
  { name: 'greeter', namespace: VAULT, app: 'greeter', ports: [{ name: null, port: 7000 }] },
]

/** The whole demo for one kind of capture. */
export function demoPlan(kind: CaptureKind): DemoPlan {
  const nodes = [1, 2].map((index) => demoNode(kind, index))
  return {
    name: DEMO_NAME,
    kind,
    nodes,
    namespaces: [
      { name: SHOP, isMeshed: true },
      { name: VAULT, isMeshed: true },
      { name: OUTSIDE, isMeshed: false },
    ],
    pods: PODS.map((row, i) => demoPod(kind, row, i)),
    services: SERVICES.map(({ app, ...service }, i) => ({
      ...service,
      selector: { app },
      // Offset 10 keeps clear of addresses that users add by hand.
      addresses: serviceAddresses(kind, i + 10),
    })),
    localBlocks: SERVICE_BLOCKS,
    controller: `${nodes[0]!.address}:${CONTROLLER_PORT}`,
  }
}

/** On loopback addresses each node has its own for every service, since both agents listen on the same interface. */
function serviceAddresses(kind: CaptureKind, host: number): readonly string[] {
  return kind === 'ebpf' ? [`198.19.0.${host}`, `fd77:ffff::${host}`] : [`127.30.1.${host}`, `127.30.2.${host}`]
}

function demoNode(kind: CaptureKind, index: number): DemoNode {
  const name = `node${index}`
  if (kind === 'loopback') {
    const serviceBlock = `127.30.${index}.0/24`
    return { name, netns: null, address: `127.10.0.${index}`, bridge: null, serviceBlock }
  }
  return {
    name,
    netns: `${DEMO_NAME}-${name}`,
    address: `198.18.0.${index}`,
    bridge: { ipv4: `198.18.${index}.1/24`, ipv6: `fd77:${index}::1/64` },
    serviceBlock: null,
  }
}

function demoPod(kind: CaptureKind, { nodeIndex, ...row }: PodRow, position: number): DemoPod {
  const node = `node${nodeIndex}`
  const host = position + 10
  if (kind === 'loopback') {
    const addresses = [`127.20.${nodeIndex}.${host}`]
    return { ...row, node, netns: null, addresses, appAddress: `127.21.${nodeIndex}.${host}` }
  }
  const addresses = [`198.18.${nodeIndex}.${host}`, `fd77:${nodeIndex}::${host}`]
  return { ...row, node, netns: `${DEMO_NAME}-${row.name}`, addresses, appAddress: null }
}

/** The pod of that name. Throws when the plan has none. */
export function podNamed(plan: DemoPlan, name: string): DemoPod {
  const pod = plan.pods.find((candidate) => candidate.name === name)
  if (pod === undefined) throw new Error(`the demo has no pod ${name}`)
  return pod
}

/** The service of that name. Throws when the plan has none. */
export function serviceNamed(plan: DemoPlan, name: string): DemoService {
  const service = plan.services.find((candidate) => candidate.name === name)
  if (service === undefined) throw new Error(`the demo has no service ${name}`)
  return service
}

/** Names by which the pods of a node reach the services, with the address that they use. */
export function hostNames(plan: DemoPlan, node: string): ReadonlyMap<string, string> {
  const position = plan.kind === 'ebpf' ? 0 : plan.nodes.findIndex(({ name }) => name === node)
  const names = new Map<string, string>()
  for (const service of plan.services) {
    const qualified = `${service.name}.${service.namespace}`
    for (const name of [service.name, qualified, `${qualified}.svc`, `${qualified}.svc.cluster.local`]) {
      names.set(name, service.addresses[position]!)
    }
  }
  return names
}

/** True when the pod's namespace is in the mesh. */
export function isMeshed(plan: DemoPlan, pod: DemoPod): boolean {
  return plan.namespaces.some((namespace) => namespace.name === pod.namespace && namespace.isMeshed)
}
