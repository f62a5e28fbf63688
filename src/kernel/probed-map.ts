/**
 * The addresses and ports of pods that the node's kubelet probes: connections of the node itself to these are let by, with
 * or without an agent. Nouns are those of native/bpf/include/weft/maps.h.
 */
import { PROBED_KEY } from './layout.generated.ts'
import { decodeAddress, encodeAddress, IS_LITTLE_ENDIAN, pairsOf, type WalkableMap } from './maps.ts'

/** A port of a pod. */
export interface ProbedPort {
  /** Canonical. */
  readonly address: string
  readonly port: number
}

export class ProbedMap {
  private readonly map: WalkableMap

  constructor(map: WalkableMap) {
    this.map = map
  }

  /** `pod` is the agent's number of it. */
  insert(port: ProbedPort, pod: number): void {
    const value = new Uint8Array(4)
    new DataView(value.buffer).setUint32(0, pod, IS_LITTLE_ENDIAN)
    this.map.update(encodeKey(port), value)
  }

  delete(port: ProbedPort): boolean {
    return this.map.delete(encodeKey(port))
  }

  /** All of them, with what `insert` was told. */
  *entries(): Iterable<{ readonly port: ProbedPort; readonly pod: number }> {
    for (const [key, value] of pairsOf(this.map, PROBED_KEY.bytes, 4)) {
      const view = new DataView(key.buffer, key.byteOffset, key.byteLength)
      const port = {
        address: decodeAddress(key, PROBED_KEY.address),
        port: view.getUint32(PROBED_KEY.port, IS_LITTLE_ENDIAN),
      }
      yield { port, pod: new DataView(value.buffer, value.byteOffset, 4).getUint32(0, IS_LITTLE_ENDIAN) }
    }
  }
}

function encodeKey({ address, port }: ProbedPort): Uint8Array {
  const key = new Uint8Array(PROBED_KEY.bytes)
  key.set(encodeAddress(address), PROBED_KEY.address)
  new DataView(key.buffer).setUint32(PROBED_KEY.port, port, IS_LITTLE_ENDIAN)
  return key
}
