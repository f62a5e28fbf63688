/**
 * IP addresses, ports and CIDR blocks.
 *
 * The canonical text of an address (RFC 5952 for IPv6; an IPv4-mapped IPv6 address becomes its IPv4 form) is the key
 * of every index, so two spellings of one address can never be two keys.
 */

/** IP protocol family as the kernel numbers it. */
export const FAMILY_IPV4 = 2
export const FAMILY_IPV6 = 10
/** IPv4 or IPv6, by the kernel's numbers. */
export type Family = typeof FAMILY_IPV4 | typeof FAMILY_IPV6

/** Parses an address into 4 or 16 bytes in network order; null when `text` is not an address. No zones, no brackets. */
export function parseAddress(text: string): Uint8Array | null {
  return text.includes(':') ? parseIpv6(text) : parseIpv4(text)
}

/** Canonical text of `text`, or null when it is not an address. */
export function canonicalAddress(text: string): string | null {
  const bytes = parseAddress(text)
  return bytes === null ? null : formatAddress(bytes)
}

/** Canonical text of 4 or 16 bytes in network order. Throws RangeError on another length. */
export function formatAddress(bytes: Uint8Array): string {
  if (bytes.length === 4) return `${bytes[0]}.${bytes[1]}.${bytes[2]}.${bytes[3]}`
  if (bytes.length !== 16) throw new RangeError(`an address has 4 or 16 bytes, not ${bytes.length}`)
  if (isMapped(bytes)) return `${bytes[12]}.${bytes[13]}.${bytes[14]}.${bytes[15]}`
  const groups: number[] = []
  for (let i = 0; i < 16; i += 2) groups.push((bytes[i]! << 8) | bytes[i + 1]!)
  const [start, length] = longestZeroRun(groups)
  let text = ''
  for (let i = 0; i < 8; i++) {
    if (i === start) {
      text += '::'
      i += length - 1
      continue
    }
    if (text !== '' && !text.endsWith(':')) text += ':'
    text += groups[i]!.toString(16)
  }
  return text
}

/** Family of a canonical address. */
export function familyOf(address: string): Family {
  return address.includes(':') ? FAMILY_IPV6 : FAMILY_IPV4
}

/** True for 127.0.0.0/8 and ::1. */
export function isLoopback(address: string): boolean {
  return address === '::1' || address.startsWith('127.')
}

/** `ip:port`, IPv6 in brackets. */
export function formatHostPort(host: string, port: number): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`
}

/**
 * Parses `host:port` or `[ipv6]:port`. The host is an address or a DNS name; an unbracketed IPv6 address is refused.
 * Null on anything else, and on ports outside 1..65535.
 */
export function parseHostPort(text: string): { host: string; port: number } | null {
  const colon = text.lastIndexOf(':')
  if (colon <= 0) return null
  const portText = text.slice(colon + 1)
  if (!/^[0-9]{1,5}$/.test(portText)) return null
  const port = Number(portText)
  if (port < 1 || port > 65_535) return null
  let host = text.slice(0, colon)
  if (host.startsWith('[')) {
    if (!host.endsWith(']')) return null
    host = host.slice(1, -1)
    const address = host.includes(':') ? canonicalAddress(host) : null
    return address === null ? null : { host: address, port }
  }
  return host.includes(':') || host === '' ? null : { host, port }
}

/** An address block: `length` leading bits of `bytes` (4 or 16) count. */
export interface Cidr {
  readonly bytes: Uint8Array
  readonly length: number
}

/** Parses `a.b.c.d/n`, `v6::/n` or a bare address (all its bits). Null when it is neither. */
export function parseCidr(text: string): Cidr | null {
  const slash = text.indexOf('/')
  const bytes = parseAddress(slash < 0 ? text : text.slice(0, slash))
  if (bytes === null) return null
  if (slash < 0) return { bytes, length: bytes.length * 8 }
  const lengthText = text.slice(slash + 1)
  if (!/^[0-9]{1,3}$/.test(lengthText)) return null
  const length = Number(lengthText)
  return length > bytes.length * 8 ? null : { bytes, length }
}

/** True when `bytes` lies in `block`. Different families never match. */
export function cidrContains(block: Cidr, bytes: Uint8Array): boolean {
  if (block.bytes.length !== bytes.length) return false
  const whole = block.length >>> 3
  for (let i = 0; i < whole; i++) if (block.bytes[i] !== bytes[i]) return false
  const rest = block.length & 7
  if (rest === 0) return true
  const mask = (0xff << (8 - rest)) & 0xff
  return (block.bytes[whole]! & mask) === (bytes[whole]! & mask)
}

function parseIpv4(text: string): Uint8Array | null {
  const parts = text.split('.')
  if (parts.length !== 4) return null
  const bytes = new Uint8Array(4)
  for (let i = 0; i < 4; i++) {
    const part = parts[i]!
    // Leading zeros are refused: some parsers read them as octal.
    if (!/^(0|[1-9][0-9]{0,2})$/.test(part)) return null
    const value = Number(part)
    if (value > 255) return null
    bytes[i] = value
  }
  return bytes
}

function parseIpv6(text: string): Uint8Array | null {
  let head = text
  const tail: number[] = []
  const dot = text.indexOf('.')
  if (dot >= 0) {
    const colon = text.lastIndexOf(':')
    const v4 = parseIpv4(text.slice(colon + 1))
    if (v4 === null) return null
    tail.push((v4[0]! << 8) | v4[1]!, (v4[2]! << 8) | v4[3]!)
    head = text.slice(0, colon + 1)
    if (head.endsWith(':') && !head.endsWith('::')) head = head.slice(0, -1)
  }
  const halves = head.split('::')
  if (halves.length > 2) return null
  const left = parseGroups(halves[0]!)
  const right = halves.length === 2 ? parseGroups(halves[1]!) : []
  if (left === null || right === null) return null
  right.push(...tail)
  if (halves.length === 1) left.push(...right.splice(0))
  const missing = 8 - left.length - right.length
  if (halves.length === 2 ? missing < 1 : missing !== 0) return null
  const groups = [...left, ...new Array<number>(missing).fill(0), ...right]
  const bytes = new Uint8Array(16)
  for (let i = 0; i < 8; i++) {
    bytes[2 * i] = groups[i]! >>> 8
    bytes[2 * i + 1] = groups[i]! & 0xff
  }
  return bytes
}

function parseGroups(text: string): number[] | null {
  if (text === '') return []
  const groups: number[] = []
  for (const part of text.split(':')) {
    if (!/^[0-9a-fA-F]{1,4}$/.test(part)) return null
    groups.push(Number.parseInt(part, 16))
  }
  return groups
}

function isMapped(bytes: Uint8Array): boolean {
  for (let i = 0; i < 10; i++) if (bytes[i] !== 0) return false
  return bytes[10] === 0xff && bytes[11] === 0xff
}

/** Start and length of the longest run of zero groups of at least two; [-1, 0] when there is none. */
function longestZeroRun(groups: readonly number[]): [number, number] {
  let best = -1
  let bestLength = 1
  for (let i = 0; i < groups.length; i++) {
    if (groups[i] !== 0) continue
    let end = i
    while (end < groups.length && groups[end] === 0) end++
    if (end - i > bestLength) {
      best = i
      bestLength = end - i
    }
    i = end
  }
  return best < 0 ? [-1, 0] : [best, bestLength]
}
