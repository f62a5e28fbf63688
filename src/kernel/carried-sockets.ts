/**
 * The open connections of a pod that the kernel carries: what the programs keep with each socket, and what TCP has counted
 * so far (linux/tcp.h).
 */
import { formatAddress } from '../base/address.ts'
import { type Addon, kernelError } from './addon.ts'
import { readU64 } from './edge-map.ts'
import { decodeAddress, type End } from './event-ring.ts'
import { FLOW } from './layout.generated.ts'
import { IS_LITTLE_ENDIAN } from './maps.ts'
import { attributeOf } from './netlink.ts'
import { type DumpedSocket, dumpCarried, endsOf } from './socket-dump.ts'

/** The attribute that holds a `struct tcp_info`. */
const INET_DIAG_INFO = 2

/** Where fields of `struct tcp_info` are; the kernel may know more of them than we do. */
const INFO_ROUND_TRIP_US = 68
const INFO_BYTES_ACKED = 120
const INFO_BYTES_RECEIVED = 128
const INFO_BYTES_MIN = 136

const TCP_FIN_WAIT2 = 5
const TCP_CLOSE_WAIT = 8
const TCP_LAST_ACK = 9
const TCP_CLOSING = 11

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
  try {
    return decodeSockets(dumpCarried(addon, netnsFd, storageFd, INET_DIAG_INFO))
  } catch (error) {
    throw kernelError('WEFT_SYSCALL', 'the open connections of a pod cannot be listed', error)
  }
}

/** Those that are open: what is still being made has nothing to tell. */
export function decodeSockets(dumped: readonly DumpedSocket[]): CarriedSocket[] {
  const found: CarriedSocket[] = []
  for (const socket of dumped) {
    const info = attributeOf(socket.attributes, INET_DIAG_INFO)
    if (info !== null && info.length >= INFO_BYTES_MIN && isOpen(socket.flow)) found.push(decodeSocket(socket, info))
  }
  return found
}

function isOpen(flow: Uint8Array): boolean {
  return new DataView(flow.buffer, flow.byteOffset).getUint32(FLOW.is_open, IS_LITTLE_ENDIAN) !== 0
}

function decodeSocket({ family, state, id, flow }: DumpedSocket, info: Uint8Array): CarriedSocket {
  const flowView = new DataView(flow.buffer, flow.byteOffset, flow.byteLength)
  const infoView = new DataView(info.buffer, info.byteOffset, info.byteLength)
  const u32 = (offset: number): number => flowView.getUint32(offset, IS_LITTLE_ENDIAN)
  const [source] = endsOf(id, family)
  return {
    source: { address: formatAddress(source!.address), port: source!.port },
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
