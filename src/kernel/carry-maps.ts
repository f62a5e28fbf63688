/**
 * Typed views over the maps by which the kernel carries connections without the agent: who may reach whom, and where
 * a service is. Nouns are those of native/bpf/include/weft/maps.h.
 */
import { assert } from '../base/assert.ts'
import {
  BACKEND,
  BACKEND_KEY,
  FRONTEND,
  FRONTEND_FALLBACK,
  FRONTEND_KEY,
  VERDICT_ALLOW,
  VERDICT_DENY,
  VERDICT_KEY,
  VERDICT_VALUE,
} from './layout.generated.ts'
import { decodeAddress, encodeAddress, IS_LITTLE_ENDIAN, pairsOf, type WalkableMap } from './maps.ts'

/** A service address and port as the pods of one scope dial it. */
export interface Frontend {
  /** Canonical. */
  readonly address: string
  readonly port: number
  readonly scope: number
}

/** One slot of a service. */
export interface Backend {
  readonly address: string
  readonly port: number
  /** The agent's number of the endpoint's pod; 0 when the kernel must leave the connection to the agent. */
  readonly pod: number
}

/** Who asks whom. */
export interface Pair {
  readonly source: number
  readonly destination: number
  readonly port: number
}

/** Which service an address and port belong to, by scope. */
export class FrontendMap {
  private readonly map: WalkableMap

  constructor(map: WalkableMap) {
    this.map = map
  }

  /**
   * `slots` are those of BackendMap, at most SLOTS_MAX; they must be there first. With none the agent decides. A fallback
   * is for the time when nobody serves.
   */
  insert(frontend: Frontend, service: number, slots: number, isFallback = false): void {
    const flags = isFallback ? FRONTEND_FALLBACK : 0
    const value = words(FRONTEND, [FRONTEND.service, service], [FRONTEND.slots, slots], [FRONTEND.flags, flags])
    this.map.update(encodeFrontendKey(frontend), value)
  }

  delete(frontend: Frontend): boolean {
    return this.map.delete(encodeFrontendKey(frontend))
  }

  /** All of them, with what `insert` was told. */
  *entries(): Iterable<{
    readonly frontend: Frontend
    readonly service: number
    readonly slots: number
    readonly isFallback: boolean
  }> {
    for (const [key, value] of pairsOf(this.map, FRONTEND_KEY.bytes, FRONTEND.bytes)) {
      const frontend = {
        address: decodeAddress(key, FRONTEND_KEY.address),
        port: wordAt(key, FRONTEND_KEY.port),
        scope: wordAt(key, FRONTEND_KEY.scope),
      }
      const isFallback = (wordAt(value, FRONTEND.flags) & FRONTEND_FALLBACK) !== 0
      yield { frontend, service: wordAt(value, FRONTEND.service), slots: wordAt(value, FRONTEND.slots), isFallback }
    }
  }
}

/** The endpoints of a service, as often as their weights say. */
export class BackendMap {
  private readonly map: WalkableMap

  constructor(map: WalkableMap) {
    this.map = map
  }

  insert(service: number, slot: number, backend: Backend): void {
    const value = words(BACKEND, [BACKEND.port, backend.port], [BACKEND.pod, backend.pod])
    value.set(encodeAddress(backend.address), BACKEND.address)
    this.map.update(encodeBackendKey(service, slot), value)
  }

  delete(service: number, slot: number): boolean {
    return this.map.delete(encodeBackendKey(service, slot))
  }

  /** All of them, with what `insert` was told. */
  *entries(): Iterable<{ readonly service: number; readonly slot: number; readonly backend: Backend }> {
    for (const [key, value] of pairsOf(this.map, BACKEND_KEY.bytes, BACKEND.bytes)) {
      const backend = {
        address: decodeAddress(value, BACKEND.address),
        port: wordAt(value, BACKEND.port),
        pod: wordAt(value, BACKEND.pod),
      }
      yield { service: wordAt(key, BACKEND_KEY.service), slot: wordAt(key, BACKEND_KEY.slot), backend }
    }
  }
}

/** What policy says; where it says nothing the agent is asked. */
export class VerdictMap {
  private readonly map: WalkableMap

  constructor(map: WalkableMap) {
    this.map = map
  }

  /** `policy` is the agent's number of the policy that denies, 0 when none allows. */
  insert(pair: Pair, isAllowed: boolean, policy: number): void {
    const verdict = isAllowed ? VERDICT_ALLOW : VERDICT_DENY
    this.map.update(
      encodePair(pair),
      words(VERDICT_VALUE, [VERDICT_VALUE.verdict, verdict], [VERDICT_VALUE.policy, policy]),
    )
  }

  delete(pair: Pair): boolean {
    return this.map.delete(encodePair(pair))
  }

  /** All of them, with what `insert` was told. */
  *entries(): Iterable<{ readonly pair: Pair; readonly isAllowed: boolean; readonly policy: number }> {
    for (const [key, value] of pairsOf(this.map, VERDICT_KEY.bytes, VERDICT_VALUE.bytes)) {
      const pair = {
        source: wordAt(key, VERDICT_KEY.source),
        destination: wordAt(key, VERDICT_KEY.destination),
        port: wordAt(key, VERDICT_KEY.port),
      }
      const isAllowed = wordAt(value, VERDICT_VALUE.verdict) === VERDICT_ALLOW
      yield { pair, isAllowed, policy: wordAt(value, VERDICT_VALUE.policy) }
    }
  }
}

function encodeFrontendKey({ address, port, scope }: Frontend): Uint8Array {
  const key = words(FRONTEND_KEY, [FRONTEND_KEY.scope, scope], [FRONTEND_KEY.port, port])
  key.set(encodeAddress(address), FRONTEND_KEY.address)
  return key
}

function encodeBackendKey(service: number, slot: number): Uint8Array {
  return words(BACKEND_KEY, [BACKEND_KEY.service, service], [BACKEND_KEY.slot, slot])
}

function encodePair({ source, destination, port }: Pair): Uint8Array {
  assert(source > 0 && destination > 0, 'pods have numbers from 1')
  return words(
    VERDICT_KEY,
    [VERDICT_KEY.source, source],
    [VERDICT_KEY.destination, destination],
    [VERDICT_KEY.port, port],
  )
}

function wordAt(bytes: Uint8Array, offset: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength).getUint32(offset, IS_LITTLE_ENDIAN)
}

/** The bytes of a struct of which only these 32-bit fields are not zero. */
function words(struct: { readonly bytes: number }, ...fields: readonly (readonly [number, number])[]): Uint8Array {
  const bytes = new Uint8Array(struct.bytes)
  const view = new DataView(bytes.buffer)
  for (const [offset, value] of fields) view.setUint32(offset, value, IS_LITTLE_ENDIAN)
  return bytes
}
