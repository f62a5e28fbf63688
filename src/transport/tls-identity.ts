/**
 * What a peer must prove, and what credentials must be, whatever makes the TLS: the identities in a certificate's
 * names. Chains are verified before, by OpenSSL; here is decided who that makes the peer.
 */
import { X509Certificate } from 'node:crypto'
import { WeftError } from '../base/errors.ts'
import { parseIdentity } from '../model/identity.ts'
import { uriNames, workloadIdentities } from '../model/subject-alt-name.ts'
import type { TlsMaterial, TlsOptions } from './conn.ts'

const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g

/**
 * Throws WeftError WEFT_CERTIFICATE when chain or bundle cannot be read, the leaf is not for the identity, or there is
 * no protocol to agree on.
 */
export function checkMaterial(material: TlsMaterial, { alpn }: TlsOptions): void {
  const name = material.identity
  // RFC 7301, section 3.1: a name takes 1 to 255 bytes. Without any, peers would agree on nothing.
  if (alpn.length === 0 || alpn.some((protocol) => !/^[\x21-\x7e]{1,255}$/.test(protocol))) {
    throw new WeftError('WEFT_CERTIFICATE', `the application protocols for ${name} cannot be used: ${alpn.join(', ')}`)
  }
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
 * Judges the client of a finished handshake: its certificate must name exactly one workload identity in `trustDomain`.
 * Returns the identity, or why it is refused.
 */
export function checkClientNames(subjectAltName: string, trustDomain: string, peer: string): string | WeftError {
  const names = workloadIdentities(subjectAltName)
  const own = names.filter((name) => parseIdentity(name)?.trustDomain === trustDomain)
  if (own.length === 1) return own[0]!
  return new WeftError(
    'WEFT_PEER_IDENTITY',
    `${peer} proved to be ${listOf(names)}, expected one identity in trust domain ${trustDomain}`,
  )
}

// --- errors ---

export function refusedCertificate(reason: string, peer: string): WeftError {
  return new WeftError('WEFT_TLS', `the certificate of ${peer} was refused: ${reason}; is it from our trust domain?`)
}

export function noCommonProtocol(peer: string, protocols: readonly string[]): WeftError {
  return new WeftError('WEFT_TLS', `${peer} and we have no protocol in common (no ALPN ${protocols.join(' or ')})`)
}

export function lateHandshake(peer: string, cause?: unknown): WeftError {
  return new WeftError('WEFT_TLS', `${peer} did not finish its TLS handshake in time`, cause)
}

export function cutHandshake(peer: string, cause?: unknown): WeftError {
  return new WeftError(
    'WEFT_TLS',
    `${peer} closed the connection during the TLS handshake; does it trust our certificate?`,
    cause,
  )
}

function listOf(names: readonly string[]): string {
  return names.length === 0 ? 'nobody' : names.join(' and ')
}
