/**
 * Certificates as the mesh reads them: PEM in, the few facts that matter out. OpenSSL (node:crypto) does the parsing.
 */
import { type KeyObject, X509Certificate } from 'node:crypto'
import { WeftError } from '../base/errors.ts'
import { parseIdentity } from '../model/identity.ts'
import { isSpiffeId, uriNames } from '../model/subject-alt-name.ts'

/** Most text of one chain or bundle. 256 KiB: over a hundred certificates, far beyond any real bundle. */
const PEM_LENGTH_MAX = 262_144

const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----/g

/** One parsed certificate. */
export interface Certificate {
  readonly x509: X509Certificate
  readonly pem: string
  /** SPIFFE IDs among its names: workloads and nodes. */
  readonly identities: readonly string[]
  readonly isAuthority: boolean
  /** Upper-case hexadecimal. */
  readonly serial: string
  readonly notBeforeMs: number
  readonly notAfterMs: number
  readonly publicKey: KeyObject
}

/** Every certificate of a PEM text, in order. Throws WEFT_CERTIFICATE when there is none or one cannot be read. */
export function parseCertificates(pem: string, what: string): Certificate[] {
  if (pem.length > PEM_LENGTH_MAX) {
    throw new WeftError('WEFT_CERTIFICATE', `${what} is longer than ${PEM_LENGTH_MAX} characters`)
  }
  const blocks = pem.match(PEM_CERTIFICATE)
  if (blocks === null) throw new WeftError('WEFT_CERTIFICATE', `${what} holds no PEM certificate`)
  return blocks.map((block, index) => parseBlock(block, blocks.length === 1 ? what : `${what} (number ${index + 1})`))
}

function parseBlock(pem: string, what: string): Certificate {
  let x509: X509Certificate
  let publicKey: KeyObject
  try {
    x509 = new X509Certificate(pem)
    publicKey = x509.publicKey
  } catch (error) {
    throw new WeftError('WEFT_CERTIFICATE', `${what} is not a readable certificate`, error)
  }
  return {
    x509,
    pem: `${pem}\n`,
    identities: identitiesOf(x509),
    isAuthority: x509.ca,
    serial: x509.serialNumber,
    notBeforeMs: Date.parse(x509.validFrom),
    notAfterMs: Date.parse(x509.validTo),
    publicKey,
  }
}

/** The workload and node identities in a certificate; other URIs are left out. */
function identitiesOf(x509: X509Certificate): string[] {
  return uriNames(x509.subjectAltName ?? '').filter(isMeshIdentity)
}

/** True for `spiffe://<trust domain>/ns/<ns>/sa/<sa>`, `.../node/<name>` and `.../controller`. */
export function isMeshIdentity(uri: string): boolean {
  if (!isSpiffeId(uri)) return false
  if (parseIdentity(uri) !== null) return true
  const pieces = uri.slice('spiffe://'.length).split('/')
  return (pieces.length === 3 && pieces[1] === 'node') || (pieces.length === 2 && pieces[1] === 'controller')
}
