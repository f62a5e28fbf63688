/**
 * What is printed into deploy/ from tables in src/cli/install is up to date. UPDATE=1 prints it anew.
 * That Helm makes the same objects of the chart as `weft render` is checked by test/cluster/chart.test.ts.
 */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { parse, parseAllDocuments } from 'yaml'
import { AGENT_CAPABILITIES } from '../../../src/cli/install/agent-objects.ts'
import { chartTexts } from '../../../src/cli/install/chart-text.ts'
import { readCrds } from '../../../src/cli/install/crds.ts'
import { manifestText } from '../../../src/cli/install/manifest-text.ts'
import { MESH_GROUPS } from '../../../src/cli/install/mesh-kinds.ts'
import { installObjects } from '../../../src/cli/install/objects.ts'
import { AGENT_RULES, accessReasons, CLUSTER_RULES, NAMESPACE_RULES } from '../../../src/cli/install/rbac-objects.ts'
import { isOwn } from '../../../src/cli/install/resource-types.ts'
import { fallbacksOf } from '../../../src/cli/install/value-rows.ts'
import { INSTALL_VALUES, installValues } from '../../../src/cli/install/values.ts'

const ROOT = join(import.meta.dirname, '../../..')
const CHART = 'deploy/helm/weft'

const version = (JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { version: string }).version

function isUpToDate(path: string, text: string): void {
  const file = join(ROOT, path)
  if (process.env['UPDATE'] === '1') writeFileSync(file, text)
  assert.equal(readFileSync(file, 'utf8'), text, `${path}: run UPDATE=1 node --test test/cli/install/chart.test.ts`)
}

test('the files of the chart that are printed from tables are up to date', () => {
  for (const [path, text] of chartTexts()) isUpToDate(`${CHART}/${path}`, text)
})

test('deploy/manifests/weft.yaml is what weft render prints with the defaults', () => {
  isUpToDate('deploy/manifests/weft.yaml', manifestText(version))
})

test('values.yaml holds the defaults of the table', () => {
  const values: unknown = parse(readFileSync(join(ROOT, CHART, 'values.yaml'), 'utf8'))
  assert.deepEqual(values, fallbacksOf(INSTALL_VALUES))
})

test('the chart has the version of the package', () => {
  const chart = parse(readFileSync(join(ROOT, CHART, 'Chart.yaml'), 'utf8')) as Record<string, unknown>
  assert.equal(chart['version'], version)
  assert.equal(chart['appVersion'], version)
})

test('roles and webhook name the kinds that have a CRD in deploy/crds, and no others; the chart has the same CRDs', () => {
  const groups = new Map<string, string[]>()
  for (const crd of readCrds()) {
    const { group, names } = crd['spec'] as { group: string; names: { plural: string } }
    groups.set(group, [...(groups.get(group) ?? []), names.plural].sort())
    assert.ok(isOwn(crd), crd.metadata.name)
  }
  assert.deepEqual(
    MESH_GROUPS.map(({ group, resources }) => [group, resources]),
    [...groups].sort(([x], [y]) => x.localeCompare(y)),
  )
  assert.deepEqual(readCrds(join(ROOT, CHART, 'crds')), readCrds())
})

test('every rule of a role has its reason beside it, in the chart and in the manifests', () => {
  const rules = [...CLUSTER_RULES, ...NAMESPACE_RULES, ...AGENT_RULES]
  const chart = readFileSync(join(ROOT, CHART, 'templates/rbac.yaml'), 'utf8')
  const manifests = readFileSync(join(ROOT, 'deploy/manifests/weft.yaml'), 'utf8')
  for (const rule of rules) {
    const reason = accessReasons.get(rule)
    assert.ok(reason, JSON.stringify(rule))
    const words = reason.split(' ').slice(0, 5).join(' ')
    assert.ok(chart.includes(`# ${words}`), words)
    assert.ok(manifests.includes(`# ${words}`), words)
  }
})

test('no rule grants everything of anything, and names are demanded wherever the API can demand them', () => {
  for (const rule of [...CLUSTER_RULES, ...NAMESPACE_RULES, ...AGENT_RULES]) {
    assert.ok(![...rule.apiGroups, ...rule.resources, ...rule.verbs].includes('*'), JSON.stringify(rule))
    const isWrite = rule.verbs.some((verb) => verb === 'patch' || verb === 'update' || verb === 'delete')
    const isOwn = rule.resources.some((resource) => /^(configmaps|secrets|leases|validating)/.test(resource))
    if (isOwn && !rule.verbs.includes('create')) assert.ok(rule.resourceNames, JSON.stringify(rule))
    if (isWrite) assert.ok(!rule.verbs.includes('create') || rule.resources[0] === 'events', JSON.stringify(rule))
  }
})

test('the chart says why the agent has each capability', () => {
  const template = readFileSync(join(ROOT, CHART, 'templates/agent.yaml'), 'utf8')
  for (const [name, reason] of AGENT_CAPABILITIES) {
    const line = `# ${reason[0]!.toUpperCase()}${reason.slice(1)}.\n                - ${name}\n`
    assert.ok(template.includes(line), line)
  }
})

test('no container is privileged, may gain privileges, or can write to its image', () => {
  const plan = { values: installValues(), namespace: 'weft-system', version }
  const pods = installObjects(plan).flatMap((object) => {
    const spec = object['spec'] as { template?: { spec: { containers: Record<string, unknown>[] } } } | undefined
    return spec?.template === undefined ? [] : spec.template.spec.containers
  })
  assert.equal(pods.length, 2)
  for (const { securityContext, resources } of pods) {
    const { privileged, allowPrivilegeEscalation, readOnlyRootFilesystem, capabilities } = securityContext as never
    assert.deepEqual([privileged, allowPrivilegeEscalation, readOnlyRootFilesystem], [false, false, true])
    assert.deepEqual((capabilities as { drop: unknown }).drop, ['ALL'])
    assert.ok((resources as { requests?: unknown }).requests)
  }
})

test('the manifests are documents that every reader of YAML takes, the namespace first', () => {
  const documents = parseAllDocuments(readFileSync(join(ROOT, 'deploy/manifests/weft.yaml'), 'utf8'))
  const kinds = documents.map((document) => (document.toJS() as { kind: string }).kind)
  assert.equal(kinds[0], 'Namespace')
  assert.ok(documents.every((document) => document.errors.length === 0))
})
