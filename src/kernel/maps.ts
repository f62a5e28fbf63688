/**
 * Typed views over the maps that the eBPF programs and the agent share. Nouns are those of native/bpf/include/weft/maps.h;
 * offsets and numbers come from its BTF (layout.generated.ts), so the two sides cannot drift apart.
 */
import { formatAddress, parseAddress } from '../base/address.ts'
import { assert } from '../base/assert.ts'
import type { Addon, MapEntries } from './addon.ts'
import {
  ADDRESS,
  LISTENER_KEY,
  OWN_ADDRESS_KEY,
  POD,
  POD_INTERFACES_MAX,
  POD_STEER_IPV4,
  POD_STEER_IPV6,
  POD_STRICT,
  POD_UNSERVED,
  STATS,
  WORKER_SET,
  WORKER_SLOTS_MAX,
  WORKERS_MAX,
} from './layout.generated.ts'

/** Any map: in the kernel, or in memory for tests. Keys and values have exactly the map's sizes. */
export interface BpfMap {
  update(key: Uint8Array, value: Uint8Array): void
  /** False when the key was not there. */
  delete(key: Uint8Array): boolean
  /** Null when the key is not there. */
  lookup(key: Uint8Array): Uint8Array | null
}

/** A hash map that can be read whole. */
export interface WalkableMap extends BpfMap {
  /** While the map changes, an entry may be missing or come twice. */
  readAll(): MapEntries
}

/** A map in the kernel. Does not own the descriptor. */
export class KernelMap implements WalkableMap {
  readonly fd: number
  private readonly addon: Addon

  constructor(addon: Addon, fd: number) {
    this.addon = addon
    this.fd = fd
  }

  update(key: Uint8Array, value: Uint8Array): void {
    this.addon.mapUpdate(this.fd, key, value)
  }

  delete(key: Uint8Array): boolean {
    return this.addon.mapDelete(this.fd, key)
  }

  lookup(key: Uint8Array): Uint8Array | null {
    return this.addon.mapLookup(this.fd, key)
  }

  readAll(): MapEntries {
    return this.addon.mapEntries(this.fd)
  }
}

/** The kernel reads numbers in the machine's own order. */
export const IS_LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1

/** The value of maps that are sets. */
const PRESENT = u32(1)

/** `struct pod`. */
export interface Pod {
  /** The agent's number of the pod, from 1, and of the scope whose rules its connections follow. */
  readonly id: number
  readonly scope: number
  readonly isStrict: boolean
  readonly isSteeringIpv4: boolean
  readonly isSteeringIpv6: boolean
  /** New connections go as if there was no agent. */
  readonly isUnserved: boolean
  /** Indexes of the interfaces to which a socket may be bound and still be steered; at most POD_INTERFACES_MAX count. */
  readonly interfaces: readonly number[]
}

/** Enrolled pods by netns cookie: inserting one switches its capture on. */
export class PodMap {
  private readonly map: WalkableMap

  constructor(map: WalkableMap) {
    this.map = map
  }

  insert(netnsCookie: bigint, pod: Pod): void {
    this.map.update(encodeCookie(netnsCookie), encodePod(pod))
  }

  /** All pods by netns cookie. */
  entries(): Map<bigint, Pod> {
    const pods = new Map<bigint, Pod>()
    for (const [key, value] of pairsOf(this.map, 8, POD.bytes)) pods.set(decodeCookie(key), decodePod(value))
    return pods
  }

  delete(netnsCookie: bigint): boolean {
    return this.map.delete(encodeCookie(netnsCookie))
  }
}

/** The addresses that are local in a pod's netns. */
export class OwnAddressMap {
  private readonly map: WalkableMap

  constructor(map: WalkableMap) {
    this.map = map
  }

  insert(netnsCookie: bigint, address: string): void {
    this.map.update(encodeOwnAddressKey(netnsCookie, address), PRESENT)
  }

  /** Deletes every address of the pods that `isGone` says are. */
  deleteWhere(isGone: (netnsCookie: bigint) => boolean): void {
    for (const [key] of pairsOf(this.map, OWN_ADDRESS_KEY.bytes, PRESENT.length)) {
      if (isGone(decodeCookie(key))) this.map.delete(key)
    }
  }

  delete(netnsCookie: bigint, address: string): boolean {
    return this.map.delete(encodeOwnAddressKey(netnsCookie, address))
  }
}

/** The listeners by pod, role and slot of the data worker that accepts from it. */
export class ListenerMap {
  private readonly map: BpfMap

  constructor(map: BpfMap) {
    this.map = map
  }

  insert(netnsCookie: bigint, role: number, slot: number, listenerFd: number): void {
    this.map.update(encodeListenerKey(netnsCookie, role, slot), u64(BigInt(listenerFd)))
  }

  /** False when it was not there: the kernel removes closed sockets itself. */
  delete(netnsCookie: bigint, role: number, slot: number): boolean {
    return this.map.delete(encodeListenerKey(netnsCookie, role, slot))
  }
}

/** The data workers that take connections now: one entry, replaced whole. */
export class ServingWorkersMap {
  private readonly map: BpfMap

  constructor(map: BpfMap) {
    this.map = map
  }

  /** `slots` are at most WORKERS_MAX numbers below WORKER_SLOTS_MAX; with none, every pod is as without an agent. */
  set(slots: readonly number[]): void {
    this.map.update(u32(0), encodeWorkerSet(slots))
  }

  read(): number[] {
    const value = this.map.lookup(u32(0))
    return value === null ? [] : decodeWorkerSet(value)
  }
}

/** When each data worker's event loop was last seen to run. */
export class HeartbeatMap {
  private readonly map: BpfMap

  constructor(map: BpfMap) {
    this.map = map
  }

  /** `nowNs` is CLOCK_MONOTONIC, as `process.hrtime.bigint()` tells it and bpf_ktime_get_ns() compares it. */
  beat(slot: number, nowNs: bigint): void {
    assert(slot < WORKER_SLOTS_MAX, `slot ${slot} is below ${WORKER_SLOTS_MAX}`)
    this.map.update(u32(slot), u64(nowNs))
  }

  /** 0 when nobody has ever beaten there. */
  read(slot: number): bigint {
    const value = this.map.lookup(u32(slot))
    return value === null ? 0n : decodeCookie(value)
  }

  /** Nobody is alive in that slot. */
  clear(slot: number): void {
    this.map.update(u32(slot), u64(0n))
  }
}

/** Counters of the programs, one set per CPU. */
export class StatsMap {
  private readonly map: BpfMap

  constructor(map: BpfMap) {
    this.map = map
  }

  /** The sum over all CPUs. `stat` is a `STAT_...` number. */
  read(stat: number): number {
    assert(stat < STATS, `the programs count stat ${stat}`)
    const perCpu = this.map.lookup(u32(stat))
    if (perCpu === null) return 0
    const view = new DataView(perCpu.buffer, perCpu.byteOffset, perCpu.byteLength)
    let sum = 0
    for (let offset = 0; offset < perCpu.length; offset += 8) sum += Number(view.getBigUint64(offset, IS_LITTLE_ENDIAN))
    return sum
  }
}

/** 16 bytes, IPv4 in its IPv6-mapped form. `address` must be canonical. */
export function encodeAddress(address: string): Uint8Array {
  const bytes = parseAddress(address)
  assert(bytes !== null, `${address} is a canonical address`)
  if (bytes.length === ADDRESS.bytes) return bytes
  const mapped = new Uint8Array(ADDRESS.bytes)
  mapped[10] = 0xff
  mapped[11] = 0xff
  mapped.set(bytes, 12)
  return mapped
}

/** The canonical address at `offset`. */
export function decodeAddress(bytes: Uint8Array, offset: number): string {
  const address = bytes.subarray(offset, offset + ADDRESS.bytes)
  const isMapped = address.subarray(0, 10).every((byte) => byte === 0) && address[10] === 0xff && address[11] === 0xff
  return formatAddress(isMapped ? address.subarray(12) : address)
}

/** The key of `pods`, and the constant of the sk_lookup program. */
export function encodeCookie(netnsCookie: bigint): Uint8Array {
  const key = new Uint8Array(8)
  new DataView(key.buffer).setBigUint64(0, netnsCookie, IS_LITTLE_ENDIAN)
  return key
}

/** The cookie with which a key begins. */
export function decodeCookie(key: Uint8Array): bigint {
  return new DataView(key.buffer, key.byteOffset, key.byteLength).getBigUint64(0, IS_LITTLE_ENDIAN)
}

export function decodePod(value: Uint8Array): Pod {
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength)
  const flags = view.getUint32(POD.flags, IS_LITTLE_ENDIAN)
  const interfaces: number[] = []
  for (let i = 0; i < POD_INTERFACES_MAX; i++) {
    const index = view.getUint32(POD.interfaces + 4 * i, IS_LITTLE_ENDIAN)
    if (index !== 0) interfaces.push(index)
  }
  return {
    id: view.getUint32(POD.id, IS_LITTLE_ENDIAN),
    scope: view.getUint32(POD.scope, IS_LITTLE_ENDIAN),
    isStrict: (flags & POD_STRICT) !== 0,
    isUnserved: (flags & POD_UNSERVED) !== 0,
    isSteeringIpv4: (flags & POD_STEER_IPV4) !== 0,
    isSteeringIpv6: (flags & POD_STEER_IPV6) !== 0,
    interfaces,
  }
}

export function encodePod(pod: Pod): Uint8Array {
  const value = new Uint8Array(POD.bytes)
  const view = new DataView(value.buffer)
  const flags =
    (pod.isStrict ? POD_STRICT : 0) |
    (pod.isUnserved ? POD_UNSERVED : 0) |
    (pod.isSteeringIpv4 ? POD_STEER_IPV4 : 0) |
    (pod.isSteeringIpv6 ? POD_STEER_IPV6 : 0)
  view.setUint32(POD.flags, flags, IS_LITTLE_ENDIAN)
  view.setUint32(POD.id, pod.id, IS_LITTLE_ENDIAN)
  view.setUint32(POD.scope, pod.scope, IS_LITTLE_ENDIAN)
  const count = Math.min(pod.interfaces.length, POD_INTERFACES_MAX)
  for (let i = 0; i < count; i++) view.setUint32(POD.interfaces + 4 * i, pod.interfaces[i]!, IS_LITTLE_ENDIAN)
  return value
}

export function encodeOwnAddressKey(netnsCookie: bigint, address: string): Uint8Array {
  const key = new Uint8Array(OWN_ADDRESS_KEY.bytes)
  new DataView(key.buffer).setBigUint64(OWN_ADDRESS_KEY.netns_cookie, netnsCookie, IS_LITTLE_ENDIAN)
  key.set(encodeAddress(address), OWN_ADDRESS_KEY.address)
  return key
}

export function encodeListenerKey(netnsCookie: bigint, role: number, slot: number): Uint8Array {
  const key = new Uint8Array(LISTENER_KEY.bytes)
  const view = new DataView(key.buffer)
  view.setBigUint64(LISTENER_KEY.netns_cookie, netnsCookie, IS_LITTLE_ENDIAN)
  view.setUint32(LISTENER_KEY.role, role, IS_LITTLE_ENDIAN)
  view.setUint32(LISTENER_KEY.slot, slot, IS_LITTLE_ENDIAN)
  return key
}

export function encodeWorkerSet(slots: readonly number[]): Uint8Array {
  assert(slots.length <= WORKERS_MAX, `${slots.length} data workers are at most ${WORKERS_MAX}`)
  const value = new Uint8Array(WORKER_SET.bytes)
  const view = new DataView(value.buffer)
  view.setUint32(WORKER_SET.count, slots.length, IS_LITTLE_ENDIAN)
  for (const [i, slot] of slots.entries()) view.setUint32(WORKER_SET.slots + 4 * i, slot, IS_LITTLE_ENDIAN)
  return value
}

function decodeWorkerSet(value: Uint8Array): number[] {
  const view = new DataView(value.buffer, value.byteOffset, value.byteLength)
  const count = Math.min(view.getUint32(WORKER_SET.count, IS_LITTLE_ENDIAN), WORKERS_MAX)
  return Array.from({ length: count }, (_, i) => view.getUint32(WORKER_SET.slots + 4 * i, IS_LITTLE_ENDIAN))
}

/** Keys and values of a whole map, which have these sizes. */
export function* pairsOf(map: WalkableMap, keyBytes: number, valueBytes: number): Iterable<[Uint8Array, Uint8Array]> {
  const { keys, values } = map.readAll()
  for (let i = 0; i * keyBytes < keys.length; i++) {
    yield [keys.subarray(i * keyBytes, (i + 1) * keyBytes), values.subarray(i * valueBytes, (i + 1) * valueBytes)]
  }
}

/** Key of a data worker's slot. */
export function encodeSlot(slot: number): Uint8Array {
  return u32(slot)
}

function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value, IS_LITTLE_ENDIAN)
  return bytes
}

function u64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, value, IS_LITTLE_ENDIAN)
  return bytes
}
