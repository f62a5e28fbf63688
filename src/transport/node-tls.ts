/**
 * TLS as the mesh uses it, on node:tls: version 1.3 only, AES-GCM, X25519 or P-256, ALPN, certificates on both sides,
 * no SNI and no resumption. What a peer must prove is decided in tls-identity.ts.
 *
 * node:tls does not tell TLS's own end (close_notify) from a connection that was cut: both come as an end, and now and
 * then even a reset does, when a write of OpenSSL's own met it first. Whoever speaks over TLS must therefore be able to
 * tell by its own framing what is complete; HTTP/2, the only protocol here, can.
 */
import { constants } from 'node:crypto'
import * as tls from 'node:tls'
import { describeError, WeftError } from '../base/errors.ts'
import type { TlsContext, TlsMaterial, TlsOptions } from './conn.ts'
import {
  checkClientNames,
  checkMaterial,
  cutHandshake,
  lateHandshake,
  noCommonProtocol,
  refusedCertificate,
} from './tls-identity.ts'

/**
 * OpenSSL 3.2+ (bits 32 and 33 of the options): send and accept no compressed certificates. Compression cost 2,100 us
 * per handshake when measured, for a few hundred bytes saved. node:crypto has no names for them.
 */
const SSL_OP_NO_TX_CERTIFICATE_COMPRESSION = 2 ** 32
const SSL_OP_NO_RX_CERTIFICATE_COMPRESSION = 2 ** 33

/** Added, not or-ed: JavaScript's | keeps 32 bits. NO_TICKET: a resumed session would skip the check of the peer. */
const SECURE_OPTIONS =
  SSL_OP_NO_TX_CERTIFICATE_COMPRESSION +
  SSL_OP_NO_RX_CERTIFICATE_COMPRESSION +
  constants.SSL_OP_NO_TICKET +
  constants.SSL_OP_CIPHER_SERVER_PREFERENCE

/** Ready-made credentials of one identity. */
export class NodeTlsContext implements TlsContext {
  readonly identity: string
  readonly options: TlsOptions
  readonly trustDomain: string
  /** For connections that we make. */
  readonly clientContext: tls.SecureContext
  /** For the servers that accept with these credentials. */
  readonly serverOptions: tls.TlsOptions

  /** Throws WeftError WEFT_CERTIFICATE when key, chain and bundle do not fit or the leaf is not for the identity. */
  constructor(material: TlsMaterial, options: TlsOptions, handshakeTimeoutMs: number) {
    checkMaterial(material, options)
    const settings: tls.SecureContextOptions = {
      cert: material.certificateChain,
      key: material.key,
      ca: material.bundle,
      minVersion: 'TLSv1.3',
      maxVersion: 'TLSv1.3',
      ciphers: 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384',
      ecdhCurve: 'X25519:P-256',
      secureOptions: SECURE_OPTIONS,
    }
    this.identity = material.identity
    this.options = options
    this.trustDomain = material.trustDomain
    try {
      this.clientContext = tls.createSecureContext(settings)
    } catch (error) {
      throw new WeftError('WEFT_CERTIFICATE', `key and certificate of ${material.identity} do not fit together`, error)
    }
    this.serverOptions = {
      ...settings,
      // The preference is in secureOptions already; this switch would truncate those to 32 bits.
      honorCipherOrder: false,
      ALPNProtocols: [...options.alpn],
      requestCert: true,
      // Checked by checkClient, which sees who it was: node:tls would drop the peer before it can be named in the log.
      rejectUnauthorized: false,
      handshakeTimeout: handshakeTimeoutMs,
    }
  }
}

/** What TLS agreed on; null when on none of ours. */
export function agreedProtocol(socket: tls.TLSSocket, context: NodeTlsContext): string | null {
  const { alpnProtocol } = socket
  return typeof alpnProtocol === 'string' && context.options.alpn.includes(alpnProtocol) ? alpnProtocol : null
}

/**
 * Judges the client of a finished handshake: chain verified, a protocol agreed on, and exactly one workload identity in
 * the trust domain. Returns the identity, or why it is refused.
 */
export function checkClient(socket: tls.TLSSocket, context: NodeTlsContext, peer: string): string | WeftError {
  // The type says Error, the value is OpenSSL's code as text.
  if (socket.authorized !== true) return refusedCertificate(String(socket.authorizationError), peer)
  if (agreedProtocol(socket, context) === null) return noCommonProtocol(peer, context.options.alpn)
  return checkClientNames(socket.getPeerX509Certificate()?.subjectAltName ?? '', context.trustDomain, peer)
}

/** The error for a TLS failure that node:tls reported, at whatever point of the connection. */
export function tlsError(error: unknown, peer: string, protocols: readonly string[]): WeftError {
  if (error instanceof WeftError) return error
  const code = codeOf(error)
  switch (code) {
    case 'ERR_TLS_HANDSHAKE_TIMEOUT':
      return lateHandshake(peer, error)
    case 'ECONNRESET':
    case 'EPIPE':
      return cutHandshake(peer, error)
    case 'ERR_SSL_NO_APPLICATION_PROTOCOL':
    case 'ERR_SSL_TLSV1_ALERT_NO_APPLICATION_PROTOCOL':
      return noCommonProtocol(peer, protocols)
    default:
      return new WeftError('WEFT_TLS', `TLS with ${peer} failed (${code || describeError(error)})`, error)
  }
}

/** True for errors that OpenSSL or node:tls raised, not the network. */
export function isTlsFailure(error: unknown): boolean {
  const code = codeOf(error)
  return code.startsWith('ERR_SSL') || code.startsWith('ERR_TLS') || code.startsWith('ERR_OSSL')
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | null)?.code
  return typeof code === 'string' ? code : ''
}
