/**
 * TLS as the mesh uses it, on node:tls: version 1.3 only, AES-GCM, X25519 or P-256, ALPN h2, certificates on both
 * sides, no SNI and no resumption. What a peer must prove is decided here and nowhere else.
 *
 * node:tls does not tell TLS's own end (close_notify) from a connection that was cut: both come as an end, and now and
 * then even a reset does, when a write of OpenSSL's own met it first. Whoever speaks over TLS must therefore be able to
 * tell by its own framing what is complete; HTTP/2, the only protocol here, can.
 */
import { constants, X509Certificate } from 'node:crypto'
import * as tls from 'node:tls'
import { describeError, WeftError } from '../base/errors.ts'
import { parseIdentity } from '../model/identity.ts'
import { uriNames, workloadIdentities } from '../model/subject-alt-name.ts'
import type { TlsContext, TlsMaterial } from './conn.ts'

/** The one application protocol: HBONE is HTTP/2. */
export const ALPN_PROTOCOL = 'h2'

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

const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g

/** Ready-made credentials of one identity. */
export class NodeTlsContext implements TlsContext {
  readonly identity: string
  readonly trustDomain: string
  /** For connections that we make. */
  readonly clientContext: tls.SecureContext
  /** For the servers that accept with these credentials. */
  readonly serverOptions: tls.TlsOptions

  /** Throws WeftError WEFT_CERTIFICATE when key, chain and bundle do not fit or the leaf is not for the identity. */
  constructor(material: TlsMaterial, handshakeTimeoutMs: number) {
    checkMaterial(material)
    const options: tls.SecureContextOptions = {
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
    this.trustDomain = material.trustDomain
    try {
      this.clientContext = tls.createSecureContext(options)
    } catch (error) {
      throw new WeftError('WEFT_CERTIFICATE', `key and certificate of ${material.identity} do not fit together`, error)
    }
    this.serverOptions = {
      ...options,
      // The preference is in secureOptions already; this switch would truncate those to 32 bits.
      honorCipherOrder: false,
      ALPNProtocols: [ALPN_PROTOCOL],
      requestCert: true,
      // Checked by checkClient, which sees who it was: node:tls would drop the peer before it can be named in the log.
      rejectUnauthorized: false,
      handshakeTimeout: handshakeTimeoutMs,
    }
  }
}

function checkMaterial(material: TlsMaterial): void {
  const name = material.identity
  // An empty or unreadable bundle must never fall back to the public roots that Node brings along.
  if (countCertificates(material.bundle, `trust bundle of ${name}`) === 0) {
    throw new WeftError('WEFT_CERTIFICATE', `the trust bundle of ${name} holds no certificate`)
  }
  if (countCertificates(material.certificateChain, `certificate of ${name}`) === 0) {
    throw new WeftError('WEFT_CERTIFICATE', `the certificate chain of ${name} holds no certificate`)
  }
  const names = uriNames(new X509Certificate(material.certificateChain).subjectAltName ?? '')
  if (!names.includes(name)) {
    throw new WeftError('WEFT_CERTIFICATE', `the certificate for ${name} names ${listOf(names)} instead`)
  }
}

function countCertificates(pem: string, what: string): number {
  const blocks = pem.match(PEM_CERTIFICATE) ?? []
  for (const block of blocks) {
    try {
      new X509Certificate(block)
    } catch (error) {
      throw new WeftError('WEFT_CERTIFICATE', `the ${what} cannot be read`, error)
    }
  }
  return blocks.length
}

/**
 * Judges the server of a finished handshake: exactly one of `expected` must be among its certificate's names.
 * Returns the identity, or why it is refused.
 */
export function checkServer(subjectAltName: string, expected: readonly string[], peer: string): string | WeftError {
  const names = workloadIdentities(subjectAltName)
  const proved = expected.filter((identity) => names.includes(identity))
  if (proved.length === 1) return proved[0]!
  return new WeftError('WEFT_PEER_IDENTITY', `${peer} proved to be ${listOf(names)}, expected ${listOf(expected)}`)
}

/**
 * Judges the client of a finished handshake: chain verified, h2 agreed, and exactly one workload identity in
 * `trustDomain`. Returns the identity, or why it is refused.
 */
export function checkClient(socket: tls.TLSSocket, trustDomain: string, peer: string): string | WeftError {
  if (socket.authorized !== true) {
    // The type says Error, the value is OpenSSL's code as text.
    const reason = String(socket.authorizationError)
    return new WeftError('WEFT_TLS', `the certificate of ${peer} was refused: ${reason}; is it from our trust domain?`)
  }
  if (socket.alpnProtocol !== ALPN_PROTOCOL) {
    return new WeftError('WEFT_TLS', `${peer} does not speak HTTP/2 over TLS (no ALPN ${ALPN_PROTOCOL})`)
  }
  const names = workloadIdentities(socket.getPeerX509Certificate()?.subjectAltName ?? '')
  const own = names.filter((name) => parseIdentity(name)?.trustDomain === trustDomain)
  if (own.length === 1) return own[0]!
  return new WeftError(
    'WEFT_PEER_IDENTITY',
    `${peer} proved to be ${listOf(names)}, expected one identity in trust domain ${trustDomain}`,
  )
}

/** The error for a TLS failure that node:tls reported, at whatever point of the connection. */
export function tlsError(error: unknown, peer: string): WeftError {
  if (error instanceof WeftError) return error
  const code = codeOf(error)
  switch (code) {
    case 'ERR_TLS_HANDSHAKE_TIMEOUT':
      return new WeftError('WEFT_TLS', `${peer} did not finish its TLS handshake in time`, error)
    case 'ECONNRESET':
    case 'EPIPE':
      return new WeftError(
        'WEFT_TLS',
        `${peer} closed the connection during the TLS handshake; does it trust our certificate?`,
        error,
      )
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

function listOf(names: readonly string[]): string {
  return names.length === 0 ? 'nobody' : names.join(' and ')
}
