/**
 * The open connections of a pod that the kernel carries: sock_diag tells, for each socket of a netns, what the programs
 * keep with it (`struct flow`) and what TCP has counted so far. Numbers are of linux/inet_diag.h, linux/sock_diag.h and
 * linux/tcp.h.
 *
 * The kernel cannot filter by storage: the answer describes every open TCP socket of the netns.
 */
import { FAMILY_IPV4, FAMILY_IPV6, type Family, formatAddress } from '../base/address.ts'
import { type Addon, kernelError } from './addon.ts'
import { readU64 } from './edge-map.ts'
import { decodeAddress, type End } from './event-ring.ts'
import { FLOW } from './layout.generated.ts'
import { IS_LITTLE_ENDIAN } from './maps.ts'
import { Message, NETLINK_SOCK_DIAG } from './netlink.ts'

const SOCK_DIAG_BY_FAMILY = 20
const NLM_F_REQUEST = 0x001
const NLM_F_DUMP = 0x300
const IPPROTO_TCP = 6

const INET_DIAG_REQ_SK_BPF_STORAGES = 2
const SK_DIAG_BPF_STORAGE_REQ_MAP_FD = 1
const INET_DIAG_INFO = 2
const INET_DIAG_SK_BPF_STORAGES = 20
const SK_DIAG_BPF_STORAGE = 1
const SK_DIAG_BPF_STORAGE_MAP_VALUE = 3

const TCP_ESTABLISHED = 1
const TCP_FIN_WAIT1 = 4
const TCP_FIN_WAIT2 = 5
const TCP_CLOSE_WAIT = 8
const TCP_LAST_ACK = 9
const TCP_CLOSING = 11
const STATES =
  (1 << TCP_ESTABLISHED) |
  (1 << TCP_FIN_WAIT1) |
  (1 << TCP_FIN_WAIT2) |
  (1 << TCP_CLOSE_WAIT) |
  (1 << TCP_LAST_ACK) |
  (1 << TCP_CLOSING)

/** Bytes of `struct nlmsghdr` and `struct inet_diag_msg`, and where the latter's fields are. */
const HEADER_BYTES = 16
const DIAG_BYTES = 72
const DIAG_STATE = 1
const DIAG_SOURCE_PORT = 4
const DIAG_SOURCE = 8

/** Where fields of `struct tcp_info` are; the kernel may know more of them than we do. */
const INFO_ROUND_TRIP_US = 68
const INFO_BYTES_ACKED = 120
const INFO_BYTES_RECEIVED = 128
const INFO_BYTES_MIN = 136

/** The lower bits of an attribute's type; the others are flags. */
const ATTRIBUTE_TYPE_MASK = 0x3fff

/** A connection that is open, at the side that made it. */
export interface CarriedSocket {
  readonly source: End
  readonly destination: End
  /** What the app had dialled. */
  readonly original: End
  readonly sourcePod: number
  readonly destinationPod: number
  readonly service: number
  /** Of the app at the source: acknowledged by the destination, and come from it. */
  readonly sent: number
  readonly received: number
  /** Smoothed; 0 when it was never measured. */
  readonly roundTripUs: number
  /** CLOCK_MONOTONIC. */
  readonly openedNs: number
}

/** The carried connections that are open in a netns. `storageFd` is `carried_sockets`. Throws WeftError WEFT_SYSCALL. */
export function carriedSocketsIn(addon: Addon, netnsFd: number, storageFd: number): CarriedSocket[] {
  const found: CarriedSocket[] = []
  for (const family of [FAMILY_IPV4, FAMILY_IPV6] as const) {
    try {
      decodeSockets(addon.netlinkInNetns(netnsFd, NETLINK_SOCK_DIAG, dumpRequest(family, storageFd)), found)
    } catch (error) {
      throw kernelError('WEFT_SYSCALL', 'the open connections of a pod cannot be listed', error)
    }
  }
  return found
}

function dumpRequest(family: Family, storageFd: number): Uint8Array {
  const message = new Message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP)
  message.bytes(family, IPPROTO_TCP, 1 << (INET_DIAG_INFO - 1), 0)
  message.u32(STATES)
  // struct inet_diag_sockid, 48 bytes: not used by a dump.
  for (let i = 0; i < 12; i++) message.u32(0)
  const map = new Uint8Array(8)
  const view = new DataView(map.buffer)
  view.setUint16(0, 8, IS_LITTLE_ENDIAN)
  view.setUint16(2, SK_DIAG_BPF_STORAGE_REQ_MAP_FD, IS_LITTLE_ENDIAN)
  view.setUint32(4, storageFd, IS_LITTLE_ENDIAN)
  message.attribute(INET_DIAG_REQ_SK_BPF_STORAGES, map)
  return message.finish()
}

/** Adds the carried ones among the sockets that `answer` describes. */
export function decodeSockets(answer: Uint8Array, found: CarriedSocket[]): void {
  const view = new DataView(answer.buffer, answer.byteOffset, answer.byteLength)
  for (let at = 0; at + HEADER_BYTES <= answer.length; ) {
    const length = view.getUint32(at, IS_LITTLE_ENDIAN)
    if (length < HEADER_BYTES + DIAG_BYTES || at + length > answer.length) return
    const socket = decodeSocket(answer.subarray(at + HEADER_BYTES, at + length))
    if (socket !== null) found.push(socket)
    at += length
  }
}

/** `bytes` are a `struct inet_diag_msg` and its attributes. Null when it is not a carried connection. */
function decodeSocket(bytes: Uint8Array): CarriedSocket | null {
  const attributes = bytes.subarray(DIAG_BYTES)
  const storages = attributeOf(attributes, INET_DIAG_SK_BPF_STORAGES)
  const storage = storages === null ? null : attributeOf(storages, SK_DIAG_BPF_STORAGE)
  const flow = storage === null ? null : attributeOf(storage, SK_DIAG_BPF_STORAGE_MAP_VALUE)
  const info = attributeOf(attributes, INET_DIAG_INFO)
  if (flow === null || flow.length < FLOW.bytes || info === null || info.length < INFO_BYTES_MIN) return null
  const flowView = new DataView(flow.buffer, flow.byteOffset, flow.byteLength)
  const infoView = new DataView(info.buffer, info.byteOffset, info.byteLength)
  const u32 = (offset: number): number => flowView.getUint32(offset, IS_LITTLE_ENDIAN)
  if (u32(FLOW.is_open) === 0) return null
  const state = bytes[DIAG_STATE]!
  return {
    source: {
      address: formatAddress(bytes.subarray(DIAG_SOURCE, DIAG_SOURCE + (bytes[0] === FAMILY_IPV4 ? 4 : 16))),
      port: (bytes[DIAG_SOURCE_PORT]! << 8) | bytes[DIAG_SOURCE_PORT + 1]!,
    },
    destination: { address: decodeAddress(flow, FLOW.destination), port: u32(FLOW.destination_port) },
    original: { address: decodeAddress(flow, FLOW.original), port: u32(FLOW.original_port) },
    sourcePod: u32(FLOW.source_pod),
    destinationPod: u32(FLOW.destination_pod),
    service: u32(FLOW.service),
    sent: Math.max(0, readU64(infoView, INFO_BYTES_ACKED) - handshakeAcked(state)),
    received: Math.max(0, readU64(infoView, INFO_BYTES_RECEIVED) - finReceived(state)),
    roundTripUs: infoView.getUint32(INFO_ROUND_TRIP_US, IS_LITTLE_ENDIAN),
    openedNs: readU64(flowView, FLOW.opened_ns),
  }
}

/** TCP counts our SYN as an acknowledged byte, and our FIN once it has been acknowledged. */
function handshakeAcked(state: number): number {
  return state === TCP_FIN_WAIT2 ? 2 : 1
}

/** TCP counts the other side's FIN as a byte received. */
function finReceived(state: number): number {
  return state === TCP_CLOSE_WAIT || state === TCP_LAST_ACK || state === TCP_CLOSING ? 1 : 0
}

/** The value of the first attribute of that type, or null. Lengths are checked: nothing beyond `attributes` is read. */
function attributeOf(attributes: Uint8Array, type: number): Uint8Array | null {
  const view = new DataView(attributes.buffer, attributes.byteOffset, attributes.byteLength)
  for (let at = 0; at + 4 <= attributes.length; ) {
    const length = view.getUint16(at, IS_LITTLE_ENDIAN)
    if (length < 4 || at + length > attributes.length) return null
    const found = view.getUint16(at + 2, IS_LITTLE_ENDIAN) & ATTRIBUTE_TYPE_MASK
    if (found === type) return attributes.subarray(at + 4, at + length)
    // Attributes begin at multiples of four bytes.
    at += (length + 3) & ~3
  }
  return null
}
