/**
 * TLS on the reactor: credentials in OpenSSL's form, and OpenSSL's failures in the operator's words. The protocol
 * settings are in native/addon/tls_context.cc, what a peer must prove in tls-identity.ts.
 *
 * Unlike node:tls, the reactor tells TLS's own end (close_notify) from a connection that was cut.
 */
import { X509Certificate } from 'node:crypto'
import { WeftError } from '../base/errors.ts'
import type { TlsContext, TlsMaterial } from './conn.ts'
import type { NativeTlsContext, ReactorAddon } from './reactor-addon.ts'
import { checkMaterial, cutHandshake, refusedCertificate } from './tls-identity.ts'

export class ReactorTlsContext implements TlsContext {
  readonly identity: string
  readonly trustDomain: string
  readonly native: NativeTlsContext

  /** Throws WeftError WEFT_CERTIFICATE when key, chain and bundle do not fit or the leaf is not for the identity. */
  constructor(addon: ReactorAddon, material: TlsMaterial) {
    checkMaterial(material)
    this.identity = material.identity
    this.trustDomain = material.trustDomain
    try {
      this.native = addon.createTlsContext(material.certificateChain, material.key, material.bundle)
    } catch (error) {
      throw new WeftError('WEFT_CERTIFICATE', `key and certificate of ${material.identity} do not fit together`, error)
    }
  }
}

/** The text form of the names in a certificate, which tls-identity.ts reads; empty without a certificate. */
export function subjectAltNameOf(certificate: Uint8Array | null): string {
  return certificate === null ? '' : (new X509Certificate(certificate).subjectAltName ?? '')
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
const REASON_MASK = 0x7f_ffff

/** The error for a failed handshake, or a TLS failure after it. `verifyResult` 0 when the certificate was not the reason. */
export function tlsFailure(addon: ReactorAddon, code: number, verifyResult: number, peer: string): WeftError {
  if (verifyResult !== 0) {
    const name = VERIFY_NAMES.get(verifyResult) ?? addon.describeVerifyResult(verifyResult)
    return refusedCertificate(name, peer)
  }
  if ((code & REASON_MASK) === REASON_NO_CERTIFICATE) return refusedCertificate('it showed none', peer)
  const words = addon.describeTlsError(code)
  if (words === '') return cutHandshake(peer)
  return new WeftError(
    'WEFT_TLS',
    `TLS with ${peer} failed (ERR_SSL_${words.toUpperCase().replaceAll(/[^A-Z0-9]+/g, '_')})`,
  )
}
