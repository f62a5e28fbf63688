/** Which kinds the compiler reads, which it knows but does not support yet, and which are none of its business. */
import { findings } from './messages.ts'
import { groupOf, isTree, type MeshObject } from './object.ts'
import { closest } from './schema.ts'
import type { Run } from './settings.ts'

/** Versions by kind of everything that is compiled, the preferred one first. All versions of a kind are of one group. */
export const COMPILED: ReadonlyMap<string, readonly string[]> = new Map([
  ['Namespace', ['v1']],
  ['Node', ['v1']],
  ['Pod', ['v1']],
  ['Service', ['v1']],
  ['EndpointSlice', ['discovery.k8s.io/v1', 'discovery.k8s.io/v1beta1']],
  ['VirtualService', ['networking.istio.io/v1', 'networking.istio.io/v1beta1', 'networking.istio.io/v1alpha3']],
  ['DestinationRule', ['networking.istio.io/v1', 'networking.istio.io/v1beta1', 'networking.istio.io/v1alpha3']],
  ['ServiceEntry', ['networking.istio.io/v1', 'networking.istio.io/v1beta1', 'networking.istio.io/v1alpha3']],
  ['PeerAuthentication', ['security.istio.io/v1', 'security.istio.io/v1beta1']],
  ['AuthorizationPolicy', ['security.istio.io/v1', 'security.istio.io/v1beta1']],
])

/** Kinds of the meshes' APIs that have no effect yet. */
const NOT_SUPPORTED: ReadonlyMap<string, readonly string[]> = new Map([
  ['networking.istio.io', ['Gateway', 'Sidecar', 'WorkloadEntry', 'WorkloadGroup', 'EnvoyFilter', 'ProxyConfig']],
  ['security.istio.io', ['RequestAuthentication']],
  ['telemetry.istio.io', ['Telemetry']],
  ['extensions.istio.io', ['WasmPlugin', 'TrafficExtension']],
  [
    'gateway.networking.k8s.io',
    [
      'GatewayClass',
      'Gateway',
      'HTTPRoute',
      'GRPCRoute',
      'TLSRoute',
      'TCPRoute',
      'UDPRoute',
      'ListenerSet',
      'ReferenceGrant',
      'BackendTLSPolicy',
      'BackendTrafficPolicy',
    ],
  ],
  ['split.smi-spec.io', ['TrafficSplit']],
  ['specs.smi-spec.io', ['HTTPRouteGroup', 'TCPRoute', 'UDPRoute']],
  ['access.smi-spec.io', ['TrafficTarget', 'IdentityBinding']],
])

/** True when the object is to be compiled. Reports kinds that a user may expect to have an effect and that have none. */
export function checkKind(object: MeshObject, run: Run): boolean {
  const { group, kind, apiVersion } = object
  const versions = COMPILED.get(kind)
  if (versions?.includes(apiVersion) === true) return true
  const sameGroup = versions?.some((version) => groupOf(version) === group) === true
  const others = NOT_SUPPORTED.get(group)
  if (sameGroup) run.log.add(object, ['apiVersion'], findings.wrongVersion(apiVersion, versions!))
  else if (others?.includes(kind) === true) run.log.add(object, ['kind'], findings.kindNotSupported(kind))
  else if (others !== undefined || isCompiledGroup(group)) {
    const kinds = [...(others ?? []), ...compiledKinds(group)]
    // A mesh kind in another mesh group is the wrong apiVersion rather than the wrong kind.
    if (versions !== undefined) run.log.add(object, ['apiVersion'], findings.wrongVersion(apiVersion, versions))
    else if (group !== '') run.log.add(object, ['kind'], findings.unknownKind(kind, group, closest(kind, kinds)))
  }
  return false
}

/** Fields of every object of the mesh's kinds. */
const TOP_LEVEL: readonly string[] = ['apiVersion', 'kind', 'metadata', 'spec', 'status']

/** Reports fields beside the spec: with a misspelled "spec" a policy would say nothing, and so allow nothing. */
export function checkTopLevel(object: MeshObject, run: Run): void {
  if (!isTree(object.raw)) return
  for (const name of Object.keys(object.raw)) {
    if (!TOP_LEVEL.includes(name)) run.log.add(object, [name], findings.unknownField(name, closest(name, TOP_LEVEL)))
  }
}

function compiledKinds(group: string): string[] {
  return [...COMPILED].filter(([, versions]) => versions.some((one) => groupOf(one) === group)).map(([kind]) => kind)
}

function isCompiledGroup(group: string): boolean {
  return compiledKinds(group).length > 0
}
