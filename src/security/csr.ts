/**
 * Certificate signing requests (PKCS #10, RFC 2986): made by agents for the identities of their node, read by the
 * certificate authority. Keys are P-256 and are made and used by node:crypto; signatures are checked before anything
 * of a request is believed.
 */
import { createPublicKey, generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto'
import { WeftError } from '../base/errors.ts'
import { isMeshIdentity } from './certificate.ts'
import {
  type Asn1,
  bitString,
  bitsOf,
  contentOf,
  elementsOf,
  extension,
  generalNames,
  integer,
  nullValue,
  OID,
  oid,
  oidOf,
  parseDer,
  sequence,
  sequenceOf,
  set,
  tagged,
  toDer,
  toPem,
  uriOf,
} from './der.ts'

/** Longest request read, in characters of PEM. 16 KiB: a request with an 8192-bit RSA key has about 4. */
export const SIGNING_REQUEST_LENGTH_MAX = 16_384

/** RSA keys that are accepted: below, too weak; above, verification costs the authority too much. */
const RSA_BITS_MIN = 2_048
const RSA_BITS_MAX = 8_192

const PEM_REQUEST =
  /^\s*-----BEGIN (?:NEW )?CERTIFICATE REQUEST-----([A-Za-z0-9+/=\s]+)-----END (?:NEW )?CERTIFICATE REQUEST-----\s*$/

/** Signature algorithms of a request: hash, and whether the key must be EC. */
const SIGNATURE_ALGORITHMS: ReadonlyMap<string, { readonly hash: string; readonly keyType: 'ec' | 'rsa' }> = new Map([
  [OID.ecdsaWithSha256, { hash: 'sha256', keyType: 'ec' }],
  [OID.ecdsaWithSha384, { hash: 'sha384', keyType: 'ec' }],
  [OID.ecdsaWithSha512, { hash: 'sha512', keyType: 'ec' }],
  [OID.rsaWithSha256, { hash: 'sha256', keyType: 'rsa' }],
  [OID.rsaWithSha384, { hash: 'sha384', keyType: 'rsa' }],
  [OID.rsaWithSha512, { hash: 'sha512', keyType: 'rsa' }],
])

/** What a request proves (that its maker holds the key) and asks for. */
export interface SigningRequest {
  readonly publicKey: KeyObject
  /** Mesh identities among the names asked for. A wish, not a right: the authority decides. */
  readonly identities: readonly string[]
}

/** A new P-256 private key. */
export function createKey(): KeyObject {
  return generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
}

/** A request in PEM for `identity`, signed with its P-256 key. */
export function createSigningRequest(key: KeyObject, identity: string): string {
  const names = extension(OID.subjectAltName, true, generalNames(identity))
  const attributes = tagged(0, [sequence(oid(OID.extensionRequest), set(sequence(names)))])
  const body = sequence(integer(Uint8Array.of(0)), sequence(), publicKeyOf(createPublicKey(key)), attributes)
  return toPem('CERTIFICATE REQUEST', signed(body, key))
}

/** Reads a request of somebody else. Throws WEFT_CERTIFICATE when malformed, badly signed, or with an unfit key. */
export function parseSigningRequest(pem: string): SigningRequest {
  if (pem.length > SIGNING_REQUEST_LENGTH_MAX) {
    throw refused(`it is longer than ${SIGNING_REQUEST_LENGTH_MAX} characters`)
  }
  const match = PEM_REQUEST.exec(pem)
  if (match === null) throw refused('it is not one PEM block of type CERTIFICATE REQUEST')
  const request = parseDer(Buffer.from(match[1]!, 'base64'), 'the certificate signing request')
  const [body, algorithm, signature] = sequenceOf(request) ?? []
  const [version, , keyInfo, attributes] = sequenceOf(body) ?? []
  const signatureBits = bitsOf(signature)
  if (contentOf(version)?.equals(Buffer.of(0)) !== true || keyInfo === undefined || signatureBits === null) {
    throw refused('it is not a PKCS #10 request of version 1')
  }
  const publicKey = checkedKey(keyInfo)
  const method = SIGNATURE_ALGORITHMS.get(oidOf(sequenceOf(algorithm)?.[0]) ?? '')
  if (method === undefined || method.keyType !== publicKey.asymmetricKeyType) {
    throw refused('its signature algorithm is not ECDSA or RSA with SHA-2')
  }
  const isSigned = verify(method.hash, toDer(body!), { key: publicKey, dsaEncoding: 'der' }, signatureBits)
  if (!isSigned) throw refused('its signature is not by its own key')
  return { publicKey, identities: requestedIdentities(attributes) }
}

/** `body`, its ECDSA-with-SHA256 algorithm and its signature, as RFC 5280 and RFC 2986 both wrap them. */
export function signed(body: Asn1, key: KeyObject): Buffer {
  const { hash, algorithm } = signatureMethod(key)
  const signature = sign(hash, toDer(body), { key, dsaEncoding: 'der' })
  return toDer(sequence(body, algorithm, bitString(signature)))
}

/** How a key signs: P-256 and RSA with SHA-256, P-384 with SHA-384. */
export function signatureMethod(key: KeyObject): { hash: string; algorithm: Asn1 } {
  if (key.asymmetricKeyType === 'rsa') {
    return { hash: 'sha256', algorithm: sequence(oid(OID.rsaWithSha256), nullValue()) }
  }
  return key.asymmetricKeyDetails?.namedCurve === 'secp384r1'
    ? { hash: 'sha384', algorithm: sequence(oid(OID.ecdsaWithSha384)) }
    : { hash: 'sha256', algorithm: sequence(oid(OID.ecdsaWithSha256)) }
}

/** SubjectPublicKeyInfo of a key. */
export function publicKeyOf(key: KeyObject): Asn1 {
  return parseDer(key.export({ format: 'der', type: 'spki' }), 'our public key')
}

function checkedKey(keyInfo: Asn1): KeyObject {
  let key: KeyObject
  try {
    key = createPublicKey({ key: toDer(keyInfo), format: 'der', type: 'spki' })
  } catch (error) {
    throw refused('its public key cannot be read', error)
  }
  const details = key.asymmetricKeyDetails
  if (key.asymmetricKeyType === 'ec' && details?.namedCurve === 'prime256v1') return key
  const bits = details?.modulusLength ?? 0
  if (key.asymmetricKeyType === 'rsa' && bits >= RSA_BITS_MIN && bits <= RSA_BITS_MAX) return key
  const kind = details?.namedCurve ?? (bits > 0 ? `RSA ${bits}` : key.asymmetricKeyType)
  throw refused(`its key is ${kind}; P-256, or RSA from ${RSA_BITS_MIN} to ${RSA_BITS_MAX} bits, is required`)
}

/** Identities in the extension request among `attributes`; anything that is not as expected asks for nothing. */
function requestedIdentities(attributes: Asn1 | undefined): string[] {
  const identities: string[] = []
  for (const attribute of elementsOf(attributes) ?? []) {
    const [type, values] = elementsOf(attribute) ?? []
    if (oidOf(type) !== OID.extensionRequest) continue
    for (const entry of elementsOf(elementsOf(values)?.[0]) ?? []) {
      const parts = elementsOf(entry) ?? []
      const value = contentOf(parts.at(-1))
      if (oidOf(parts[0]) !== OID.subjectAltName || value === null) continue
      for (const name of elementsOf(parseDer(value, 'the subject alternative name of the request')) ?? []) {
        const uri = uriOf(name)
        if (uri !== null && isMeshIdentity(uri)) identities.push(uri)
      }
    }
  }
  return identities
}

function refused(reason: string, cause?: unknown): WeftError {
  return new WeftError('WEFT_CERTIFICATE', `the certificate signing request was refused: ${reason}`, cause)
}
