/**
 * Objects of the API server on their way in: what nobody reads is dropped at once, because most of a pod is of no use to
 * a mesh and ten thousand of them are held.
 *
 * What is dropped is listed, not what is kept, so that a field which the compiler comes to read is there.
 */
import { isSameData } from '../base/same-data.ts'
import { isTree } from '../compiler/object.ts'

/** Fields that are dropped, by where they are. */
interface Dropped {
  readonly spec: ReadonlySet<string> | 'all'
  readonly status: ReadonlySet<string> | 'all'
}

const NOTHING: ReadonlySet<string> = new Set()

const METADATA: ReadonlySet<string> = new Set(['managedFields', 'selfLink', 'generateName', 'finalizers'])

/** Of Kubernetes' own kinds; they change with every write, of which most mean nothing to us. */
const VERSIONS: ReadonlySet<string> = new Set(['resourceVersion', 'generation'])

const FACT_METADATA: ReadonlySet<string> = new Set([...METADATA, ...VERSIONS])

const POD: Dropped = {
  spec: new Set([
    'activeDeadlineSeconds',
    'affinity',
    'automountServiceAccountToken',
    'dnsConfig',
    'dnsPolicy',
    'enableServiceLinks',
    'ephemeralContainers',
    'hostAliases',
    'imagePullSecrets',
    'nodeSelector',
    'overhead',
    'preemptionPolicy',
    'priority',
    'priorityClassName',
    'readinessGates',
    'resourceClaims',
    'resources',
    'schedulerName',
    'schedulingGates',
    'securityContext',
    'serviceAccount',
    'terminationGracePeriodSeconds',
    'tolerations',
    'topologySpreadConstraints',
    'volumes',
  ]),
  status: new Set([
    'containerStatuses',
    'ephemeralContainerStatuses',
    'initContainerStatuses',
    'observedGeneration',
    'qosClass',
    'resourceClaimStatuses',
    'startTime',
  ]),
}

const CONTAINER: ReadonlySet<string> = new Set([
  'args',
  'command',
  'env',
  'envFrom',
  'image',
  'imagePullPolicy',
  'resizePolicy',
  'resources',
  'securityContext',
  'terminationMessagePath',
  'terminationMessagePolicy',
  'volumeDevices',
  'volumeMounts',
  'workingDir',
])

/** Times of conditions: the kubelet writes them again and again. */
const CONDITION: ReadonlySet<string> = new Set([
  'lastHeartbeatTime',
  'lastProbeTime',
  'lastTransitionTime',
  'message',
  'observedGeneration',
  'reason',
])

const NODE_STATUS: ReadonlySet<string> = new Set([
  'allocatable',
  'capacity',
  'conditions',
  'config',
  'daemonEndpoints',
  'features',
  'images',
  'nodeInfo',
  'runtimeHandlers',
  'volumesAttached',
  'volumesInUse',
])

const DROPPED: ReadonlyMap<string, Dropped> = new Map([
  ['Pod', POD],
  ['Node', { spec: 'all', status: NODE_STATUS }],
  ['Namespace', { spec: 'all', status: 'all' }],
  ['Service', { spec: NOTHING, status: 'all' }],
  ['EndpointSlice', { spec: NOTHING, status: NOTHING }],
])

/** Annotations that repeat the object, or that change without a meaning for us. */
const ANNOTATIONS: ReadonlySet<string> = new Set([
  'kubectl.kubernetes.io/last-applied-configuration',
  'control-plane.alpha.kubernetes.io/leader',
  'endpoints.kubernetes.io/last-change-trigger-time',
])

/** Longest annotation of Kubernetes' own kinds that is kept, characters: those that meshes read are single words. */
const ANNOTATION_CHARACTERS_MAX = 1024

/** True for kinds of Kubernetes itself, which are facts, and which it writes again and again without a change for us. */
export function isFact(kind: string): boolean {
  return DROPPED.has(kind)
}

/** The object without what nobody reads. The tree itself is not changed. */
export function shrink(object: Tree): Tree {
  const dropped = DROPPED.get(String(object['kind']))
  if (dropped === undefined) return { ...object, metadata: shrinkMetadata(object['metadata'], false) }
  const result: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(object)) {
    if (key === 'metadata') result[key] = shrinkMetadata(value, true)
    else if (key === 'spec') keep(result, key, shrinkSpec(value, dropped.spec))
    else if (key === 'status') keep(result, key, shrinkStatus(value, dropped.status))
    else result[key] = value
  }
  return result
}

/**
 * True when two versions of an object mean the same to the compiler. Of rules, status and versions do not count: we write
 * the status ourselves.
 */
export function isSameObject(a: Tree, b: Tree): boolean {
  if (isFact(String(a['kind']))) return isSameData(a, b)
  return isSameData(
    { ...a, status: null, metadata: plain(a['metadata']) },
    { ...b, status: null, metadata: plain(b['metadata']) },
  )
}

// --- trees ---

/** An object of JSON. */
export type Tree = Readonly<Record<string, unknown>>

function keep(result: Record<string, unknown>, key: string, value: unknown): void {
  if (value !== undefined) result[key] = value
}

function without(tree: Tree, names: ReadonlySet<string>): Record<string, unknown> {
  const result: Record<string, unknown> = {}
  for (const key of Object.keys(tree)) if (!names.has(key)) result[key] = tree[key]
  return result
}

function shrinkMetadata(metadata: unknown, isOfFact: boolean): unknown {
  if (!isTree(metadata)) return metadata
  const result = without(metadata, isOfFact ? FACT_METADATA : METADATA)
  const annotations = metadata['annotations']
  if (!isTree(annotations)) return result
  const kept: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(annotations)) {
    const isLong = isOfFact && typeof value === 'string' && value.length > ANNOTATION_CHARACTERS_MAX
    if (!ANNOTATIONS.has(name) && !isLong) kept[name] = value
  }
  result['annotations'] = kept
  return result
}

function shrinkSpec(spec: unknown, names: Dropped['spec']): unknown {
  if (names === 'all') return undefined
  if (!isTree(spec) || names.size === 0) return spec
  const result = without(spec, names)
  for (const list of ['containers', 'initContainers']) {
    const containers = result[list]
    if (!Array.isArray(containers)) continue
    result[list] = containers.map((one: unknown) => (isTree(one) ? without(one, CONTAINER) : one))
  }
  return result
}

function shrinkStatus(status: unknown, names: Dropped['status']): unknown {
  if (names === 'all') return undefined
  if (!isTree(status) || names.size === 0) return status
  const result = without(status, names)
  const { conditions } = result
  if (Array.isArray(conditions)) {
    result['conditions'] = conditions.map((one: unknown) => (isTree(one) ? without(one, CONDITION) : one))
  }
  return result
}

function plain(metadata: unknown): unknown {
  return isTree(metadata) ? without(metadata, VERSIONS) : metadata
}
