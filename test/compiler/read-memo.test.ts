/** A compiler with a memory says what one without says, whatever changed in between. */
import assert from 'node:assert/strict'
import { globSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { atOnce } from '../../src/base/steps.ts'
import { compile, compileSteps } from '../../src/compiler/compile.ts'
import { CompileMemo } from '../../src/compiler/compile-memo.ts'
import { MessageLog } from '../../src/compiler/messages.ts'
import { type MeshObject, parseObject } from '../../src/compiler/object.ts'
import { ReadMemo } from '../../src/compiler/read-memo.ts'
import type { CompileSettings } from '../../src/compiler/settings.ts'
import { readYamlFile } from '../../src/controller/yaml-file.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const SETTINGS: CompileSettings = {
  trustDomain: 'cluster.local',
  clusterDomain: 'cluster.local',
  rootNamespace: 'istio-system',
  clusterId: 'Kubernetes',
  revision: '',
  isReadingIstioLabels: false,
  virtualIpBlocks: { ipv4: '198.19.240.0/20', ipv6: 'fd00:240::/48' },
}

/** All objects of the golden tests, several versions of some among them. */
const CORPUS: readonly MeshObject[] = globSync(join(import.meta.dirname, '../golden/**/*.yaml'))
  .sort()
  .flatMap((file) => readYamlFile(readFileSync(file, 'utf8'), file).objects)

/** The same object with one random field of its tree taken out, doubled or replaced. */
function damaged(object: MeshObject, random: SeededRandom): MeshObject {
  const raw = structuredClone(object.raw) as Record<string, unknown>
  let place: Record<string, unknown> = raw
  let key = 'spec'
  for (let depth = 0; depth < 6; depth++) {
    const value = place[key]
    if (typeof value !== 'object' || value === null || Object.keys(value).length === 0) break
    place = value as Record<string, unknown>
    key = random.pick(Object.keys(place))
    if (random.next() < 0.3) break
  }
  const way = random.integer(0, 3)
  if (way === 0) delete place[key]
  else if (way === 1) place[`${key}x`] = place[key]
  else if (way === 2) place[key] = random.pick([null, 1, 'text', [], {}, [1], -1, true])
  else place[key] = structuredClone(place[key])
  const parsed = parseObject(raw, object.positionOf)
  return Array.isArray(parsed) ? object : (parsed as MeshObject)
}

test('any history of changes compiles to what its end alone compiles to', () => {
  assert.ok(CORPUS.length > 30, `${CORPUS.length} objects`)
  const random = new SeededRandom(7)
  const memo = new CompileMemo()
  let objects = [...CORPUS]
  for (let round = 0; round < 150; round++) {
    const changes = 1 + random.integer(0, 3)
    for (let i = 0; i < changes; i++) {
      const at = random.integer(0, objects.length - 1)
      const way = random.integer(0, 3)
      if (way === 0) objects.splice(at, 1)
      else if (way === 1) objects.push(random.pick(CORPUS))
      else objects[at] = damaged(objects[at]!, random)
    }
    if (objects.length < 15) objects = [...CORPUS]
    assert.deepEqual(atOnce(compileSteps(objects, SETTINGS, memo)), compile(objects, SETTINGS), `round ${round}`)
  }
})

test('an object is read once as long as it is the same, and what was said of it is said again', () => {
  const [object] = CORPUS
  const memo = new ReadMemo()
  let reads = 0
  const reader = (_: MeshObject, { log }: { readonly log: MessageLog }): string => {
    reads++
    log.add(object!, ['spec'], { code: 'WEFT0001', severity: 'error', text: 'bad', fix: '' })
    return 'value'
  }
  for (let i = 0; i < 3; i++) {
    const log = new MessageLog()
    assert.equal(memo.read(object!, reader, { settings: SETTINGS, log }), 'value')
    assert.equal(log.sorted().length, 1)
    assert.equal(log.hasError(object!), true)
  }
  assert.equal(reads, 1)
  const log = new MessageLog()
  log.add(object!, ['kind'], { code: 'WEFT0002', severity: 'error', text: 'worse', fix: '' })
  memo.read(object!, reader, { settings: SETTINGS, log })
  assert.equal(reads, 2)
  assert.equal(log.errorCount(object!), 2)
})

test('what is derived from an object is derived once', () => {
  const [first, second] = CORPUS
  const memo = new ReadMemo()
  const calls: string[] = []
  const name = (object: MeshObject): string => {
    calls.push(object.key)
    return object.name
  }
  const kind = ({ kind }: MeshObject): string => kind
  for (let i = 0; i < 2; i++) {
    assert.equal(memo.derive(first!, name), first!.name)
    assert.equal(memo.derive(second!, name), second!.name)
    assert.equal(memo.derive(first!, kind), first!.kind)
  }
  assert.deepEqual(calls, [first!.key, second!.key])
})
