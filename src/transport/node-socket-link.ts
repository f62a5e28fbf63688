// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Between a net.Socket and its NodeConn: the listeners. They are named functions that find the connection on the
 * socket, so that a connection costs no closures.
 */
import type { Socket } from 'node:net'
import { canonicalAddress } from '../base/address.ts'
import type { NodeConn } from './node-conn.ts'

/** A socket that knows its connection. */
interface LinkedSocket extends Socket {
  conn: NodeConn
}

/** From now on `conn` is told what `socket` does, bytes apart: those come by onSocketData or onread. */
export function link(socket: Socket, conn: NodeConn): void {
  const linked = socket as LinkedSocket
  linked.conn = conn
  socket.on('end', onSocketEnd)
  socket.on('finish', onSocketFinish)
  socket.on('error', onSocketError)
  socket.on('timeout', onSocketTimeout)
  socket.on('close', onSocketClose)
}

export function onSocketData(this: Socket, bytes: Uint8Array): void {
  ;(this as LinkedSocket).conn.received(bytes, bytes.length)
}

function onSocketEnd(this: Socket): void {
  ;(this as LinkedSocket).conn.peerEnded()
}

function onSocketFinish(this: Socket): void {
  ;(this as LinkedSocket).conn.finished()
}

function onSocketError(this: Socket, error: Error): void {
  ;(this as LinkedSocket).conn.failed(error)
}

function onSocketTimeout(this: Socket): void {
  ;(this as LinkedSocket).conn.timedOut()
}

export function onSocketClose(this: Socket): void {
  ;(this as LinkedSocket).conn.closed()
}

export function closeNow(conn: NodeConn): void {
  conn.closed()
}

/**
 * False when the connection was reset. libuv before 1.52 (Node.js 22) takes a reset that follows the last bytes for an
 * end. The kernel forgets the peer of a connection that was reset, which Node.js shows only when it asks anew, and
 * there is no public way to make it. Right only while our side is open: the kernel also forgets who both ended.
 */
export function hasPeer(socket: Socket): boolean {
  ;(socket as Socket & { _peername?: unknown })._peername = undefined
  return socket.remoteAddress !== undefined
}

/** For timers. */
export function destroySocket(socket: Socket | null): void {
  socket?.destroy()
}

/** Addresses as the mesh writes them: an IPv4-mapped one in its IPv4 form. */
export function canonicalOf(address: string | undefined): string {
  if (address === undefined) return ''
  if (!address.includes(':')) return address
  // A link-local peer comes with its interface (`fe80::1%eth0`), which is no part of the address.
  const zone = address.indexOf('%')
  const plain = zone < 0 ? address : address.slice(0, zone)
  return canonicalAddress(plain) ?? plain
}
