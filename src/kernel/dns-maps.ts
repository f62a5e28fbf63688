/**
 * Typed views over the maps of DNS capture (native/bpf/include/weft/dns.h), and the loopback addresses that stand for
 * resolvers. Nouns and numbers are those of dns.h, by its BTF.
 */
import { formatAddress } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import {
  DNS_INDEX_MASK,
  DNS_IPV4_BLOCK,
  DNS_IPV6_0,
  DNS_IPV6_1,
  DNS_IPV6_2,
  DNS_IPV6_3,
  DNS_POD,
  DNS_POD_IPV4,
  DNS_POD_IPV6,
  DNS_STATS,
  RESOLVER_INDEX_KEY,
  RESOLVER_KEY,
  RESOLVERS_PER_POD_MAX,
} from './layout.generated.ts'
import { type BpfMap, encodeCookie, IS_LITTLE_ENDIAN } from './maps.ts'

/** The IPv4 block of loopback addresses that stand for resolvers, as bytes and prefix length. */
export const DNS_BLOCK_IPV4 = { address: u32Bytes(DNS_IPV4_BLOCK), length: 16 } as const

/** The same for IPv6: a /64. */
export const DNS_BLOCK_IPV6 = { address: ipv6Block(), length: 64 } as const

/** Pods whose DNS is captured, by netns cookie. */
export class DnsPodMap {
  private readonly map: BpfMap

  constructor(map: BpfMap) {
    this.map = map
  }

  switchOn(netnsCookie: bigint, families: { readonly isIpv4: boolean; readonly isIpv6: boolean }): void {
    this.setFlags(netnsCookie, (families.isIpv4 ? DNS_POD_IPV4 : 0) | (families.isIpv6 ? DNS_POD_IPV6 : 0))
  }

  /** New questions are let by. What is connected goes on, and the indexes of resolvers stay. */
  switchOff(netnsCookie: bigint): void {
    if (this.has(netnsCookie)) this.setFlags(netnsCookie, 0)
  }

  has(netnsCookie: bigint): boolean {
    return this.map.lookup(encodeCookie(netnsCookie)) !== null
  }

  /** True while new questions are captured. */
  isCaptured(netnsCookie: bigint): boolean {
    const value = this.map.lookup(encodeCookie(netnsCookie))
    return value !== null && viewOf(value).getUint32(DNS_POD.flags, IS_LITTLE_ENDIAN) !== 0
  }

  delete(netnsCookie: bigint): boolean {
    return this.map.delete(encodeCookie(netnsCookie))
  }

  private setFlags(netnsCookie: bigint, flags: number): void {
    const key = encodeCookie(netnsCookie)
    // The count of indexes is kept: connected sockets bear them.
    const value = this.map.lookup(key) ?? new Uint8Array(DNS_POD.bytes)
    viewOf(value).setUint32(DNS_POD.flags, flags, IS_LITTLE_ENDIAN)
    this.map.update(key, value)
  }
}

/** The resolvers that each pod has asked, by the index that the programs gave them; from 1. */
export class ResolverMap {
  private readonly indexes: BpfMap
  private readonly addresses: BpfMap

  /** `resolvers` and `resolver_addresses`. */
  constructor(indexes: BpfMap, addresses: BpfMap) {
    this.indexes = indexes
    this.addresses = addresses
  }

  /** Canonical; null when no resolver of that pod has the index. */
  addressOf(netnsCookie: bigint, index: number): string | null {
    return resolverAddress(this.addresses, netnsCookie, index)
  }

  /** Forgets all resolvers of a pod that is not captured any more. */
  forget(netnsCookie: bigint): void {
    for (let index = 1; index <= RESOLVERS_PER_POD_MAX; index++) {
      const key = encodeIndexKey(netnsCookie, index)
      const address = this.addresses.lookup(key)
      if (address === null) continue
      this.indexes.delete(encodeResolverKey(netnsCookie, address))
      this.addresses.delete(key)
    }
  }
}

/** The same question asked of `resolver_addresses` alone, for data workers. */
export function resolverAddress(addresses: BpfMap, netnsCookie: bigint, index: number): string | null {
  const bytes = addresses.lookup(encodeIndexKey(netnsCookie, index))
  if (bytes === null) return null
  return formatAddress(isMapped(bytes) ? bytes.subarray(12) : bytes)
}

/** The index in a loopback address of ours (16 bytes, IPv4 in its IPv6-mapped form); 0 when it is none. */
export function resolverIndexOf(address: Uint8Array): number {
  const index = ((address[14]! << 8) | address[15]!) & DNS_INDEX_MASK
  const { address: ipv4 } = DNS_BLOCK_IPV4
  if (isMapped(address)) return address[12] === ipv4[0] && address[13] === ipv4[1] ? index : 0
  for (let i = 0; i < 14; i++) if (address[i] !== DNS_BLOCK_IPV6.address[i]) return 0
  return index
}

/** Counters of the programs, one set per CPU. */
export class DnsStatsMap {
  private readonly map: BpfMap

  constructor(map: BpfMap) {
    this.map = map
  }

  /** The sum over all CPUs. `stat` is a `DNS_STAT_...` number. */
  read(stat: number): number {
    assert(stat < DNS_STATS, `the programs count DNS stat ${stat}`)
    const key = new Uint8Array(4)
    viewOf(key).setUint32(0, stat, IS_LITTLE_ENDIAN)
    const perCpu = this.map.lookup(key)
    if (perCpu === null) return 0
    let sum = 0
    for (let at = 0; at < perCpu.length; at += 8) sum += Number(viewOf(perCpu).getBigUint64(at, IS_LITTLE_ENDIAN))
    return sum
  }
}

function encodeIndexKey(netnsCookie: bigint, index: number): Uint8Array {
  const key = new Uint8Array(RESOLVER_INDEX_KEY.bytes)
  viewOf(key).setBigUint64(RESOLVER_INDEX_KEY.netns_cookie, netnsCookie, IS_LITTLE_ENDIAN)
  viewOf(key).setBigUint64(RESOLVER_INDEX_KEY.index, BigInt(index), IS_LITTLE_ENDIAN)
  return key
}

function encodeResolverKey(netnsCookie: bigint, address: Uint8Array): Uint8Array {
  const key = new Uint8Array(RESOLVER_KEY.bytes)
  viewOf(key).setBigUint64(RESOLVER_KEY.netns_cookie, netnsCookie, IS_LITTLE_ENDIAN)
  key.set(address, RESOLVER_KEY.address)
  return key
}

function isMapped(address: Uint8Array): boolean {
  for (let i = 0; i < 10; i++) if (address[i] !== 0) return false
  return address[10] === 0xff && address[11] === 0xff
}

function ipv6Block(): Uint8Array {
  const block = new Uint8Array(16)
  const view = viewOf(block)
  for (const [i, part] of [DNS_IPV6_0, DNS_IPV6_1, DNS_IPV6_2, DNS_IPV6_3].entries()) view.setUint16(2 * i, part)
  return block
}

function u32Bytes(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  viewOf(bytes).setUint32(0, value)
  return bytes
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
