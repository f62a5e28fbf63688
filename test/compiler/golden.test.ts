/**
 * Bookinfo and the situations of its tutorials: YAML in, state and messages out, compared with files that were
 * reviewed. `UPDATE=1 node --test test/compiler/golden.test.ts` writes them anew; look at the difference.
 */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { isNode, LineCounter, parseAllDocuments } from 'yaml'
import { compile } from '../../src/compiler/compile.ts'
import { formatMessage } from '../../src/compiler/messages.ts'
import { type MeshObject, type Path, type Position, parseObject } from '../../src/compiler/object.ts'
import { SETTINGS } from './builders.ts'

const folder = join(fileURLToPath(new URL('../golden/bookinfo', import.meta.url)))
const isUpdate = process.env['UPDATE'] === '1'

function load(name: string): MeshObject[] {
  const file = `${name}.yaml`
  const lines = new LineCounter()
  const documents = parseAllDocuments(readFileSync(join(folder, file), 'utf8'), { lineCounter: lines })
  assert.ok(Array.isArray(documents))
  return documents.map((document) => {
    const positionOf = (path: Path): Position | null => {
      const node = path.length === 0 ? document.contents : document.getIn(path, true)
      if (!isNode(node) || !node.range) return null
      const { line, col } = lines.linePos(node.range[0])
      return { file, line, column: col }
    }
    const object = parseObject(document.toJS(), positionOf)
    assert.ok(!Array.isArray(object))
    return object
  })
}

function compareWithFile(name: string, actual: unknown): void {
  const file = join(folder, `${name}.json`)
  // The comparison is on values: how JSON is laid out is of no interest.
  const text = `${JSON.stringify(actual, null, 2)}\n`
  if (isUpdate) writeFileSync(file, text)
  assert.deepEqual(JSON.parse(text), JSON.parse(readFileSync(file, 'utf8')))
}

test('golden: the application alone', () => {
  const { state, messages } = compile(load('app'), SETTINGS)
  compareWithFile('app', { state, messages: messages.map(formatMessage) })
})

for (const [name, ...files] of [
  ['all-v1', 'subsets'],
  ['reviews-by-user', 'subsets'],
  ['reviews-50-50', 'subsets'],
  ['ratings-faults', 'subsets'],
  ['reviews-timeout', 'subsets'],
  ['circuit-breaker'],
  ['security'],
  ['mistakes'],
] as const) {
  test(`golden: ${name}`, () => {
    const objects = [name, ...files].flatMap(load)
    const { state, messages } = compile([...load('app'), ...objects], SETTINGS)
    compareWithFile(name, {
      traffic: state.traffic,
      policies: state.policies,
      selected: Object.fromEntries(state.workloads.map((workload) => [workload.name, workload.policies])),
      scopes: [...new Set(state.pods.map(({ pod }) => pod.scope))],
      messages: messages.map(formatMessage),
    })
  })
}
