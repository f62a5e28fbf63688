/** Short ways to write the objects that compiler tests are about. */
import assert from 'node:assert/strict'
import { type CompileResult, compile } from '../../src/compiler/compile.ts'
import { formatMessage, type Message } from '../../src/compiler/messages.ts'
import { type MeshObject, parseObject } from '../../src/compiler/object.ts'
import type { CompileSettings } from '../../src/compiler/settings.ts'
import type { Policy } from '../../src/model/policy.ts'
import type { Traffic } from '../../src/model/route.ts'
import type { Workload } from '../../src/model/workload.ts'

export const SETTINGS: CompileSettings = {
  trustDomain: 'cluster.local',
  clusterDomain: 'cluster.local',
  rootNamespace: 'istio-system',
  clusterId: 'Kubernetes',
  revision: '',
  isReadingIstioLabels: false,
  virtualIpBlocks: { ipv4: '198.19.240.0/20', ipv6: 'fd00:240::/48' },
}

export type Tree = Record<string, unknown>

/** Parses a tree that must have good metadata. */
export function parse(raw: unknown): MeshObject {
  const object = parseObject(raw, () => null)
  if (Array.isArray(object)) assert.fail(object.map(formatMessage).join('\n'))
  return object
}

/** Compiles trees with the default settings. */
export function compileTrees(trees: readonly unknown[], settings: CompileSettings = SETTINGS): CompileResult {
  return compile(trees.map(parse), settings)
}

export interface Metadata {
  readonly namespace?: string
  readonly labels?: Record<string, string>
  readonly annotations?: Record<string, string>
  /** Seconds; becomes creationTimestamp. */
  readonly age?: number
}

export function tree(apiVersion: string, kind: string, name: string, spec: unknown, metadata: Metadata = {}): Tree {
  const { age, ...rest } = metadata
  const created = age === undefined ? {} : { creationTimestamp: new Date(1_700_000_000_000 + age * 1000).toISOString() }
  return { apiVersion, kind, metadata: { name, namespace: 'shop', ...created, ...rest }, spec }
}

export function namespace(name: string, labels: Record<string, string> = { 'weft.dev/mesh': 'enabled' }): Tree {
  return { apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } }
}

let nextAddress = 0

/** A pod with an address of its own on node1, unless `spec` or `status` say otherwise. */
export function pod(
  name: string,
  labels: Record<string, string>,
  metadata: Metadata = {},
  spec: Tree = {},
  status: Tree = {},
): Tree {
  nextAddress++
  const podIP = `198.18.${(nextAddress >>> 8) + 1}.${nextAddress & 255}`
  return {
    ...tree('v1', 'Pod', name, { nodeName: 'node1', ...spec }, { ...metadata, labels }),
    status: { podIP, ...status },
  }
}

export interface PortTree {
  readonly name?: string
  readonly port: number
  readonly targetPort?: number | string
  readonly protocol?: string
  readonly appProtocol?: string
}

/** A service with a virtual IP of its own that selects `app: <name>`. */
export function service(
  name: string,
  ports: readonly PortTree[] = [{ name: 'http', port: 80 }],
  metadata: Metadata = {},
  spec: Tree = {},
): Tree {
  nextAddress++
  const clusterIP = `198.19.${nextAddress >>> 8}.${nextAddress & 255}`
  return tree('v1', 'Service', name, { clusterIP, selector: { app: name }, ports, ...spec }, metadata)
}

export function virtualService(name: string, spec: unknown, metadata: Metadata = {}): Tree {
  return tree('networking.istio.io/v1', 'VirtualService', name, spec, metadata)
}

export function destinationRule(name: string, spec: unknown, metadata: Metadata = {}): Tree {
  return tree('networking.istio.io/v1', 'DestinationRule', name, spec, metadata)
}

export function peerAuthentication(name: string, spec: unknown, metadata: Metadata = {}): Tree {
  return tree('security.istio.io/v1', 'PeerAuthentication', name, spec, metadata)
}

export function authorizationPolicy(name: string, spec: unknown, metadata: Metadata = {}): Tree {
  return tree('security.istio.io/v1', 'AuthorizationPolicy', name, spec, metadata)
}

/** The shop: `web` (one pod, the client) and `cart` (v1 and v2, port 80 http and 9000 tcp), all in the mesh. */
export function shop(): Tree[] {
  return [
    namespace('shop'),
    pod('web-1', { app: 'web', version: 'v1' }),
    service('web'),
    pod('cart-v1', { app: 'cart', version: 'v1' }),
    pod('cart-v2', { app: 'cart', version: 'v2' }),
    service('cart', [
      { name: 'http', port: 80, targetPort: 8080 },
      { name: 'tcp', port: 9000 },
    ]),
  ]
}

export const CART = 'shop/cart.shop.svc.cluster.local'

export function uid(name: string, owner = 'shop'): string {
  return `Kubernetes//Pod/${owner}/${name}`
}

// --- looking into results ---

export function workloadOf(result: CompileResult, name: string): Workload {
  const workload = result.state.workloads.find((one) => one.name === name)
  assert.ok(workload, `no workload ${name}`)
  return workload
}

export function scopeOf(result: CompileResult, name: string): string {
  const found = result.state.pods.find(({ pod }) => pod.uid.endsWith(`/${name}`))
  assert.ok(found, `no pod ${name}`)
  return found.pod.scope
}

/** What the pod `client` does towards a service port; null for the defaults. */
export function trafficOf(result: CompileResult, client: string, service: string, port: number): Traffic | null {
  const scope = scopeOf(result, client)
  return result.state.traffic.find((one) => one.key === `${scope}|${service}|${port}`) ?? null
}

export function policyOf(result: CompileResult, key: string): Policy {
  const policy = result.state.policies.find((one) => one.key === key)
  assert.ok(policy, `no policy ${key}`)
  return policy
}

export function messagesWith(result: CompileResult, code: string): readonly Message[] {
  return result.messages.filter((message) => message.code === code)
}

/** Fails, printing them, when there are messages. */
export function assertQuiet(result: CompileResult): void {
  assert.deepEqual(result.messages.map(formatMessage), [])
}
