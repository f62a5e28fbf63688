/**
 * Who is at the ends of the connections that the kernel carries for a pod, and breaking such a connection off: questions to
 * sock_diag in the netns of the pod that made them.
 *
 * A connection is known by the record that the connect() program has put with its socket, which no pod can forge, and is
 * broken off by the kernel's own number of the socket: never another one that has taken its addresses.
 */
import { FAMILY_IPV4, FAMILY_IPV6, type Family, formatAddress } from '../base/address.ts'
import { type Addon, hasCode } from './addon.ts'
import { FLOW } from './layout.generated.ts'
import { IS_LITTLE_ENDIAN } from './maps.ts'
import { Message, NETLINK_SOCK_DIAG } from './netlink.ts'

// Numbers of linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h and linux/bpf.h.
const SOCK_DIAG_BY_FAMILY = 20
const SOCK_DESTROY = 21
const NLM_F_REQUEST = 0x001
const NLM_F_ACK = 0x004
const NLM_F_DUMP = 0x300
const IPPROTO_TCP = 6
const INET_DIAG_REQ_SK_BPF_STORAGES = 2
const INET_DIAG_SK_BPF_STORAGES = 20
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD = 1
const SK_DIAG_BPF_STORAGE = 1
const SK_DIAG_BPF_STORAGE_MAP_VALUE = 3

/** All TCP states but TIME_WAIT (6), CLOSE (7) and LISTEN (10): those in which something can still be sent. */
const STATES = 0xfff & ~((1 << 6) | (1 << 7) | (1 << 10))

/** Bytes of `struct nlmsghdr`, `struct inet_diag_msg` and, in it, `struct inet_diag_sockid`, which has words of four. */
const HEADER_BYTES = 16
const DIAG_BYTES = 72
const ID_OFFSET = 4
const ID_BYTES = 48
const ID_SOURCE = 4
const ID_DESTINATION = 20

/** The two top bits of an attribute's type are flags. */
const ATTRIBUTE_TYPE_MASK = 0x3fff

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
  const found: CarriedPeer[] = []
  for (const family of [FAMILY_IPV4, FAMILY_IPV6] as const) {
    const answer = addon.netlinkInNetns(netnsFd, NETLINK_SOCK_DIAG, dumpRequest(family, storageFd))
    const view = new DataView(answer.buffer, answer.byteOffset, answer.byteLength)
    for (let at = 0; at + HEADER_BYTES <= answer.length; ) {
      const length = view.getUint32(at, IS_LITTLE_ENDIAN)
      if (length < HEADER_BYTES + DIAG_BYTES || at + length > answer.length) break
      const peer = decodePeer(answer.subarray(at + HEADER_BYTES, at + length), family)
      if (peer !== null) found.push(peer)
      at += (length + 3) & ~3
    }
  }
  return found
}

/**
 * Resets a connection at both ends. False when it was over already. Throws the system call's error: EOPNOTSUPP when the
 * kernel was built without CONFIG_INET_DIAG_DESTROY.
 */
export function breakOff(addon: Addon, netnsFd: number, { family, id }: Pick<CarriedPeer, 'family' | 'id'>): boolean {
  const message = new Message(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK)
  message.bytes(family, IPPROTO_TCP, 0, 0)
  message.u32(STATES)
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

/** True when this kernel can break connections off: it is asked for one that does not exist. */
export function canBreakOff(addon: Addon, netnsFd: number): boolean {
  try {
    breakOff(addon, netnsFd, { family: FAMILY_IPV4, id: new Uint8Array(ID_BYTES) })
    return true
  } catch {
    return false
  }
}

function dumpRequest(family: Family, storageFd: number): Uint8Array {
  const message = new Message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP)
  message.bytes(family, IPPROTO_TCP, 0, 0)
  message.u32(STATES)
  // The id of a socket is not used by a dump.
  for (let at = 0; at < ID_BYTES; at += 4) message.u32(0)
  const map = new Uint8Array(8)
  const view = new DataView(map.buffer)
  view.setUint16(0, map.length, IS_LITTLE_ENDIAN)
  view.setUint16(2, SK_DIAG_BPF_STORAGE_REQ_MAP_FD, IS_LITTLE_ENDIAN)
  view.setUint32(4, storageFd, IS_LITTLE_ENDIAN)
  message.attribute(INET_DIAG_REQ_SK_BPF_STORAGES, map)
  return message.finish()
}

/** Null for a socket that the kernel does not carry. */
function decodePeer(bytes: Uint8Array, family: Family): CarriedPeer | null {
  const storages = attributeOf(bytes.subarray(DIAG_BYTES), INET_DIAG_SK_BPF_STORAGES)
  const storage = storages === null ? null : attributeOf(storages, SK_DIAG_BPF_STORAGE)
  const flow = storage === null ? null : attributeOf(storage, SK_DIAG_BPF_STORAGE_MAP_VALUE)
  if (flow === null || flow.length < FLOW.bytes) return null
  const view = new DataView(flow.buffer, flow.byteOffset, flow.byteLength)
  const id = bytes.slice(ID_OFFSET, ID_OFFSET + ID_BYTES)
  const addressBytes = family === FAMILY_IPV4 ? 4 : 16
  return {
    sourcePod: view.getUint32(FLOW.source_pod, IS_LITTLE_ENDIAN),
    destinationPod: view.getUint32(FLOW.destination_pod, IS_LITTLE_ENDIAN),
    sourceAddress: formatAddress(id.subarray(ID_SOURCE, ID_SOURCE + addressBytes)),
    destinationAddress: formatAddress(id.subarray(ID_DESTINATION, ID_DESTINATION + addressBytes)),
    destinationPort: view.getUint32(FLOW.destination_port, IS_LITTLE_ENDIAN),
    family,
    id,
  }
}

/** The value of the first attribute of that type; null when there is none, or what is there is cut off. */
function attributeOf(attributes: Uint8Array, type: number): Uint8Array | null {
  const view = new DataView(attributes.buffer, attributes.byteOffset, attributes.byteLength)
  for (let at = 0; at + 4 <= attributes.length; ) {
    const length = view.getUint16(at, IS_LITTLE_ENDIAN)
    if (length < 4 || at + length > attributes.length) return null
    if ((view.getUint16(at + 2, IS_LITTLE_ENDIAN) & ATTRIBUTE_TYPE_MASK) === type) {
      return attributes.subarray(at + 4, at + length)
    }
    at += (length + 3) & ~3
  }
  return null
}
