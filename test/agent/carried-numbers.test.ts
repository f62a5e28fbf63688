import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, it } from 'node:test'
import { Carriage } from '../../src/agent/carriage.ts'
import { EMPTY_PLAN, frontendKey } from '../../src/agent/carriage-plan.ts'
import { CarriedNumbers } from '../../src/agent/carried-numbers.ts'
import { silentLog } from '../../src/base/log.ts'
import type { CapturePrograms } from '../../src/kernel/capture-programs.ts'
import { BackendMap, FrontendMap, VerdictMap } from '../../src/kernel/carry-maps.ts'
import { EdgeMap, EdgeTotals } from '../../src/kernel/edge-map.ts'
import * as layout from '../../src/kernel/layout.generated.ts'
import { PodMap } from '../../src/kernel/maps.ts'
import { MemoryMap } from '../support/memory-map.ts'

/** The maps of an agent, in memory. */
class Maps {
  epoch = 7n
  readonly frontendEntries = new MemoryMap(layout.FRONTEND_KEY.bytes, layout.FRONTEND.bytes)
  readonly pods = new PodMap(new MemoryMap(8, layout.POD.bytes))
  readonly frontends = new FrontendMap(this.frontendEntries)
  readonly backends = new BackendMap(new MemoryMap(layout.BACKEND_KEY.bytes, layout.BACKEND.bytes))
  readonly verdicts = new VerdictMap(new MemoryMap(layout.VERDICT_KEY.bytes, layout.VERDICT_VALUE.bytes))
  readonly edges = new EdgeMap(new MemoryMap(layout.EDGE_KEY.bytes, layout.EDGE.bytes))
  readonly accountedEdges = new EdgeMap(new MemoryMap(layout.EDGE_KEY.bytes, layout.EDGE.bytes))
}

describe('numbers of what the kernel carries', () => {
  let directory: string
  let maps: Maps

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'weft-numbers-'))
    maps = new Maps()
  })

  afterEach(() => {
    rmSync(directory, { recursive: true })
  })

  const open = (): CarriedNumbers => {
    return CarriedNumbers.open(directory, maps as unknown as CapturePrograms, silentLog)
  }

  it('are the same for the next agent, and new names get new ones', () => {
    const first = open()
    assert.deepEqual([first.services.numberOf('db'), first.services.numberOf('cache')], [1, 2])
    assert.deepEqual([first.scopes.numberOf('shop'), first.policies.numberOf('deny')], [1, 1])
    first.save()
    const next = open()
    assert.equal(next.services.nameOf(2), 'cache')
    assert.deepEqual([next.services.numberOf('cache'), next.services.numberOf('queue')], [2, 3])
    assert.deepEqual([next.scopes.nameOf(1), next.policies.nameOf(1), next.policies.nameOf(2)], ['shop', 'deny', ''])
  })

  it('that a successor gave before it died keep their names, and new names get others', () => {
    const old = open()
    old.services.numberOf('db')
    old.save()
    const successor = open()
    successor.services.numberOf('cache')
    successor.policies.numberOf('deny')
    successor.save()
    old.reread(maps as unknown as CapturePrograms)
    assert.deepEqual([old.services.nameOf(1), old.services.nameOf(2), old.policies.nameOf(1)], ['db', 'cache', 'deny'])
    assert.deepEqual([old.services.numberOf('cache'), old.services.numberOf('more')], [2, 3])
    old.save()
    assert.equal(open().services.nameOf(3), 'more')
  })

  it('that a successor gave without writing them down are given to nobody else, and the file is of these maps again', () => {
    const first = open()
    first.services.numberOf('db')
    first.save()
    maps.backends.insert(5, 0, { address: '198.18.0.1', port: 80, pod: 1 })
    maps.epoch = 8n
    const other = open()
    other.services.numberOf('other')
    other.save()
    maps.epoch = 7n
    first.reread(maps as unknown as CapturePrograms)
    first.save()
    assert.equal(open().services.nameOf(1), 'db')
    assert.equal(first.services.numberOf('cache'), 6)
  })

  it('are written only when there are new ones', () => {
    const numbers = open()
    numbers.services.numberOf('db')
    numbers.save()
    const path = join(directory, 'carried-numbers.json')
    const text = readFileSync(path, 'utf8')
    rmSync(path)
    numbers.save()
    assert.throws(() => readFileSync(path), { code: 'ENOENT' })
    numbers.services.numberOf('cache')
    numbers.save()
    assert.notEqual(readFileSync(path, 'utf8'), text)
  })

  for (const [what, spoil] of [
    ['is lost', () => rmSync(join(directory, 'carried-numbers.json'))],
    ['is about other maps', () => maps.epoch++],
    ['is cut off', () => writeFileSync(join(directory, 'carried-numbers.json'), '{"epoch":"7","scopes":{')],
    ['lacks names', () => writeFileSync(join(directory, 'carried-numbers.json'), '{"epoch":"7","scopes":{"first":1}}')],
  ] as const) {
    it(`that may be in use are not given again when the file ${what}`, () => {
      const first = open()
      first.services.numberOf('db')
      first.save()
      const pod = {
        id: 1,
        isStrict: false,
        isUnserved: false,
        isSteeringIpv4: true,
        isSteeringIpv6: true,
        interfaces: [],
      }
      maps.pods.insert(1n, { ...pod, scope: 5 })
      maps.frontends.insert({ address: '10.0.0.1', port: 80, scope: 4 }, 8, 1)
      maps.accountedEdges.write({ source: 1, destination: 2, service: 11 }, new EdgeTotals())
      maps.verdicts.insert({ source: 1, destination: 2, port: 80 }, false, 3)
      spoil()
      const next = open()
      assert.deepEqual(
        [next.scopes.numberOf('a'), next.services.numberOf('b'), next.policies.numberOf('c')],
        [6, 12, 4],
      )
      assert.equal(next.services.nameOf(11), '')
      assert.equal(next.services.nameOf(12), 'b')
    })
  }

  it('let the next agent change only what is different in the maps, and remove what is wanted no more', () => {
    const frontend = (port: number) => ({ address: '10.0.0.1', port, scope: 0 })
    const planned = (port: number, service: number) => ({
      frontend: frontend(port),
      service,
      slots: 1,
      isFallback: false,
      carriedKey: '',
    })
    const backend = { address: 'fd77::1', port: 8080, pod: 2 }
    const plan = (...services: readonly (readonly [port: number, service: number])[]) => ({
      ...EMPTY_PLAN,
      frontends: new Map(services.map(([port, service]) => [frontendKey(frontend(port)), planned(port, service)])),
      backends: new Map(services.map(([, service]) => [`${service} 0`, { service, slot: 0, backend }])),
      verdicts: new Map([
        ['1 2 8080', { pair: { source: 1, destination: 2, port: 8080 }, isAllowed: true, policy: 0 }],
      ]),
    })
    new Carriage(maps, silentLog).apply(plan([80, 1], [81, 2]))
    const written: number[] = []
    const update = maps.frontendEntries.update.bind(maps.frontendEntries)
    maps.frontendEntries.update = (key, value) => {
      written.push(new DataView(key.buffer, key.byteOffset).getUint32(layout.FRONTEND_KEY.port, true))
      update(key, value)
    }
    new Carriage(maps, silentLog).apply(plan([80, 1], [82, 3]))
    assert.deepEqual(written, [82])
    assert.deepEqual(
      [...maps.frontends.entries()].map(({ frontend: { port }, service }) => [port, service]),
      [
        [80, 1],
        [82, 3],
      ],
    )
    assert.deepEqual(
      [...maps.backends.entries()].map(({ service }) => service),
      [1, 3],
    )
    assert.deepEqual([...maps.backends.entries()][0]!.backend, backend)
    assert.deepEqual([...maps.verdicts.entries()], [...plan().verdicts.values()])
  })
})
