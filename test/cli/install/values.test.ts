import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { parseFlags } from '../../../src/base/flags.ts'
import { givenFlags, givenValues, planOf } from '../../../src/cli/install/given.ts'
import { rowsOf, schemaOf, setValue } from '../../../src/cli/install/value-rows.ts'
import { INSTALL_VALUES, installValues } from '../../../src/cli/install/values.ts'

function planned(...args: readonly string[]) {
  const flags = parseFlags(givenFlags, args)
  return planOf(flags, givenValues({ namespace: { create: true } }, flags), '1.2.3')
}

test('values that are not given have their default, and those that are given lie over it', () => {
  const values = installValues({ controller: { replicas: 1, resources: { limits: { memory: '2Gi' } } } })
  assert.equal(values.controller.replicas, 1)
  assert.deepEqual(values.controller.resources, {
    requests: { cpu: '100m', memory: '256Mi' },
    limits: { memory: '2Gi' },
  })
  assert.equal(values.agent.logLevel, 'info')
})

test('null takes a default away, as in Helm', () => {
  const { agent } = installValues({ agent: { nodeSelector: { 'kubernetes.io/os': null, disk: 'ssd' } } })
  assert.deepEqual(agent.nodeSelector, { disk: 'ssd' })
})

test('everything that is wrong with values is told at once, with the nearest name', () => {
  assert.throws(
    () => installValues({ agnet: {}, agent: { workers: 65, logLevel: 'loud', tolerations: 'all' }, image: 'weft' }),
    (error: Error) => {
      assert.match(error.message, /agnet: there is no such value\. Did you mean agent\?/)
      assert.match(error.message, /agent\.workers: must be a whole number from 0 to 64/)
      assert.match(error.message, /agent\.logLevel: must be one of error, warn, info, debug/)
      assert.match(error.message, /agent\.tolerations: must be a list of objects/)
      assert.match(error.message, /image: must be an object/)
      return true
    },
  )
})

test('--set reads a value as its row says', () => {
  let given = {}
  for (const text of [
    'agent.workers=3',
    'agent.accessLog=true',
    'image.tag=1.0',
    'agent.nodeSelector.node\\.kubernetes\\.io/pool=mesh',
    'agent.tolerations=[]',
    'controller.extraArgs=["--x=y=z"]',
  ]) {
    given = setValue(INSTALL_VALUES, given, text)
  }
  const { agent, image, controller } = installValues(given)
  assert.equal(agent.workers, 3)
  assert.equal(agent.accessLog, true)
  assert.equal(image.tag, '1.0')
  assert.deepEqual(agent.nodeSelector, { 'kubernetes.io/os': 'linux', 'node.kubernetes.io/pool': 'mesh' })
  assert.deepEqual(agent.tolerations, [])
  assert.deepEqual(controller.extraArgs, ['--x=y=z'])
})

test('--set refuses what is no value, with what would be', () => {
  for (const [text, message] of [
    ['agent', /takes NAME=VALUE/],
    ['agent=x', /agent is a group: set one of agent\.workers, /],
    ['agent.worker=1', /there is no value agent\.worker\. Did you mean agent\.workers\?/],
    ['agent.workers=many', /agent\.workers: "many" is not valid: must be a whole number/],
    ['agent.accessLog=yes', /must be true or false/],
    ['agent.logLevel.x=1', /has no values below it/],
    ['agent.nodeSelector=x', /set agent\.nodeSelector\.KEY=VALUE/],
  ] as const) {
    assert.throws(() => setValue(INSTALL_VALUES, {}, text), message, text)
  }
})

test('later files lie over earlier ones, and --set over all files', (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'weft-values-'))
  t.after(() => rmSync(directory, { recursive: true }))
  writeFileSync(join(directory, 'a.yaml'), 'agent:\n  workers: 1\n  logLevel: debug\n')
  writeFileSync(join(directory, 'b.yaml'), 'agent:\n  workers: 2\nnamespace:\n  create: false\n')
  writeFileSync(join(directory, 'bad.yaml'), 'agent: [\n')
  const files = ['-f', join(directory, 'a.yaml'), '-f', join(directory, 'b.yaml')]
  const { values } = planned(...files, '--set', 'agent.workers=4')
  assert.equal(values.agent.workers, 4)
  assert.equal(values.agent.logLevel, 'debug')
  assert.equal(values.namespace.create, false)
  assert.equal(planned().values.namespace.create, true)
  assert.throws(() => planned('-f', join(directory, 'bad.yaml')), /bad\.yaml: .* at line [0-9]+/)
  assert.throws(() => planned('-f', join(directory, 'none.yaml')), /none\.yaml cannot be read/)
})

test('every value has a sentence, and a default that its own check and schema take', () => {
  for (const [name, row] of rowsOf(INSTALL_VALUES)) {
    assert.match(row.doc, /\.$|"$|\.\.\.$/, name)
    assert.equal(row.problem(row.fallback), null, name)
  }
  assert.equal(schemaOf(INSTALL_VALUES)['additionalProperties'], false)
})
