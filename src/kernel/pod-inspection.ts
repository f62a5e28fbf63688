/**
 * Is a pod really captured? Asks the kernel, piece by piece, and believes no memory of ours: the pod may have removed its
 * rules (CAP_NET_ADMIN), a CNI plugin may have made its interfaces anew, somebody may have removed pins.
 */
import type { Addon } from './addon.ts'
import { dnsRouteFaults } from './dns-capture.ts'
import { DnsPodMap } from './dns-maps.ts'
import { ROLE_DNS, ROLE_HBONE, ROLE_INBOUND, ROLE_OUTBOUND } from './layout.generated.ts'
import { type BpfMap, decodePod, encodeCookie, encodeListenerKey, encodeOwnAddressKey } from './maps.ts'
import { type SteeringPlan, steeringFaults } from './steering.ts'

/**
 * What is missing: its entry in the map `pods`, its sk_lookup program, a listener of a data worker that serves, its routes
 * or rules, an address; of its DNS, if that is captured, routes or the entry in `dns_pods`.
 */
export type MissingPiece = 'entry' | 'program' | 'listener' | 'steering' | 'address' | 'dns'

export interface PodFault {
  readonly piece: MissingPiece
  /** What follows from it, for people. */
  readonly problem: string
}

/** Where to look. */
export interface InspectedMaps {
  readonly pods: BpfMap
  readonly ownAddresses: BpfMap
  readonly listeners: BpfMap
  readonly dnsPods: BpfMap
}

export interface InspectedPod {
  readonly netnsFd: number
  readonly netnsCookie: bigint
  /** Inode number of the netns. */
  readonly netnsInode: bigint
  /** It is to fail closed. */
  readonly isStrict: boolean
  /** What the netns needs, as it is now. */
  readonly plan: SteeringPlan
  /** Slots of the data workers that should listen in the pod. */
  readonly slots: readonly number[]
  /** Descriptor of its sk_lookup link; -1 when there is none. */
  readonly linkFd: number
  /** Its DNS is to be captured; null when only the kernel knows. */
  readonly isDnsCaptured: boolean | null
}

const ROLES: readonly (readonly [role: number, what: string])[] = [
  [ROLE_OUTBOUND, 'outbound connections'],
  [ROLE_INBOUND, 'inbound connections'],
  [ROLE_HBONE, 'tunnels'],
]

const DNS_ROLE = [ROLE_DNS, 'questions to resolvers'] as const

/** Everything that is wrong; nothing when the pod is captured. Some ten short system calls. Throws the system call's error. */
export function inspectPod(addon: Addon, maps: InspectedMaps, pod: InspectedPod): PodFault[] {
  const { netnsCookie, plan } = pod
  const faults: PodFault[] = []
  const add = (piece: MissingPiece, problem: string): number => faults.push({ piece, problem })
  const entry = maps.pods.lookup(encodeCookie(netnsCookie))
  if (entry === null) add('entry', 'no connection of the pod is captured')
  else if (decodePod(entry).isStrict !== pod.isStrict) {
    const [is, should] = pod.isStrict ? ['open', 'closed'] : ['closed', 'open']
    add('entry', `it fails ${is} while no agent serves, and should fail ${should}`)
  }
  if (!isAttached(addon, pod))
    add('program', 'connections in the pod do not reach the agent: its program is not attached')
  const isDnsCaptured = new DnsPodMap(maps.dnsPods).isCaptured(netnsCookie)
  for (const [role, what] of isDnsCaptured ? [...ROLES, DNS_ROLE] : ROLES) {
    const missing = pod.slots.filter(
      (slot) => maps.listeners.lookup(encodeListenerKey(netnsCookie, role, slot)) === null,
    )
    if (missing.length > 0) add('listener', `nobody listens for ${what} (data worker ${missing.join(', ')})`)
  }
  if (isDnsCaptured) for (const problem of dnsRouteFaults(addon, pod.netnsFd, plan)) add('dns', problem)
  else if (pod.isDnsCaptured === true) add('dns', 'questions of the pod to its resolvers are not captured')
  for (const problem of steeringFaults(addon, pod.netnsFd, plan)) add('steering', problem)
  for (const address of plan.ownAddresses) {
    if (maps.ownAddresses.lookup(encodeOwnAddressKey(netnsCookie, address)) !== null) continue
    add('address', `connections of the pod to its own address ${address} are captured`)
  }
  return faults
}

function isAttached(addon: Addon, { linkFd, netnsInode }: InspectedPod): boolean {
  if (linkFd < 0) return false
  const { kind, target } = addon.describeLink(linkFd)
  return kind === 'netns' && target === netnsInode
}
