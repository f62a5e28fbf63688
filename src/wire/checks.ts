/**
 * Field checks of the codecs. Every failure is a WeftError WEFT_RESOURCE that names the resource, the field and what
 * is wrong with it; a resource that passes can be used by the data path without looking again.
 */
import { canonicalAddress, formatAddress, parseAddress, parseCidr } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import type { CidrMessage } from './messages.ts'

/** Longest name, host name, path, header value or regular expression. 8 KiB: what HTTP servers take as one header line. */
const TEXT_LENGTH_MAX = 8_192
/** Longest body of a direct response: it is configuration, held by every agent, not content. Istio's limit is 1 MiB. */
const BODY_LENGTH_MAX = 262_144

const PPM_MAX = 1_000_000
const UINT32_MAX = 0xffff_ffff

/** Control characters, which would split a header line or forge a log line. Tab is legal in header values. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
const CONTROL = /[\x00-\x08\x0a-\x1f\x7f]/
/** RFC 9110 section 5.6.2; a colon may lead, for pseudo headers. */
const HEADER_NAME = /^:?[!#$%&'*+.^_`|~0-9A-Za-z-]+$/

/** Checks the fields of one resource; `resource` is how errors call it, such as `service "shop/web.shop.svc"`. */
export class Checks {
  readonly resource: string

  constructor(resource: string) {
    this.resource = resource
  }

  fail(field: string, problem: string): never {
    throw new WeftError('WEFT_RESOURCE', `${this.resource}: ${field} ${problem}`)
  }

  text(field: string, value: string): string {
    return this.textUpTo(field, value, TEXT_LENGTH_MAX)
  }

  required(field: string, value: string): string {
    if (value === '') this.fail(field, 'is missing')
    return this.text(field, value)
  }

  /** Free text with a limit of its own; line ends are allowed. */
  body(field: string, value: string): string {
    if (value.length > BODY_LENGTH_MAX) this.fail(field, `is longer than ${BODY_LENGTH_MAX} characters`)
    return value
  }

  optionalText(field: string, value: string | null): string | null {
    return value === null ? null : this.text(field, value)
  }

  headerName(field: string, value: string): string {
    if (!HEADER_NAME.test(value) || value.length > TEXT_LENGTH_MAX) {
      this.fail(field, `${quote(value)} is no header name`)
    }
    return value
  }

  integer(field: string, value: number, min: number, max: number): number {
    if (!Number.isInteger(value) || value < min || value > max) {
      this.fail(field, `is ${value}, not an integer from ${min} to ${max}`)
    }
    return value
  }

  uint32(field: string, value: number): number {
    return this.integer(field, value, 0, UINT32_MAX)
  }

  optionalUint32(field: string, value: number | null): number | null {
    return value === null ? null : this.uint32(field, value)
  }

  port(field: string, value: number): number {
    return this.integer(field, value, 1, 65_535)
  }

  /** Status of a final HTTP response. */
  status(field: string, value: number): number {
    return this.integer(field, value, 200, 599)
  }

  ppm(field: string, value: number): number {
    return this.integer(field, value, 0, PPM_MAX)
  }

  /** `value` when it is one of `allowed`; the type of the list is the type of the result. */
  oneOf<const T extends string | number>(field: string, value: string | number, allowed: readonly T[]): T {
    if (!(allowed as readonly (string | number)[]).includes(value)) {
      this.fail(field, `is ${typeof value === 'string' ? quote(value) : value}, which this version does not know`)
    }
    return value as T
  }

  /** Bytes of an address -> canonical text. */
  addressText(field: string, bytes: Uint8Array): string {
    if (bytes.length !== 4 && bytes.length !== 16) this.fail(field, `has ${bytes.length} bytes, an address has 4 or 16`)
    return formatAddress(bytes)
  }

  /** Text of an address -> bytes; an IPv4-mapped address becomes 4 bytes. */
  addressBytes(field: string, text: string): Uint8Array {
    const canonical = canonicalAddress(text)
    if (canonical === null) this.fail(field, `${quote(text)} is no address`)
    return parseAddress(canonical)!
  }

  /** CIDR text -> canonical `address/length`; bits beyond the length are cleared. */
  cidrText(field: string, text: string): string {
    return this.formatCidr(this.cidrBytes(field, text))
  }

  cidrBytes(field: string, text: string): CidrMessage {
    const block = parseCidr(text)
    if (block === null) this.fail(field, `${quote(text)} is no address block`)
    return this.canonicalCidr(block.bytes, block.length)
  }

  cidrFromMessage(field: string, message: CidrMessage): string {
    const { address, length } = message
    if (address.length !== 4 && address.length !== 16) {
      this.fail(field, `has ${address.length} bytes, an address has 4 or 16`)
    }
    this.integer(`${field}.length`, length, 0, address.length * 8)
    return this.formatCidr(this.canonicalCidr(address, length))
  }

  private canonicalCidr(bytes: Uint8Array, length: number): CidrMessage {
    const masked = Uint8Array.from(
      bytes,
      (byte, i) => byte & ((0xff00 >> Math.min(8, Math.max(0, length - i * 8))) & 0xff),
    )
    // ::ffff:a.b.c.d/n with n >= 96 is the IPv4 block a.b.c.d/(n - 96): addresses are compared in their IPv4 form.
    if (masked.length === 16 && length >= 96 && formatAddress(masked).includes('.')) {
      return { address: masked.subarray(12), length: length - 96 }
    }
    return { address: masked, length }
  }

  private formatCidr(block: CidrMessage): string {
    return `${formatAddress(block.address)}/${block.length}`
  }

  private textUpTo(field: string, value: string, lengthMax: number): string {
    if (value.length > lengthMax) this.fail(field, `is longer than ${lengthMax} characters`)
    if (CONTROL.test(value)) this.fail(field, `${quote(value)} has control characters`)
    return value
  }
}

/** A value for a message: quoted, and cut so that a hostile one cannot fill the log. */
export function quote(value: string): string {
  return JSON.stringify(value.length > 100 ? `${value.slice(0, 100)}...` : value)
}
