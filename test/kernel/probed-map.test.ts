import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { WalkableMap } from '../../src/kernel/maps.ts'
import { ProbedMap } from '../../src/kernel/probed-map.ts'

/** A map in memory. */
class MemoryMap implements WalkableMap {
  readonly fd = -1
  private readonly entries = new Map<string, Uint8Array>()

  update(key: Uint8Array, value: Uint8Array): void {
    this.entries.set(Buffer.from(key).toString('hex'), value)
  }

  delete(key: Uint8Array): boolean {
    return this.entries.delete(Buffer.from(key).toString('hex'))
  }

  lookup(key: Uint8Array): Uint8Array | null {
    return this.entries.get(Buffer.from(key).toString('hex')) ?? null
  }

  readAll(): { keys: Uint8Array; values: Uint8Array } {
    const keys = Buffer.concat([...this.entries.keys()].map((key) => Buffer.from(key, 'hex')))
    return { keys, values: Buffer.concat([...this.entries.values()]) }
  }
}

test('probed ports come back as they were told, of both families', () => {
  const map = new ProbedMap(new MemoryMap())
  const ports = [
    { port: { address: '10.0.0.1', port: 8080 }, pod: 1 },
    { port: { address: 'fd00::1', port: 8080 }, pod: 1 },
    { port: { address: '10.0.0.2', port: 65_535 }, pod: 4_000_000 },
  ]
  for (const { port, pod } of ports) map.insert(port, pod)
  assert.deepEqual([...map.entries()], ports)
  assert.equal(map.delete({ address: '10.0.0.1', port: 8081 }), false)
  assert.equal(map.delete({ address: '10.0.0.1', port: 8080 }), true)
  assert.deepEqual([...map.entries()], ports.slice(1))
})
