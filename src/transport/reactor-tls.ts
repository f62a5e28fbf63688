/**
 * TLS on the reactor: credentials in OpenSSL's form, and OpenSSL's failures in the operator's words. The protocol
 * settings are in native/addon/tls_context.cc, what a peer must prove in tls-identity.ts.
 *
 * Unlike node:tls, the reactor tells TLS's own end (close_notify) from a connection that was cut.
 */
import { createHash } from 'node:crypto'
import { WeftError } from '../base/errors.ts'
import type { TlsContext, TlsMaterial, TlsOptions } from './conn.ts'
import type { NativeTlsContext, ReactorAddon } from './reactor-addon.ts'
import { checkMaterial, cutHandshake, noCommonProtocol, refusedCertificate } from './tls-identity.ts'

export class ReactorTlsContext implements TlsContext {
  readonly identity: string
  readonly options: TlsOptions
  readonly trustDomain: string
  readonly native: NativeTlsContext

  /** Throws WeftError WEFT_CERTIFICATE when key, chain and bundle do not fit or the leaf is not for the identity. */
  constructor(addon: ReactorAddon, material: TlsMaterial, options: TlsOptions) {
    checkMaterial(material, options)
    this.identity = material.identity
    this.options = options
    this.trustDomain = material.trustDomain
    const { certificateChain, key, bundle } = material
    const protocols = protocolList(options.alpn)
    const scope = options.isResumable ? resumptionScope(material, protocols) : null
    try {
      this.native = addon.createTlsContext(certificateChain, key, bundle, protocols, scope)
    } catch (error) {
      throw new WeftError('WEFT_CERTIFICATE', `key and certificate of ${material.identity} do not fit together`, error)
    }
  }
}

/** As RFC 7301, section 3.1, writes protocols: each behind its length. */
function protocolList(alpn: readonly string[]): Uint8Array {
  return Buffer.concat(alpn.map((name) => Buffer.from(`${String.fromCharCode(name.length)}${name}`, 'latin1')))
}

/**
 * What a session was judged by: a client that resumes is not judged anew, so nothing of it may have changed. Keys of
 * tickets are the process's, whose listeners may have many identities.
 */
function resumptionScope(material: TlsMaterial, protocols: Uint8Array): Uint8Array {
  const { identity, trustDomain, bundle } = material
  return createHash('sha256')
    .update(JSON.stringify([identity, trustDomain, bundle]))
    .update(protocols)
    .digest()
}

/** OpenSSL's X509_V_ERR_*, as node:tls writes them. */
const VERIFY_NAMES: ReadonlyMap<number, string> = new Map([
  [2, 'UNABLE_TO_GET_ISSUER_CERT'],
  [7, 'CERT_SIGNATURE_FAILURE'],
  [9, 'CERT_NOT_YET_VALID'],
  [10, 'CERT_HAS_EXPIRED'],
  [18, 'DEPTH_ZERO_SELF_SIGNED_CERT'],
  [19, 'SELF_SIGNED_CERT_IN_CHAIN'],
  [20, 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY'],
  [21, 'UNABLE_TO_VERIFY_LEAF_SIGNATURE'],
  [22, 'CERT_CHAIN_TOO_LONG'],
  [25, 'PATH_LENGTH_EXCEEDED'],
  [26, 'INVALID_PURPOSE'],
  [27, 'CERT_UNTRUSTED'],
  [28, 'CERT_REJECTED'],
])

/** SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE; the reason is in the low bits of OpenSSL 3's packed errors. */
const REASON_NO_CERTIFICATE = 199
/** SSL_R_NO_APPLICATION_PROTOCOL: the server's view. */
const REASON_NO_PROTOCOL = 235
/** SSL_R_TLSV1_ALERT_NO_APPLICATION_PROTOCOL: the client's. */
const REASON_ALERT_NO_PROTOCOL = 1_120
const REASON_MASK = 0x7f_ffff

/** The error for a failed handshake, or a TLS failure after it. `verifyResult` 0 when the certificate was not the reason. */
export function tlsFailure(
  addon: ReactorAddon,
  code: number,
  verifyResult: number,
  peer: string,
  tls: ReactorTlsContext | null,
): WeftError {
  if (verifyResult !== 0) {
    const name = VERIFY_NAMES.get(verifyResult) ?? addon.describeVerifyResult(verifyResult)
    return refusedCertificate(name, peer)
  }
  const reason = code & REASON_MASK
  if (reason === REASON_NO_CERTIFICATE) return refusedCertificate('it showed none', peer)
  if (tls !== null && (reason === REASON_NO_PROTOCOL || reason === REASON_ALERT_NO_PROTOCOL)) {
    return noCommonProtocol(peer, tls.options.alpn)
  }
  const words = addon.describeTlsError(code)
  if (words === '') return cutHandshake(peer)
  return new WeftError(
    'WEFT_TLS',
    `TLS with ${peer} failed (ERR_SSL_${words.toUpperCase().replaceAll(/[^A-Z0-9]+/g, '_')})`,
  )
}
