/**
 * The sockets of a netns whose connections the kernel carries, as sock_diag describes them: asks for every TCP socket
 * together with what the programs keep with it (`struct flow`), and leaves those out with which they keep nothing. The
 * kernel cannot filter by storage: the answer describes every socket of the netns.
 *
 * Numbers are of linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
 */
import { FAMILY_IPV4, FAMILY_IPV6, type Family } from '../base/address.ts'
import type { Addon } from './addon.ts'
import { FLOW } from './layout.generated.ts'
import { IS_LITTLE_ENDIAN } from './maps.ts'
import { attributeOf, Message, NETLINK_SOCK_DIAG } from './netlink.ts'

const SOCK_DIAG_BY_FAMILY = 20
const NLM_F_REQUEST = 0x001
const NLM_F_DUMP = 0x300
const IPPROTO_TCP = 6
const INET_DIAG_REQ_SK_BPF_STORAGES = 2
const INET_DIAG_SK_BPF_STORAGES = 20
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD = 1
const SK_DIAG_BPF_STORAGE = 1
const SK_DIAG_BPF_STORAGE_MAP_VALUE = 3

/** All TCP states but TIME_WAIT (6), CLOSE (7) and LISTEN (10): those in which something can still be sent. */
export const OPEN_STATES = 0xfff & ~((1 << 6) | (1 << 7) | (1 << 10))

/** Bytes of `struct nlmsghdr`, `struct inet_diag_msg`, and of the `struct inet_diag_sockid` in it. */
const HEADER_BYTES = 16
const DIAG_BYTES = 72
export const ID_BYTES = 48
const ID_OFFSET = 4
const STATE_OFFSET = 1

/** One socket of a carried connection, at the side that made it. The bytes are views of the answer. */
export interface DumpedSocket {
  readonly family: Family
  /** A number of net/tcp_states.h. */
  readonly state: number
  /** `struct inet_diag_sockid`: both ends, and the kernel's own name of the socket. */
  readonly id: Uint8Array
  /** `struct flow`. */
  readonly flow: Uint8Array
  /** Of inet_diag: what `extension` asked for, among others. */
  readonly attributes: Uint8Array
}

/**
 * The carried connections of a netns that are open or being made. `storageFd` is the map `carried_sockets`; `extension` the
 * number of an attribute that the kernel is asked to add, 0 for none. Throws the system call's error.
 */
export function dumpCarried(addon: Addon, netnsFd: number, storageFd: number, extension: number): DumpedSocket[] {
  const found: DumpedSocket[] = []
  for (const family of [FAMILY_IPV4, FAMILY_IPV6] as const) {
    const request = dumpRequest(family, storageFd, extension)
    decodeDump(addon.netlinkInNetns(netnsFd, NETLINK_SOCK_DIAG, request), family, found)
  }
  return found
}

/** The ends in an id, in the order of the kernel: source and destination. Ports are in network order. */
export function endsOf(
  id: Uint8Array,
  family: Family,
): readonly { readonly address: Uint8Array; readonly port: number }[] {
  const view = new DataView(id.buffer, id.byteOffset, id.byteLength)
  const bytes = family === FAMILY_IPV4 ? 4 : 16
  return [
    { address: id.subarray(4, 4 + bytes), port: view.getUint16(0) },
    { address: id.subarray(20, 20 + bytes), port: view.getUint16(2) },
  ]
}

function dumpRequest(family: Family, storageFd: number, extension: number): Uint8Array {
  const message = new Message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP)
  message.bytes(family, IPPROTO_TCP, extension === 0 ? 0 : 1 << (extension - 1), 0)
  message.u32(OPEN_STATES)
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

/** Adds what `answer` says of carried connections; what is cut off is left out. */
export function decodeDump(answer: Uint8Array, family: Family, found: DumpedSocket[]): void {
  const view = new DataView(answer.buffer, answer.byteOffset, answer.byteLength)
  for (let at = 0; at + HEADER_BYTES <= answer.length; ) {
    const length = view.getUint32(at, IS_LITTLE_ENDIAN)
    if (length < HEADER_BYTES + DIAG_BYTES || at + length > answer.length) return
    const bytes = answer.subarray(at + HEADER_BYTES, at + length)
    const attributes = bytes.subarray(DIAG_BYTES)
    const storages = attributeOf(attributes, INET_DIAG_SK_BPF_STORAGES)
    const storage = storages === null ? null : attributeOf(storages, SK_DIAG_BPF_STORAGE)
    const flow = storage === null ? null : attributeOf(storage, SK_DIAG_BPF_STORAGE_MAP_VALUE)
    if (flow !== null && flow.length >= FLOW.bytes) {
      const id = bytes.subarray(ID_OFFSET, ID_OFFSET + ID_BYTES)
      found.push({ family, state: bytes[STATE_OFFSET]!, id, flow, attributes })
    }
    at += (length + 3) & ~3
  }
}
