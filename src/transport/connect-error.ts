/** Why a connection was not made, in the operator's words; the same for every transport. */
import { formatHostPort } from '../base/address.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { ConnectOptions } from './conn.ts'

/** HBONE's port, where a connect that times out has a usual suspect. */
const HBONE_PORT = 15_008

/** The error for a failed connect; names the address and what the operator should look at. */
export function connectError(error: unknown, address: string, port: number): WeftError {
  if (error instanceof WeftError) return error
  const code = (error as { code?: unknown } | null)?.code
  const reason = typeof code === 'string' ? code : describeError(error)
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
