/**
 * Who is at the ends of the connections that the kernel carries for a pod, and breaking such a connection off: questions to
 * sock_diag in the netns of the pod that made them.
 *
 * A connection is known by the record that the connect() program has put with its socket, which no pod can forge, and is
 * broken off by the kernel's own number of the socket: never another one that has taken its addresses.
 */
import { type Family, formatAddress } from '../base/address.ts'
import { type Addon, hasCode } from './addon.ts'
import { FLOW } from './layout.generated.ts'
import { IS_LITTLE_ENDIAN } from './maps.ts'
import { Message, NETLINK_SOCK_DIAG } from './netlink.ts'
import { type DumpedSocket, dumpCarried, endsOf, ID_BYTES, OPEN_STATES } from './socket-dump.ts'

// Numbers of linux/netlink.h, linux/sock_diag.h and linux/in.h.
const SOCK_DESTROY = 21
const NLM_F_REQUEST = 0x001
const NLM_F_ACK = 0x004
const IPPROTO_TCP = 6

/** A connection that is open, or being made. */
export interface CarriedPeer {
  readonly sourcePod: number
  readonly destinationPod: number
  readonly sourceAddress: string
  readonly destinationAddress: string
  readonly destinationPort: number
  readonly family: Family
  /** The kernel's name of the socket, as it wants to have it back. */
  readonly id: Uint8Array
}

/** The carried connections of a netns. `storageFd` is the map `carried_sockets`. Throws the system call's error. */
export function carriedPeersIn(addon: Addon, netnsFd: number, storageFd: number): CarriedPeer[] {
  return dumpCarried(addon, netnsFd, storageFd, 0).map(decodePeer)
}

/**
 * Resets a connection at both ends. False when it was over already. Throws the system call's error: EOPNOTSUPP when the
 * kernel was built without CONFIG_INET_DIAG_DESTROY.
 */
export function breakOff(addon: Addon, netnsFd: number, { family, id }: Pick<CarriedPeer, 'family' | 'id'>): boolean {
  const message = new Message(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK)
  message.bytes(family, IPPROTO_TCP, 0, 0)
  message.u32(OPEN_STATES)
  const view = new DataView(id.buffer, id.byteOffset, id.byteLength)
  for (let at = 0; at < ID_BYTES; at += 4) message.u32(view.getUint32(at, IS_LITTLE_ENDIAN))
  try {
    addon.netlinkInNetns(netnsFd, NETLINK_SOCK_DIAG, message.finish())
    return true
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return false
    throw error
  }
}

function decodePeer({ family, id, flow }: DumpedSocket): CarriedPeer {
  const view = new DataView(flow.buffer, flow.byteOffset, flow.byteLength)
  const [source, destination] = endsOf(id, family)
  return {
    sourcePod: view.getUint32(FLOW.source_pod, IS_LITTLE_ENDIAN),
    destinationPod: view.getUint32(FLOW.destination_pod, IS_LITTLE_ENDIAN),
    sourceAddress: formatAddress(source!.address),
    destinationAddress: formatAddress(destination!.address),
    destinationPort: view.getUint32(FLOW.destination_port, IS_LITTLE_ENDIAN),
    family,
    id: id.slice(),
  }
}
