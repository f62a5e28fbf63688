/**
 * YAML files and the compiler. The input is the text of one file, read beside the shop of the compiler's own tests: never
 * a throw; every message about it has a position in it; equal input gives equal output, in any order of objects; and
 * what is compiled can be said on the wire.
 */
import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { compile, type MeshState } from '../../../src/compiler/compile.ts'
import { formatMessage, type Message } from '../../../src/compiler/messages.ts'
import type { MeshObject } from '../../../src/compiler/object.ts'
import { readYamlFile } from '../../../src/controller/yaml-file.ts'
import { encodePod, encodePolicy, encodeService, encodeTraffic, encodeWorkload } from '../../../src/wire/mesh-codec.ts'
import { parse, SETTINGS, shop } from '../../compiler/builders.ts'
import type { SeededRandom } from '../../support/seeded-random.ts'
import { bytesOf, type Target } from '../target.ts'
import { YAML_SEEDS } from './yaml-seeds.ts'

const FILE = 'input.yaml'
const SHOP: readonly MeshObject[] = shop().map(parse)

function checkMessages(messages: readonly Message[], text: string): void {
  const lineCount = text.split('\n').length
  for (const message of messages) {
    const { position } = message
    // The shop has no positions; what is said about it is not about the input.
    if (position === null) {
      assert.ok(
        SHOP.some(({ key }) => key === message.object),
        `without a position: ${formatMessage(message)}`,
      )
      continue
    }
    assert.equal(position.file, FILE)
    assert.ok(position.line >= 1 && position.line <= lineCount + 1, formatMessage(message))
    assert.ok(position.column >= 1, formatMessage(message))
    assert.ok(message.text !== '' && message.text.length < 2_000, `text of ${message.text.length} characters`)
    // A line of a log is one line.
    assert.doesNotMatch(formatMessage(message), /[\r\n]/, `a message of several lines: ${JSON.stringify(message)}`)
  }
}

function checkEncodes(state: MeshState): void {
  for (const workload of state.workloads) encodeWorkload(workload)
  for (const service of state.services) encodeService(service)
  for (const policy of state.policies) encodePolicy(policy)
  for (const traffic of state.traffic) encodeTraffic(traffic)
  for (const { pod } of state.pods) encodePod(pod)
}

function run(input: Uint8Array): string {
  const text = Buffer.from(input).toString('utf8')
  const file = readYamlFile(text, FILE)
  checkMessages(file.messages, text)
  assert.ok(file.objects.length === 0 || file.messages.length === 0, 'a file with errors gave objects')
  if (file.messages.length > 0) {
    assert.deepEqual(readYamlFile(text, FILE).messages, file.messages)
    return wordsOf(file.messages)
  }
  const result = compile([...SHOP, ...file.objects], SETTINGS)
  checkMessages(result.messages, text)
  const again = compile([...readYamlFile(text, FILE).objects, ...SHOP].reverse(), SETTINGS)
  assert.deepEqual(again.messages, result.messages, 'the order of objects changes the messages')
  assert.deepEqual(again.state, result.state, 'the order of objects changes the state')
  checkEncodes(result.state)
  return wordsOf(result.messages)
}

/** Codes and fields without indexes. */
function wordsOf(messages: readonly Message[]): string {
  const words = messages.map(({ code, field, text }) =>
    code === 'WEFT0401' ? text.slice(0, 40) : `${code} ${field.replace(/\[[^\]]*\]/g, '')}`,
  )
  return [...new Set(words)].sort().slice(0, 3).join()
}

const VALUES = [
  ...[
    'null',
    '~',
    'true',
    '0',
    '-1',
    '1e999',
    '.nan',
    '99999999999999999999',
    '""',
    "'x'",
    '[]',
    '{}',
    '[a, b]',
    '{a: b}',
    '{exact: x}',
  ],
  ...[
    '{regex: "(a+)+"}',
    '{regex: "("}',
    '{prefix: /}',
    '"*"',
    'cart',
    'cart.shop.svc.cluster.local',
    '"*.shop.svc.cluster.local"',
    'web',
  ],
  ...[
    '5s',
    '0.1s',
    '-1s',
    '1h',
    '50%',
    '!!binary aGk=',
    '!!set {a}',
    '2026-01-01T00:00:00Z',
    '&a x',
    '*a',
    '"\\u0000"',
    '"\\n"',
    'v1',
    'v2',
  ],
  ...[
    'STRICT',
    'DENY',
    'ALLOW',
    'AUDIT',
    'ISTIO_MUTUAL',
    '10.0.0.0/8',
    '80',
    '65536',
    '__proto__',
    'constructor',
    '"\u2028"',
    '"\u{1f600}"',
  ],
]

/** Fields and kinds of the golden files and of the compiler's tables, to put where others are. */
const KEYS = [
  ...[
    'spec',
    'metadata',
    'hosts',
    'http',
    'match',
    'route',
    'destination',
    'host',
    'subset',
    'weight',
    'retries',
    'timeout',
    'fault',
    'mirror',
  ],
  ...[
    'rewrite',
    'redirect',
    'headers',
    'tcp',
    'tls',
    'port',
    'number',
    'trafficPolicy',
    'subsets',
    'labels',
    'rules',
    'from',
    'to',
    'when',
  ],
  ...[
    'source',
    'principals',
    'operation',
    'selector',
    'matchLabels',
    'mtls',
    'mode',
    'portLevelMtls',
    'action',
    'namespace',
    'name',
    'kind',
    'items',
  ],
  ...[
    'outlierDetection',
    'connectionPool',
    'loadBalancer',
    'directResponse',
    'corsPolicy',
    'delegate',
    'exportTo',
    'gateways',
    'workloadSelector',
    '<<',
  ],
]

function mutateLines(random: SeededRandom, input: Uint8Array): Uint8Array {
  const lines = Buffer.from(input).toString('utf8').split('\n')
  const at = random.integer(0, lines.length - 1)
  const line = lines[at]!
  switch (random.integer(0, 8)) {
    case 0:
      lines.splice(at, 1)
      break
    case 1:
      lines.splice(at, 0, line)
      break
    case 2:
      lines[at] = line.startsWith('  ') && random.boolean() ? line.slice(2) : `  ${line}`
      break
    case 3:
    case 4:
      lines[at] = line.replace(/(: ?|- )[^:]*$/, (_all, before: string) => `${before.trimEnd()} ${random.pick(VALUES)}`)
      break
    case 5:
      lines[at] = line.replace(/[A-Za-z]+(?=:)/, random.pick(KEYS))
      break
    case 6:
      lines.splice(
        at + 1,
        0,
        `${/^[ -]*/.exec(line)![0].replaceAll('-', ' ')}${random.pick(KEYS)}: ${random.pick(VALUES)}`,
      )
      break
    case 7:
      lines.splice(at, 0, ...lines.slice(random.integer(0, at), at + 1))
      break
    default: {
      // A whole block moves.
      const end = Math.min(lines.length, at + random.integer(1, 8))
      const block = lines.splice(at, end - at)
      lines.splice(random.integer(0, lines.length), 0, ...block)
    }
  }
  return new Uint8Array(Buffer.from(lines.join('\n'), 'utf8'))
}

function goldenSeeds(): Uint8Array[] {
  const folder = join(import.meta.dirname, '..', '..', 'golden', 'bookinfo')
  const texts = readdirSync(folder)
    .filter((name) => name.endsWith('.yaml'))
    .flatMap((name) => readFileSync(join(folder, name), 'utf8').split(/^---$/m))
  const own = texts.map((text) =>
    text.replaceAll('reviews', 'cart').replaceAll('namespace: bookinfo', 'namespace: shop'),
  )
  return [...texts, ...own, ...YAML_SEEDS].map((text) => new Uint8Array(Buffer.from(text, 'utf8')))
}

export const target: Target = {
  sources: ['src/compiler/', 'src/controller/yaml-file.ts'],
  bytesMax: 12_000,
  testIterations: 120,
  tokens: [
    ...VALUES,
    ...KEYS.map((key) => `${key}: `),
    '---\n',
    '- ',
    '  ',
    '? ',
    '|\n',
    '>-\n',
    '#',
    '\t',
    '<<: *a\n',
    '%YAML 1.1\n',
  ].map((text) => bytesOf(Buffer.from(text, 'utf8').toString('latin1'))),
  seeds: goldenSeeds,
  run,
  mutate: mutateLines,
}
