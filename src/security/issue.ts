/**
 * The certificate authority's hands: makes a self-signed root and signs leaves (RFC 5280, X.509-SVID).
 *
 * A leaf has no subject: its name is one critical URI, beside which the controller's has DNS names. It may be server and
 * client, and never outlives its issuer.
 */
import { createHash, createPrivateKey, createPublicKey, type KeyObject, randomBytes } from 'node:crypto'
import { WeftError } from '../base/errors.ts'
import { type Certificate, isMeshIdentity, parseCertificates } from './certificate.ts'
import { createKey, parseSigningRequest, publicKeyOf, signatureMethod, signed } from './csr.ts'
import {
  type Asn1,
  bitString,
  bitsOf,
  boolean,
  contentOf,
  elementsOf,
  extension,
  generalNames,
  integer,
  OID,
  octetString,
  oid,
  oidOf,
  organization,
  parseDer,
  sequence,
  sequenceOf,
  tagged,
  time,
  toPem,
} from './der.ts'

/** How far in the past a certificate begins. Two minutes: clocks of a cluster's nodes differ by seconds at times. */
export const CLOCK_SKEW_MS = 120_000

/** Shortest lifetime of a leaf: half of it must leave time to renew. */
export const LEAF_LIFETIME_MS_MIN = 10_000

/** A host name without wildcards (RFC 1123). */
const DNS_NAME = /^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/

/** Key usage bits as the first byte of the bit string: digitalSignature; keyCertSign and cRLSign. */
const USAGE_DIGITAL_SIGNATURE = 0x80
const USAGE_CERTIFICATES_AND_CRLS = 0x06

/** Who signs: a root, or an intermediate with the certificates above it. */
export interface Authority {
  readonly certificate: Certificate
  readonly key: KeyObject
  /** PEM of the intermediates to send along with a leaf; empty when the authority is the root itself. */
  readonly intermediates: string
}

/** What to put into a leaf. */
export interface LeafOrder {
  /** The only identity, of a workload, a node or the controller. Names in the request are not looked at. */
  readonly identity: string
  /** Further names, for clients that judge a server by the name they dialled. None when left out. */
  readonly dnsNames?: readonly string[]
  readonly publicKey: KeyObject
  readonly lifetimeMs: number
  readonly nowMs: number
}

/** A new P-256 root, valid from now (less the clock skew) for `lifetimeMs`. */
export function createRoot(organizationName: string, lifetimeMs: number, nowMs: number): Authority {
  const key = createKey()
  const name = organization(organizationName)
  const keyInfo = publicKeyOf(createPublicKey(key))
  const pem = certify(key, {
    issuer: name,
    subject: name,
    keyInfo,
    notBeforeMs: nowMs - CLOCK_SKEW_MS,
    notAfterMs: nowMs + lifetimeMs,
    extensions: [
      extension(OID.basicConstraints, true, sequence(boolean(true))),
      // Two bits used in the byte's lower half: the last one counts as unused.
      extension(OID.keyUsage, true, bitString(Uint8Array.of(USAGE_CERTIFICATES_AND_CRLS), 1)),
      extension(OID.subjectKeyIdentifier, false, octetString(keyIdentifier(keyInfo))),
    ],
  })
  return { certificate: parseCertificates(pem, 'the new root')[0]!, key, intermediates: '' }
}

/**
 * An authority from files: its certificate first, then any above it, and the private key. Throws WEFT_CERTIFICATE
 * when they do not fit together.
 */
export function loadAuthority(chainPem: string, keyPem: string): Authority {
  const [certificate, ...above] = parseCertificates(chainPem, 'the certificate of the authority')
  if (certificate === undefined) throw new WeftError('WEFT_CERTIFICATE', 'the authority has no certificate')
  let key: KeyObject
  try {
    key = createPrivateKey(keyPem)
  } catch (error) {
    throw new WeftError('WEFT_CERTIFICATE', 'the private key of the authority cannot be read', error)
  }
  if (!certificate.isAuthority) {
    throw new WeftError('WEFT_CERTIFICATE', 'the certificate of the authority is not one of a CA (basicConstraints)')
  }
  if (!certificate.x509.checkPrivateKey(key)) {
    throw new WeftError('WEFT_CERTIFICATE', 'the private key of the authority does not belong to its certificate')
  }
  const isRoot = certificate.x509.checkIssued(certificate.x509)
  const chain = isRoot ? [] : [certificate, ...above.filter((one) => !one.x509.checkIssued(one.x509))]
  return { certificate, key, intermediates: chain.map((one) => one.pem).join('') }
}

/** Signs a leaf for `identity` with the key of a request. The request's own signature is verified first. */
export function issueFromRequest(
  authority: Authority,
  requestPem: string,
  identity: string,
  lifetimeMs: number,
  nowMs: number,
  dnsNames: readonly string[] = [],
): string {
  const { publicKey } = parseSigningRequest(requestPem)
  return issueLeaf(authority, { identity, dnsNames, publicKey, lifetimeMs, nowMs })
}

/** Signs a leaf; returns its chain in PEM, leaf first, without the root. */
export function issueLeaf(authority: Authority, order: LeafOrder): string {
  const { identity, dnsNames = [], lifetimeMs, nowMs } = order
  if (!isMeshIdentity(identity)) {
    throw new WeftError('WEFT_CERTIFICATE', `${identity} is not an identity that can be certified`)
  }
  const noName = dnsNames.find((name) => !DNS_NAME.test(name))
  if (noName !== undefined) throw new WeftError('WEFT_CERTIFICATE', `${JSON.stringify(noName)} is not a DNS name`)
  const { notAfterMs, notBeforeMs } = authority.certificate
  if (!(lifetimeMs >= LEAF_LIFETIME_MS_MIN)) {
    throw new WeftError('WEFT_CERTIFICATE', `a lifetime of ${lifetimeMs} ms is below ${LEAF_LIFETIME_MS_MIN} ms`)
  }
  if (notAfterMs <= nowMs) {
    throw new WeftError('WEFT_CERTIFICATE', 'the certificate of the authority has expired; give it a new one')
  }
  const keyInfo = publicKeyOf(order.publicKey)
  const issuer = readIssuer(authority.certificate)
  const leaf = certify(authority.key, {
    issuer: issuer.subject,
    subject: sequence(),
    keyInfo,
    notBeforeMs: Math.max(nowMs - CLOCK_SKEW_MS, notBeforeMs),
    notAfterMs: Math.min(nowMs + lifetimeMs, notAfterMs),
    extensions: [
      extension(OID.basicConstraints, true, sequence()),
      extension(OID.keyUsage, true, bitString(Uint8Array.of(USAGE_DIGITAL_SIGNATURE), 7)),
      extension(OID.extendedKeyUsage, false, sequence(oid(OID.serverAuth), oid(OID.clientAuth))),
      extension(OID.subjectKeyIdentifier, false, octetString(keyIdentifier(keyInfo))),
      extension(OID.authorityKeyIdentifier, false, sequence(tagged(0, issuer.keyIdentifier))),
      // Critical, because the subject is empty (RFC 5280 section 4.2.1.6).
      extension(OID.subjectAltName, true, generalNames(identity, dnsNames)),
    ],
  })
  return leaf + authority.intermediates
}

interface CertificateFields {
  readonly issuer: Asn1
  readonly subject: Asn1
  readonly keyInfo: Asn1
  readonly notBeforeMs: number
  readonly notAfterMs: number
  readonly extensions: Asn1[]
}

/** TBSCertificate, version 3, with a random serial number, signed; in PEM. */
function certify(key: KeyObject, fields: CertificateFields): string {
  const body = sequence(
    tagged(0, [integer(Uint8Array.of(2))]),
    integer(serialNumber()),
    signatureMethod(key).algorithm,
    fields.issuer,
    sequence(time(fields.notBeforeMs), time(fields.notAfterMs)),
    fields.subject,
    fields.keyInfo,
    tagged(3, [sequence(...fields.extensions)]),
  )
  return toPem('CERTIFICATE', signed(body, key))
}

/** 126 random bits: positive, never zero, the same length always (RFC 5280 section 4.1.2.2 allows 20 bytes). */
function serialNumber(): Uint8Array {
  const bytes = randomBytes(16)
  bytes[0] = (bytes[0]! & 0x3f) | 0x40
  return bytes
}

/** SHA-1 of the public key's bits (RFC 5280 section 4.2.1.2, method 1): a name, not a protection. */
function keyIdentifier(keyInfo: Asn1): Buffer {
  const bits = bitsOf(sequenceOf(keyInfo)?.[1])
  return createHash('sha1').update(bits!).digest()
}

/** What a leaf must repeat of its issuer's certificate: the subject, byte for byte, and the key identifier. */
function readIssuer(certificate: Certificate): { subject: Asn1; keyIdentifier: Buffer } {
  const what = 'the certificate of the authority'
  const fields = elementsOf(elementsOf(parseDer(certificate.x509.raw, what))?.[0]) ?? []
  // Fields: version, serial, algorithm, issuer, validity, subject, key, optional unique ids, extensions last.
  const subject = fields[5]
  const keyInfo = fields[6]
  if (subject === undefined || keyInfo === undefined)
    throw new WeftError('WEFT_CERTIFICATE', `${what} is not version 3`)
  for (const entry of elementsOf(elementsOf(fields.at(-1))?.[0]) ?? []) {
    const parts = elementsOf(entry) ?? []
    const value = contentOf(parts.at(-1))
    if (oidOf(parts[0]) !== OID.subjectKeyIdentifier || value === null) continue
    const identifier = contentOf(parseDer(value, what))
    if (identifier !== null) return { subject, keyIdentifier: identifier }
  }
  return { subject, keyIdentifier: keyIdentifier(keyInfo) }
}
