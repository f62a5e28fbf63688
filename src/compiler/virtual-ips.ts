/**
 * Virtual IPs for hosts that have none: an address of a block that nobody routes, so that the mesh knows from what an
 * app dials which host it meant.
 *
 * The address is a hash of the owner's key, so that it is the same after every restart, in every order of input and
 * whatever else there is. When two hashes meet, the older owner keeps the address and the younger goes on to the next
 * free one: only the leaving of an older one that it had met can ever move it.
 */
import { type Cidr, formatAddress, parseCidr } from '../base/address.ts'

/** Where virtual IPs come from, one block per family. */
export interface VirtualIpBlocks {
  readonly ipv4: string
  readonly ipv6: string
}

/**
 * The blocks unless set otherwise. 240.240.0.0/16 lies in space that was never given out (RFC 1112 section 4), and
 * 2001:2::/48 is for benchmarks only (RFC 5180): neither leads anywhere, and neither is in use in anybody's network.
 * They are Istio's as well, so that firewalls, policies and people that know them need not learn others.
 */
export const DEFAULT_VIRTUAL_IP_BLOCKS: VirtualIpBlocks = { ipv4: '240.240.0.0/16', ipv6: '2001:2::/48' }

/** Shortest and longest prefix of the IPv4 block: 16 million hosts, and 14. */
const IPV4_PREFIX_MIN = 8
const IPV4_PREFIX_MAX = 28

/** Longest prefix of the IPv6 block: the last 64 bits are the allocator's. */
const IPV6_PREFIX_MAX = 64

/** Addresses that are tried for one owner. In a block that is nine tenths full fifty are needed on average. */
export const PROBES_MAX = 4_096

/** Why a text is no block to take virtual IPs of a family from; null when it is one. */
export function blockProblem(text: string, family: 'ipv4' | 'ipv6'): string | null {
  const block = parseCidr(text)
  const isIpv4 = family === 'ipv4'
  if (block === null || block.bytes.length !== (isIpv4 ? 4 : 16)) {
    return `must be an ${isIpv4 ? 'IPv4 block like 240.240.0.0/16' : 'IPv6 block like 2001:2::/48'}`
  }
  if (isIpv4 && (block.length < IPV4_PREFIX_MIN || block.length > IPV4_PREFIX_MAX)) {
    return `must have a prefix of ${IPV4_PREFIX_MIN} to ${IPV4_PREFIX_MAX} bits`
  }
  return !isIpv4 && block.length > IPV6_PREFIX_MAX ? `must have a prefix of at most ${IPV6_PREFIX_MAX} bits` : null
}

/** Hands out addresses. One per compile run: call it for the oldest owner first. */
export class VirtualIpAllocator {
  private readonly ipv4: Cidr
  private readonly ipv6: Cidr
  private readonly taken: Set<string>

  /** `taken` are addresses that are somebody's already, in canonical form. The blocks have been checked. */
  constructor(blocks: VirtualIpBlocks, taken: Iterable<string>) {
    this.ipv4 = parseCidr(blocks.ipv4)!
    this.ipv6 = parseCidr(blocks.ipv6)!
    this.taken = new Set(taken)
  }

  /**
   * One address of each family for the owner `key`; none when a block is full: with one family alone a host would not
   * exist for pods that have only the other.
   */
  allocate(key: string): string[] {
    const seeds = [hash(key, 0), hash(key, 1)] as const
    const addresses: string[] = []
    for (const block of [this.ipv4, this.ipv6]) {
      const address = this.probe(block, seeds)
      if (address === null) return []
      addresses.push(address)
    }
    for (const address of addresses) this.taken.add(address)
    return addresses
  }

  private probe(block: Cidr, [low, high]: readonly [number, number]): string | null {
    const isIpv4 = block.bytes.length === 4
    // The first and the last address of an IPv4 block are left out, as of any network.
    const size = isIpv4 ? 2 ** (32 - block.length) - 2 : 2 ** 32
    const probes = Math.min(PROBES_MAX, size)
    for (let i = 0; i < probes; i++) {
      const number = ((low % size) + i) % size
      const address = formatAddress(isIpv4 ? ipv4At(block, number + 1) : ipv6At(block, high, number))
      if (!this.taken.has(address)) return address
    }
    return null
  }
}

function ipv4At(block: Cidr, host: number): Uint8Array {
  const bytes = block.bytes.slice()
  for (let bit = block.length; bit < 32; bit++) bytes[bit >>> 3]! &= ~(0x80 >>> (bit & 7))
  for (let i = 0; i < 4; i++) bytes[i]! |= (host >>> (24 - 8 * i)) & 0xff
  return bytes
}

function ipv6At(block: Cidr, high: number, low: number): Uint8Array {
  const bytes = block.bytes.slice()
  for (let bit = block.length; bit < 128; bit++) bytes[bit >>> 3]! &= ~(0x80 >>> (bit & 7))
  // Never zero: the first address of a network is its routers'.
  const [upper, lower] = [high | 1, low]
  for (let i = 0; i < 4; i++) {
    bytes[8 + i] = (upper >>> (24 - 8 * i)) & 0xff
    bytes[12 + i] = (lower >>> (24 - 8 * i)) & 0xff
  }
  return bytes
}

/** FNV-1a over the characters, then the finish of MurmurHash3, which spreads the last characters over all bits. */
function hash(text: string, seed: number): number {
  let state = (0x811c_9dc5 ^ Math.imul(seed, 0x9e37_79b1)) >>> 0
  for (let i = 0; i < text.length; i++) state = Math.imul(state ^ text.charCodeAt(i), 0x0100_0193)
  state = Math.imul(state ^ (state >>> 16), 0x85eb_ca6b)
  state = Math.imul(state ^ (state >>> 13), 0xc2b2_ae35)
  return (state ^ (state >>> 16)) >>> 0
}
