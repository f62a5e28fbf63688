/** The chart, rendered by Helm itself, makes the objects that `weft render` makes of the same values. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { parseAllDocuments } from 'yaml'
import { weftVersion } from '../../src/cli/commands/version.ts'
import { installObjects } from '../../src/cli/install/objects.ts'
import { type GivenValues, rowsOf, type ValueRow } from '../../src/cli/install/value-rows.ts'
import { INSTALL_VALUES, installValues } from '../../src/cli/install/values.ts'
import { helm, needsHelm } from './support/helm.ts'

const CHART = join(import.meta.dirname, '../../deploy/helm/weft')
const NAMESPACE = 'mesh-home'

const { skip, program } = await needsHelm()
const directory = mkdtempSync(join(tmpdir(), 'weft-chart-'))

after(() => rmSync(directory, { recursive: true }))

interface Named {
  readonly kind: string
  readonly metadata: { readonly name: string }
}

/** Of Helm's own: what weft uninstall does by itself. */
function isHook(object: unknown): boolean {
  const { annotations = {} } = (object as { metadata: { annotations?: Record<string, string> } }).metadata
  return annotations['helm.sh/hook'] !== undefined
}

/** Objects by kind and name: Helm has an order of its own. */
function byName(objects: readonly unknown[]): ReadonlyMap<string, unknown> {
  const named = objects.map(
    (object) => [`${(object as Named).kind} ${(object as Named).metadata.name}`, object] as const,
  )
  return new Map([...named].sort(([x], [y]) => x.localeCompare(y)))
}

async function byHelm(given: GivenValues, name: string): Promise<readonly unknown[]> {
  const file = join(directory, `${name}.json`)
  writeFileSync(file, JSON.stringify(given))
  const text = await helm(program, [
    ...['template', 'release', CHART, '--namespace', NAMESPACE, '--kube-version', '1.34.0', '--values', file],
  ])
  return parseAllDocuments(text)
    .map((document) => document.toJS() as unknown)
    .filter((object) => object !== null && !isHook(object))
}

function byWeft(given: GivenValues): readonly unknown[] {
  const plan = { values: installValues(given), namespace: NAMESPACE, version: weftVersion() }
  // As text and back: fields that are undefined are none.
  return JSON.parse(JSON.stringify(installObjects(plan))) as unknown[]
}

/** Another value than the default, of the same kind. */
function another(row: ValueRow<unknown>): unknown {
  const { fallback, schema } = row
  const choices = schema['enum'] as readonly string[] | undefined
  if (choices !== undefined) return choices.find((choice) => choice !== fallback)
  if (typeof fallback === 'boolean') return !fallback
  if (typeof fallback === 'number') return fallback + 7
  if (row.isMap) return { 'example.com/key': 'true' }
  if (Array.isArray(fallback)) {
    return (schema['items'] as { type: string }).type === 'string'
      ? ['--text=1', 'b']
      : [{ key: 'x', operator: 'Exists' }]
  }
  if (typeof fallback === 'object') return { requests: { memory: '1Gi' }, limits: { cpu: '2' } }
  const pattern = new RegExp((schema['pattern'] as string | undefined) ?? '')
  const text = ['other', '/srv/other', '25%', '90s', `sha256:${'a'.repeat(64)}`].find((one) => pattern.test(one))
  assert.ok(text, 'a text of that pattern')
  return text
}

function nested(name: string, value: unknown): GivenValues {
  return name.split('.').reduceRight<unknown>((inner, part) => ({ [part]: inner }), value) as GivenValues
}

test('Helm and weft render make the same objects of the defaults', { skip }, async () => {
  assert.deepEqual(byName(await byHelm({}, 'defaults')), byName(byWeft({})))
})

test('Helm and weft render make the same objects when any one value is another, and every value makes a difference', {
  skip,
}, async () => {
  const plain = JSON.stringify(byWeft({ monitoring: { podMonitor: true } }))
  for (const [name, row] of rowsOf(INSTALL_VALUES)) {
    const value = nested(name, another(row))
    // What is said of PodMonitors shows only where there are some.
    const given = name.startsWith('monitoring.podMonitor')
      ? { monitoring: { podMonitor: true, ...(value['monitoring'] as object) } }
      : value
    const objects = byWeft(given)
    assert.deepEqual(byName(await byHelm(given, name)), byName(objects), name)
    if (!name.endsWith('podMonitor')) assert.notEqual(JSON.stringify(objects), plain, name)
  }
})

test('Helm and weft render make the same objects with empty lists and maps, and with texts that YAML could misread', {
  skip,
}, async () => {
  const given = {
    image: { tag: '1.10', pullSecrets: ['on', '007'] },
    monitoring: { annotations: false, podMonitor: true, podMonitorLabels: { release: 'true' } },
    controller: {
      nodeSelector: { 'kubernetes.io/os': null },
      podLabels: { a: '1' },
      resources: { limits: null, requests: null },
    },
    agent: { tolerations: [], podAnnotations: { note: 'yes: #no' }, extraArgs: ['--x="y"'], maxSurge: '100%' },
    webhook: { enabled: false },
  }
  assert.deepEqual(byName(await byHelm(given, 'texts')), byName(byWeft(given)))
})

test('Helm refuses the values that weft refuses', { skip }, async () => {
  for (const given of [
    { agent: { worker: 1 } },
    { agent: { workers: 65 } },
    { agent: { logLevel: 'loud' } },
    { agent: { paths: { state: 'var/lib' } } },
    { image: { digest: 'sha256:x' } },
    { controller: { replicas: 0 } },
  ]) {
    assert.throws(() => installValues(given), /not valid/, JSON.stringify(given))
    await assert.rejects(
      byHelm(given, 'bad'),
      /values don't meet the specifications of the schema/,
      JSON.stringify(given),
    )
  }
})

test('helm lint finds nothing', { skip }, async () => {
  assert.match(await helm(program, ['lint', '--strict', CHART]), /0 chart\(s\) failed/)
})
