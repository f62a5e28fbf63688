/** What the reactor says of a broken connection, in the operator's words. */
import { getSystemErrorName } from 'node:util'
import { WeftError } from '../base/errors.ts'
import { connectError, describeErrno, isShortage } from './connect-error.ts'
import { FAILURE_FLOODED, FAILURE_TLS, FAILURE_TRUNCATED, type ReactorAddon } from './reactor-addon.ts'
import type { ReactorConn } from './reactor-conn.ts'
import { tlsFailure } from './reactor-tls.ts'
import { cutHandshake } from './tls-identity.ts'

/** The error for an EVENT_FAILED. `code` is an errno, or OpenSSL's error with FAILURE_TLS. */
export function describeFailure(
  conn: ReactorConn,
  addon: ReactorAddon,
  kind: number,
  verifyResult: number,
  code: number,
): WeftError {
  // A client is its address: the port that it dialled from says nothing to anybody.
  const peer = conn.listener === null ? conn.peerName : conn.remoteAddress
  switch (kind) {
    case FAILURE_TLS:
      return tlsFailure(addon, code, verifyResult, peer, conn.tls)
    case FAILURE_TRUNCATED:
      if (conn.isHandshaking) return cutHandshake(peer)
      return new WeftError('WEFT_RESET', `${peer} cut the connection without the end that TLS asks for`)
    case FAILURE_FLOODED:
      return new WeftError(
        'WEFT_LIMIT',
        code === 0
          ? `${peer} demands answers of TLS and takes none`
          : `${peer} sends messages of TLS without end that carry nothing`,
      )
    default: {
      const cause = errnoError(code)
      if (isShortage(cause.code)) {
        return new WeftError(
          'WEFT_SYSCALL',
          `the connection with ${peer} had to be closed: ${describeErrno(cause.code)}`,
        )
      }
      if (conn.isHandshaking) return cutHandshake(peer, cause)
      if (conn.isOpening) return connectError(cause, conn.remoteAddress, conn.remotePort)
      return new WeftError('WEFT_RESET', `${peer} reset the connection`, cause)
    }
  }
}

/** An errno as Node's own errors look. */
export function errnoError(errno: number): Error & { code: string } {
  const code = getSystemErrorName(-errno)
  return Object.assign(new Error(code), { code })
}
