/** A map of the eBPF programs in memory, with the interface and the size checks of the real one. */
import type { MapEntries } from '../../src/kernel/addon.ts'
import type { WalkableMap } from '../../src/kernel/maps.ts'

export class MemoryMap implements WalkableMap {
  readonly entries = new Map<string, Uint8Array>()
  private readonly keyBytes: number
  private readonly valueBytes: number
  private readonly entriesMax: number

  /** `entriesMax` as `max_entries` of the kernel's. */
  constructor(keyBytes: number, valueBytes: number, entriesMax = Number.POSITIVE_INFINITY) {
    this.keyBytes = keyBytes
    this.valueBytes = valueBytes
    this.entriesMax = entriesMax
  }

  update(key: Uint8Array, value: Uint8Array): void {
    if (value.length !== this.valueBytes) throw new RangeError(`a value has ${this.valueBytes} bytes`)
    const text = this.textOf(key)
    if (!this.entries.has(text) && this.entries.size >= this.entriesMax) throw new Error('E2BIG')
    this.entries.set(text, value.slice())
  }

  delete(key: Uint8Array): boolean {
    return this.entries.delete(this.textOf(key))
  }

  lookup(key: Uint8Array): Uint8Array | null {
    return this.entries.get(this.textOf(key)) ?? null
  }

  readAll(): MapEntries {
    const keys = Buffer.concat([...this.entries.keys()].map((key) => Buffer.from(key, 'hex')))
    return { keys, values: Buffer.concat([...this.entries.values()]) }
  }

  private textOf(key: Uint8Array): string {
    if (key.length !== this.keyBytes) throw new RangeError(`a key has ${this.keyBytes} bytes`)
    return Buffer.from(key).toString('hex')
  }
}
