/**
 * The seam for datagrams: what the agent's DNS knows of UDP sockets. Interfaces only.
 *
 * Two kinds of sockets: one on which many ask, bound by the capture, that tells for each datagram who sent it and to
 * which address; and one that is connected, and hears from one peer only. What the kernel does not take at once is
 * dropped and counted: whoever sent it will send again.
 */

/** A datagram socket; `close` gives its descriptor back. Calls on a closed one do nothing. */
export interface DatagramSocket {
  /** From a connected socket. False when the kernel refused it for good: no route, nobody there. */
  send(bytes: Uint8Array): boolean
  /**
   * Answers the datagram whose ends were copied by `copyEnds`, from the address to which it was sent. Sent at the end
   * of the current batch of events; the bytes stay the caller's.
   */
  reply(ends: Uint8Array, bytes: Uint8Array): void
  close(): void
}

/** Who is told what a datagram socket receives. */
export interface DatagramHandler {
  /** `bytes[offset..end)` is one datagram; its ends lie at `ends`, for the functions of DatagramEnds. Lent until return. */
  onDatagram(socket: DatagramSocket, bytes: Uint8Array, ends: number, offset: number, end: number): void
  /** Something that was sent came back (`ECONNREFUSED`), or receiving failed. The socket goes on. */
  onDatagramError(socket: DatagramSocket, code: string): void
}

/** Opens datagram sockets. One per thread; the transport on node:net has none. */
export interface Datagrams {
  /** Of a descriptor that is bound already. Owns it in every case; throws WeftError WEFT_SYSCALL. */
  open(fd: number, handler: DatagramHandler): DatagramSocket
  /** Connects the descriptor to one peer. Owns it in every case; throws WeftError WEFT_SYSCALL. */
  connect(fd: number, address: string, port: number, handler: DatagramHandler): DatagramSocket
  /** Datagrams dropped since the start, because the kernel's buffers were full: received ones, and sent ones. */
  readonly receivedDropped: number
  readonly sentDropped: number
}

// The ends of a datagram: 44 bytes, as DatagramEnds in native/addon/reactor.h has them.
const PEER = 0
const LOCAL = 16
const PEER_PORT = 32
const DROPS = 40
export const ENDS_BYTES = 44

/** A copy of the ends at `at`, for `DatagramSocket.reply`. */
export function copyEnds(bytes: Uint8Array, at: number): Uint8Array {
  return bytes.slice(at, at + ENDS_BYTES)
}

/** The 16 bytes of the address to which it was sent; IPv4 in its IPv6-mapped form. A view, lent like the datagram. */
export function localAddressOf(bytes: Uint8Array, at: number): Uint8Array {
  return bytes.subarray(at + LOCAL, at + LOCAL + 16)
}

/** The same of whoever sent it. */
export function peerAddressOf(bytes: Uint8Array, at: number): Uint8Array {
  return bytes.subarray(at + PEER, at + PEER + 16)
}

export function peerPortOf(bytes: Uint8Array, at: number): number {
  return (bytes[at + PEER_PORT]! << 8) | bytes[at + PEER_PORT + 1]!
}

/** Datagrams that the kernel had no room for before this one, since the socket was made. */
export function dropsOf(bytes: Uint8Array, at: number): number {
  const from = at + DROPS
  return ((bytes[from]! << 24) | (bytes[from + 1]! << 16) | (bytes[from + 2]! << 8) | bytes[from + 3]!) >>> 0
}
