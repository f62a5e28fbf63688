/**
 * The ASN.1 that certificates are made of, as short calls over node-forge. Building only needs definite lengths and a
 * handful of types; whatever is parsed from others goes through `parseDer`, which has limits.
 */
import forge from 'node-forge'
import { WeftError } from '../base/errors.ts'

/** A value and its tag. */
export type Asn1 = forge.asn1.Asn1

const { Class, Type } = forge.asn1

/** Object identifiers, by the names of their specifications. */
export const OID = {
  ecdsaWithSha256: '1.2.840.10045.4.3.2',
  ecdsaWithSha384: '1.2.840.10045.4.3.3',
  ecdsaWithSha512: '1.2.840.10045.4.3.4',
  rsaWithSha256: '1.2.840.113549.1.1.11',
  rsaWithSha384: '1.2.840.113549.1.1.12',
  rsaWithSha512: '1.2.840.113549.1.1.13',
  extensionRequest: '1.2.840.113549.1.9.14',
  organizationName: '2.5.4.10',
  subjectKeyIdentifier: '2.5.29.14',
  keyUsage: '2.5.29.15',
  subjectAltName: '2.5.29.17',
  basicConstraints: '2.5.29.19',
  authorityKeyIdentifier: '2.5.29.35',
  extendedKeyUsage: '2.5.29.37',
  serverAuth: '1.3.6.1.5.5.7.3.1',
  clientAuth: '1.3.6.1.5.5.7.3.2',
} as const

/** forge takes options here; its type declarations know only the older flag. */
const fromDer = forge.asn1.fromDer as unknown as (
  bytes: forge.util.ByteBuffer,
  options: { strict: boolean; parseAllBytes: boolean; decodeBitStrings: boolean },
) => Asn1

/** Bit strings stay bytes: a signature or key that happens to look like ASN.1 must not be taken apart. */
const PARSE_OPTIONS = { strict: true, parseAllBytes: true, decodeBitStrings: false }

/** GeneralName numbers of a DNS name and of a URI (RFC 5280 section 4.2.1.6). */
const GENERAL_NAME_DNS = 2
const GENERAL_NAME_URI = 6

/** SEQUENCE of `values`. */
export function sequence(...values: Asn1[]): Asn1 {
  return forge.asn1.create(Class.UNIVERSAL, Type.SEQUENCE, true, values)
}

/** SET of `values`. */
export function set(...values: Asn1[]): Asn1 {
  return forge.asn1.create(Class.UNIVERSAL, Type.SET, true, values)
}

/** OBJECT IDENTIFIER, from dotted text. */
export function oid(name: string): Asn1 {
  return forge.asn1.create(Class.UNIVERSAL, Type.OID, false, forge.asn1.oidToDer(name).getBytes())
}

/** A non-negative integer of big-endian bytes; a zero byte is put in front when the first bit is set. */
export function integer(bytes: Uint8Array): Asn1 {
  const text = binary(bytes)
  return forge.asn1.create(Class.UNIVERSAL, Type.INTEGER, false, bytes[0]! >= 0x80 ? `\0${text}` : text)
}

/** BOOLEAN. */
export function boolean(value: boolean): Asn1 {
  return forge.asn1.create(Class.UNIVERSAL, Type.BOOLEAN, false, value ? '\xff' : '\0')
}

/** OCTET STRING. */
export function octetString(bytes: Uint8Array): Asn1 {
  return forge.asn1.create(Class.UNIVERSAL, Type.OCTETSTRING, false, binary(bytes))
}

function utf8String(text: string): Asn1 {
  return forge.asn1.create(Class.UNIVERSAL, Type.UTF8, false, forge.util.encodeUtf8(text))
}

/** A bit string; `unusedBits` of the last byte do not count. */
export function bitString(bytes: Uint8Array, unusedBits = 0): Asn1 {
  return forge.asn1.create(Class.UNIVERSAL, Type.BITSTRING, false, String.fromCharCode(unusedBits) + binary(bytes))
}

/** A context-specific tag around `values`, or with primitive content. */
export function tagged(tag: number, content: Asn1[] | Uint8Array): Asn1 {
  const isConstructed = Array.isArray(content)
  return forge.asn1.create(Class.CONTEXT_SPECIFIC, tag, isConstructed, isConstructed ? content : binary(content))
}

/** A time as RFC 5280 section 4.1.2.5 wants it: UTCTime through 2049, GeneralizedTime from 2050. */
export function time(ms: number): Asn1 {
  const date = new Date(ms)
  return date.getUTCFullYear() < 2050
    ? forge.asn1.create(Class.UNIVERSAL, Type.UTCTIME, false, forge.asn1.dateToUtcTime(date))
    : forge.asn1.create(Class.UNIVERSAL, Type.GENERALIZEDTIME, false, forge.asn1.dateToGeneralizedTime(date))
}

/** An X.509 extension; criticality is left out when false, as DER demands of defaults. */
export function extension(name: string, isCritical: boolean, value: Asn1): Asn1 {
  const body = octetString(toDer(value))
  return isCritical ? sequence(oid(name), boolean(true), body) : sequence(oid(name), body)
}

/** NULL. */
export function nullValue(): Asn1 {
  return forge.asn1.create(Class.UNIVERSAL, Type.NULL, false, '')
}

/** Text of a GeneralName that is a URI, or null. */
export function uriOf(name: Asn1): string | null {
  const isUri = name.tagClass === Class.CONTEXT_SPECIFIC && Number(name.type) === GENERAL_NAME_URI
  return isUri && typeof name.value === 'string' ? name.value : null
}

/** GeneralNames with one URI, and DNS names behind it. */
export function generalNames(uri: string, dnsNames: readonly string[] = []): Asn1 {
  return sequence(
    tagged(GENERAL_NAME_URI, Buffer.from(uri, 'latin1')),
    ...dnsNames.map((name) => tagged(GENERAL_NAME_DNS, Buffer.from(name, 'latin1'))),
  )
}

/** A distinguished name of one organisation. */
export function organization(name: string): Asn1 {
  return sequence(set(sequence(oid(OID.organizationName), utf8String(name))))
}

/** The bytes of a value. */
export function toDer(value: Asn1): Buffer {
  return Buffer.from(forge.asn1.toDer(value).getBytes(), 'latin1')
}

/** Parses DER of others; nothing may follow. Throws WEFT_CERTIFICATE. */
export function parseDer(bytes: Uint8Array, what: string): Asn1 {
  try {
    const value = fromDer(forge.util.createBuffer(binary(bytes)), PARSE_OPTIONS)
    // What is signed is judged by its re-encoding, so it must be the very bytes that came.
    if (!toDer(value).equals(bytes)) throw new Error('not in DER')
    return value
  } catch (error) {
    throw new WeftError('WEFT_CERTIFICATE', `${what} is not valid DER`, error)
  }
}

/** Elements of a constructed value, or null. */
export function elementsOf(value: Asn1 | undefined): Asn1[] | null {
  return value !== undefined && Array.isArray(value.value) ? (value.value as Asn1[]) : null
}

/** Elements of a SEQUENCE, or null. */
export function sequenceOf(value: Asn1 | undefined): Asn1[] | null {
  return value?.tagClass === Class.UNIVERSAL && value.type === Type.SEQUENCE ? elementsOf(value) : null
}

/** Bytes of a BIT STRING without unused bits, or null. */
export function bitsOf(value: Asn1 | undefined): Buffer | null {
  if (value?.tagClass !== Class.UNIVERSAL || value.type !== Type.BITSTRING) return null
  const content = contentOf(value)
  return content?.[0] === 0 ? content.subarray(1) : null
}

/** Content bytes of a primitive value, or null. */
export function contentOf(value: Asn1 | undefined): Buffer | null {
  return value !== undefined && typeof value.value === 'string' ? Buffer.from(value.value, 'latin1') : null
}

/** Dotted text of an OID value, or null. */
export function oidOf(value: Asn1 | undefined): string | null {
  if (value === undefined || value.type !== Type.OID || typeof value.value !== 'string' || value.value === '')
    return null
  return forge.asn1.derToOid(forge.util.createBuffer(value.value))
}

/** PEM text with lines of 64 characters. */
export function toPem(label: string, der: Uint8Array): string {
  const lines =
    Buffer.from(der.buffer, der.byteOffset, der.length)
      .toString('base64')
      .match(/.{1,64}/g) ?? []
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`
}

function binary(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')
}
