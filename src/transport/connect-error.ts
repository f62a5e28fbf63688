/** Why a connection was not made, in the operator's words; the same for every transport. */
import { formatHostPort } from '../base/address.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { ConnectOptions } from './conn.ts'

/** HBONE's port, where a connect that times out has a usual suspect. */
const HBONE_PORT = 15_008

/** Errno of this machine's own shortages, and what to do about each. */
const SHORTAGES: ReadonlyMap<string, string> = new Map([
  ['EMFILE', 'no descriptor is left to the process: raise its limit of open files'],
  ['ENFILE', 'no descriptor is left on this node: raise fs.file-max, or look for who holds so many'],
  ['ENOBUFS', 'the kernel has no buffers for sockets: look at net.ipv4.tcp_mem and the memory of this node'],
  ['ENOMEM', 'there is no memory: look at the memory limit of the process and at this node'],
  ['ENOSPC', 'the kernel watches no more descriptors: raise fs.epoll.max_user_watches'],
  ['EADDRNOTAVAIL', 'no local port is free, or the local address is none: look at net.ipv4.ip_local_port_range'],
])

/** The errno, and what to do where it is this machine that lacks something. */
export function describeErrno(code: string): string {
  const hint = SHORTAGES.get(code)
  return hint === undefined ? code : `${code} (${hint})`
}

/** True when it is this machine that lacks something, whoever the peer is. */
export function isShortage(code: string): boolean {
  return SHORTAGES.has(code)
}

/** The error for a failed connect; names the address and what the operator should look at. */
export function connectError(error: unknown, address: string, port: number): WeftError {
  if (error instanceof WeftError) return error
  const code = (error as { code?: unknown } | null)?.code
  const reason = typeof code === 'string' ? describeErrno(code) : describeError(error)
  return new WeftError('WEFT_CONNECT', `cannot connect to ${formatHostPort(address, port)}: ${reason}`, error)
}

/** The error for a connect, or the handshake behind it, that took longer than `options.timeoutMs`. */
export function connectTimeout(options: ConnectOptions, isHandshaking: boolean): WeftError {
  const where = formatHostPort(options.address, options.port)
  if (isHandshaking) {
    return new WeftError('WEFT_TLS', `${where} did not finish its TLS handshake within ${options.timeoutMs} ms`)
  }
  const hint = options.port === HBONE_PORT ? `; a NetworkPolicy may be blocking TCP port ${HBONE_PORT}` : ''
  return new WeftError('WEFT_CONNECT', `${where} did not answer within ${options.timeoutMs} ms${hint}`)
}
