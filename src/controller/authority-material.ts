/**
 * What an authority is made of, from PEM texts of whatever source: who signs, and the roots that its certificates lead
 * to. It is checked as a whole before anything of it is used.
 */
import { WeftError } from '../base/errors.ts'
import { type Certificate, parseCertificates } from '../security/certificate.ts'
import { type Authority, loadAuthority } from '../security/issue.ts'
import { verifyAuthority } from '../security/verify.ts'

/** PEM texts. */
export interface AuthorityTexts {
  /** The certificate that signs, then those above it. */
  readonly chain: string
  readonly key: string
  /** Trusted roots; null takes those of the chain. */
  readonly roots: string | null
}

/** Who signs, and whom to trust. */
export interface AuthorityMaterial {
  readonly authority: Authority
  /** The certificate that signs, and those above it. */
  readonly chain: readonly Certificate[]
  /** Self-signed, at least one. */
  readonly roots: readonly Certificate[]
}

/** Checks the texts of one authority to fit together at `nowMs`. Throws WEFT_CERTIFICATE that says what does not. */
export function readMaterial(texts: AuthorityTexts, nowMs: number): AuthorityMaterial {
  const chain = withoutRepetitions(parseCertificates(texts.chain, 'the certificate of the authority'))
  const authority = loadAuthority(chain.map(({ pem }) => pem).join(''), texts.key)
  const given = texts.roots === null ? chain : parseCertificates(texts.roots, 'the roots of the authority')
  const roots = withoutRepetitions(given).filter(({ x509 }) => x509.checkIssued(x509))
  if (roots.length === 0) {
    throw new WeftError(
      'WEFT_CERTIFICATE',
      'the certificates of the authority include no self-signed root: add it to them',
    )
  }
  const reason = verifyAuthority(authority.certificate, chain, roots, nowMs)
  if (reason !== null) throw new WeftError('WEFT_CERTIFICATE', `the authority is of no use: ${reason}`)
  return { authority, chain, roots }
}

/** SHA-256 of a certificate: what tells two apart. */
export function fingerprintOf(certificate: Certificate): string {
  return certificate.x509.fingerprint256
}

/** A bundle of these roots, each once. */
export function bundleOf(roots: readonly Certificate[]): string {
  return withoutRepetitions(roots)
    .map(({ pem }) => pem)
    .join('')
}

function withoutRepetitions(certificates: readonly Certificate[]): Certificate[] {
  return [...new Map(certificates.map((one) => [fingerprintOf(one), one])).values()]
}
