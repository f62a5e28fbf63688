/**
 * Runs the tests: those in processes of their own side by side, then those that share the kernel (network namespaces,
 * cgroups, eBPF) one after the other, with one report and one closing summary for both.
 */
import { appendFileSync, globSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join, relative } from 'node:path'
import { Readable } from 'node:stream'
import { run } from 'node:test'
import { spec } from 'node:test/reporters'
import { parseArgs } from 'node:util'

const root = join(import.meta.dirname, '..')

/** One file may take this long. The slowest take two minutes here, and a busy machine may be some times slower. */
const FILE_TIMEOUT_MS = 900_000

/** Files that take longest begin first, so that none of them runs on alone at the end. */
const LONG_FILES = ['test/node-versions.test.ts', 'test/transport/reactor-sanitizers.test.ts']

/** So many files that took longest are named at the end, for whoever wants the whole faster. */
const SLOW_FILES_NAMED = 12

/** Names a file that gets a line for each failed test, for whoever runs several commands. */
const FAILURES_FILE = process.env['WEFT_TEST_FAILURES']

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
const durationsMs = new Map<string, number>()

async function* events(): AsyncGenerator<TestEvent> {
  const alone = files.filter((file) => !sharesKernel(file)).sort((x, y) => Number(isLong(y)) - Number(isLong(x)))
  const serial = files.filter(sharesKernel)
  if (alone.length > 0) yield* runFiles(alone, availableParallelism())
  if (serial.length > 0) yield* runFiles(serial, 1)
  const slowest = [...durationsMs].sort(([, x], [, y]) => y - x).slice(0, SLOW_FILES_NAMED)
  if (slowest.length > 1) {
    for (const [file, ms] of slowest) yield diagnostic(`slow: ${(ms / 1000).toFixed(1)} s ${file}`)
  }
  for (const [name, value] of totals) yield diagnostic(`${name} ${value}`)
}

function isLong(file: string): boolean {
  return LONG_FILES.includes(file)
}

function diagnostic(message: string): TestEvent {
  return { type: 'test:diagnostic', data: { nesting: 0, message, level: 'info' } }
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
      const { file, success, duration_ms } = event.data as { file?: string; success: boolean; duration_ms: number }
      if (file === undefined && !success) hasFailed = true
      if (file !== undefined) durationsMs.set(relative(root, file), duration_ms)
    }
    if (event.type === 'test:fail') noteFailure(event.data as Failure)
    if (!addToTotals(event)) yield event
  }
}

interface Failure {
  readonly name: string
  readonly file?: string
  readonly details: { readonly type?: 'suite' | 'test'; readonly error?: { readonly failureType?: string } }
}

/** Tests themselves, not the suites and files that fail because of them. */
function noteFailure({ name, file, details }: Failure): void {
  if (FAILURES_FILE === undefined || details.error?.failureType === 'subtestsFailed') return
  appendFileSync(FAILURES_FILE, `${file === undefined ? '' : `${relative(root, file)}: `}${name}\n`)
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
