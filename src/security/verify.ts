/**
 * Verification of a certificate chain against a trust bundle, for the control plane: an agent checks what it was
 * issued before it uses it. Handshakes are not checked here but by OpenSSL itself.
 */
import type { Certificate } from './certificate.ts'

/** Most certificates between a leaf and its root. Four: corporate, regional and cluster authority, and one spare. */
const CHAIN_LENGTH_MAX = 4

/**
 * Null when `chain` (leaf first) leads by valid signatures to a root of `bundle` at the time `nowMs`; else the reason.
 */
export function verifyChain(
  chain: readonly Certificate[],
  bundle: readonly Certificate[],
  nowMs: number,
): string | null {
  const leaf = chain[0]
  if (leaf === undefined) return 'the chain is empty'
  if (leaf.isAuthority) return 'the first certificate is one of an authority, not a leaf'
  return findRoot(leaf, chain, bundle, nowMs)
}

/**
 * The same for the certificate of an authority: null when it is a root of `bundle`, or leads to one by way of `above`.
 */
export function verifyAuthority(
  authority: Certificate,
  above: readonly Certificate[],
  bundle: readonly Certificate[],
  nowMs: number,
): string | null {
  if (!authority.isAuthority) return 'the certificate is not one of an authority'
  return findRoot(authority, [authority, ...above], bundle, nowMs)
}

function findRoot(
  first: Certificate,
  chain: readonly Certificate[],
  bundle: readonly Certificate[],
  nowMs: number,
): string | null {
  let current = first
  for (let depth = 0; depth <= CHAIN_LENGTH_MAX; depth++) {
    const expiry = outOfDate(current, nowMs)
    if (expiry !== null) return expiry
    const root = bundle.find((one) => isIssuer(one, current))
    if (root !== undefined) return outOfDate(root, nowMs)
    const next = chain.slice(1).find((one) => one !== current && isIssuer(one, current))
    if (next === undefined) return `no trusted authority issued the certificate with serial number ${current.serial}`
    current = next
  }
  return `the chain is longer than ${CHAIN_LENGTH_MAX} certificates`
}

function isIssuer(candidate: Certificate, subject: Certificate): boolean {
  return candidate.isAuthority && subject.x509.checkIssued(candidate.x509) && subject.x509.verify(candidate.publicKey)
}

function outOfDate(certificate: Certificate, nowMs: number): string | null {
  if (nowMs < certificate.notBeforeMs) {
    return `the certificate ${certificate.serial} is valid only from ${new Date(certificate.notBeforeMs).toISOString()}`
  }
  if (nowMs >= certificate.notAfterMs) {
    return `the certificate ${certificate.serial} expired at ${new Date(certificate.notAfterMs).toISOString()}`
  }
  return null
}
