/**
 * Runs the tests: those in processes of their own side by side, then those that share the kernel (network namespaces,
 * cgroups, eBPF) one after the other, with one report and one closing summary for both.
 */
import { globSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join, relative } from 'node:path'
import { Readable } from 'node:stream'
import { run } from 'node:test'
import { spec } from 'node:test/reporters'
import { parseArgs } from 'node:util'

const root = join(import.meta.dirname, '..')

/** One file may take this long. Namespace tests with short-lived certificates are the slowest, well under a minute. */
const FILE_TIMEOUT_MS = 300_000

/** Tests that must not run beside each other say so by where they are, or by their name. */
function sharesKernel(file: string): boolean {
  return /^test\/(netns|demo|cluster)\//.test(file) || file.endsWith('.netns.test.ts')
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    'test-name-pattern': { type: 'string', multiple: true },
    'test-only': { type: 'boolean', default: false },
  },
})
const chosen = positionals.length === 0 ? ['test'] : positionals
/** Kubernetes clusters take minutes to build, and have a command of their own: `npm run test:cluster`. */
const isClusterChosen = chosen.some((path) => relative(root, join(root, path)).startsWith('test/cluster'))
const files = chosen
  .flatMap((path) => (path.endsWith('.ts') ? [join(root, path)] : globSync(join(root, path, '**/*.test.ts'))))
  .map((file) => relative(root, file))
  .filter((file) => isClusterChosen || !file.startsWith('test/cluster/'))
  .sort()
if (files.length === 0) {
  console.error(`weft: no test files under ${chosen.join(', ')}`)
  process.exit(2)
}

type TestEvent = { readonly type: string; readonly data: unknown }

/** Counters of the closing summary, in node:test's own order, added up over both runs. */
const totals = new Map<string, number>()
let hasFailed = false

async function* events(): AsyncGenerator<TestEvent> {
  const alone = files.filter((file) => !sharesKernel(file))
  const serial = files.filter(sharesKernel)
  if (alone.length > 0) yield* runFiles(alone, availableParallelism())
  if (serial.length > 0) yield* runFiles(serial, 1)
  for (const [name, value] of totals) {
    yield { type: 'test:diagnostic', data: { nesting: 0, message: `${name} ${value}`, level: 'info' } }
  }
}

/** Events of one run; its summary lines are kept back and added up. */
async function* runFiles(paths: readonly string[], concurrency: number): AsyncGenerator<TestEvent> {
  const patterns = values['test-name-pattern']
  const stream = run({
    files: paths.map((path) => join(root, path)),
    concurrency,
    timeout: FILE_TIMEOUT_MS,
    only: values['test-only'],
    ...(patterns === undefined ? {} : { testNamePatterns: patterns }),
  })
  for await (const event of stream as AsyncIterable<TestEvent>) {
    if (event.type === 'test:summary') {
      const { file, success } = event.data as { file?: string; success: boolean }
      if (file === undefined && !success) hasFailed = true
    }
    if (!addToTotals(event)) yield event
  }
}

function addToTotals(event: TestEvent): boolean {
  if (event.type !== 'test:diagnostic') return false
  const { nesting, message } = event.data as { nesting: number; message: string }
  const match = /^(tests|suites|pass|fail|cancelled|skipped|todo|duration_ms) ([0-9.]+)$/.exec(message)
  if (nesting !== 0 || match === null) return false
  totals.set(match[1]!, (totals.get(match[1]!) ?? 0) + Number(match[2]))
  return true
}

Readable.from(events())
  .compose(new spec())
  .on('end', () => {
    const bad = (totals.get('fail') ?? 0) + (totals.get('cancelled') ?? 0)
    process.exitCode = hasFailed || bad > 0 ? 1 : 0
  })
  .pipe(process.stdout)
