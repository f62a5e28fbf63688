/** Pods, as far as the mesh needs them: where they run, as whom, at which addresses, and how they are. */
import { canonicalAddress } from '../base/address.ts'
import { TEXT } from './form.ts'
import { quote } from './messages.ts'
import { networkPrivilegeOf } from './network-privileges.ts'
import { isTree, type MeshObject, own } from './object.ts'
import type { Path } from './position.ts'
import { Cursor, flag, list, openObject, port, required, type Shape, text } from './schema.ts'
import type { CompileSettings, Run } from './settings.ts'

/** Text that is an IP address, in canonical form. */
const address: Shape<string | null> = {
  absent: null,
  isRequired: false,
  form: TEXT,
  read(value, cursor) {
    const written = text.read(value, cursor)
    if (written === null || written === '') return null
    const canonical = canonicalAddress(written)
    if (canonical === null) cursor.reject(`${quote(written)} is not an IP address.`, 'Write an IPv4 or IPv6 address.')
    return canonical
  },
}

const podSpec = openObject({
  nodeName: text,
  serviceAccountName: text,
  hostNetwork: flag,
  hostname: text,
  subdomain: text,
  containers: list(openObject({ ports: list(openObject({ name: text, containerPort: required(port) })) })),
})

const podStatus = openObject({
  phase: text,
  podIP: address,
  podIPs: list(openObject({ ip: address })),
  conditions: list(openObject({ type: required(text), status: required(text) })),
})

/** What the mesh needs of a Pod. */
export interface Pod {
  readonly object: MeshObject
  /** Of the workload that it is. */
  readonly workloadUid: string
  /** Empty while it is not scheduled. */
  readonly node: string
  readonly serviceAccount: string
  readonly isHostNetwork: boolean
  /** Canonical, the preferred one first; empty when the pod has none yet. */
  readonly addresses: readonly string[]
  readonly isReady: boolean
  /** It is being deleted, and serves until it is gone. */
  readonly isDraining: boolean
  /** Its name below that of the headless service `subdomain`; empty for most. */
  readonly hostname: string
  readonly subdomain: string
  /** Named container ports. */
  readonly ports: ReadonlyMap<string, number>
  /** Path of the first setting that lets it change its own network; null when there is none. */
  readonly networkPrivilege: Path | null
  /** Kind and name of the controller that owns it; null for a bare pod. */
  readonly owner: { readonly kind: string; readonly name: string } | null
}

/** Reads a pod; null when it has errors (reported) or has finished. */
export function readPod(object: MeshObject, run: Run): Pod | null {
  const cursor = new Cursor(run.log, object)
  const spec = podSpec.read(object.spec ?? {}, cursor.at('spec'))
  const status = podStatus.read(object.status ?? {}, cursor.at('status'))
  if (spec === null || status === null || run.log.hasError(object)) return null
  if (status.phase === 'Succeeded' || status.phase === 'Failed') return null
  const addresses = new Set<string>()
  if (status.podIP !== null) addresses.add(status.podIP)
  for (const { ip } of status.podIPs) if (ip !== null) addresses.add(ip)
  const ports = new Map<string, number>()
  for (const container of spec.containers) {
    for (const { name, containerPort } of container.ports)
      if (name !== null && name !== '') ports.set(name, containerPort)
  }
  const ready = status.conditions.find((condition) => condition.type === 'Ready')
  // Without a kubelet (a directory of YAML) there is no condition: such a pod is taken as ready once it has an address.
  const isServing = (ready === undefined || ready.status === 'True') && status.phase !== 'Pending'
  return {
    object,
    workloadUid: podWorkloadUid(run.settings, object.namespace, object.name),
    node: spec.nodeName ?? '',
    serviceAccount:
      spec.serviceAccountName === null || spec.serviceAccountName === '' ? 'default' : spec.serviceAccountName,
    isHostNetwork: spec.hostNetwork === true,
    addresses: [...addresses],
    isReady: isServing && !isTerminating(object),
    isDraining: isServing && isTerminating(object),
    hostname: spec.hostname ?? '',
    subdomain: spec.subdomain ?? '',
    ports,
    networkPrivilege: networkPrivilegeOf(object),
    owner: ownerOf(object),
  }
}

/** Uid of the workload that is this pod. */
export function podWorkloadUid(
  { clusterId }: Pick<CompileSettings, 'clusterId'>,
  namespace: string,
  name: string,
): string {
  return `${clusterId}//Pod/${namespace}/${name}`
}

/** True when deletion has begun: the pod finishes what it has and takes nothing new. */
function isTerminating(object: MeshObject): boolean {
  const metadata = isTree(object.raw) ? own(object.raw, 'metadata') : undefined
  return isTree(metadata) && own(metadata, 'deletionTimestamp') !== undefined
}

function ownerOf(object: MeshObject): Pod['owner'] {
  const metadata = isTree(object.raw) ? own(object.raw, 'metadata') : undefined
  const owners = isTree(metadata) ? own(metadata, 'ownerReferences') : undefined
  if (!Array.isArray(owners)) return null
  const trees = owners.filter(isTree)
  const owner = trees.find((reference) => own(reference, 'controller') === true) ?? trees[0]
  if (owner === undefined) return null
  const [kind, name] = [own(owner, 'kind'), own(owner, 'name')]
  return typeof kind === 'string' && typeof name === 'string' ? { kind, name } : null
}
