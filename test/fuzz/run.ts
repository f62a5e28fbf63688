/**
 * `npm run fuzz -- h1 [--seconds N] [--seed N] [--no-save]`: feeds one target for a while, guided by coverage. Inputs that
 * reach new code go to test/fuzz/corpus/<target>/, made small; those that break a property to test/fuzz/crashes/.
 * `npm run fuzz -- h1 --input FILE` runs one input.
 */
import { readFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { parseArgs } from 'node:util'
import { crashPath, distil, minimise, readCorpus, writeCorpus, writeCrash } from './corpus.ts'
import { Coverage } from './coverage.ts'
import { Fuzzer, placeOf } from './fuzzer.ts'
import { isTargetName, loadTarget, TARGET_NAMES, type TargetName } from './target.ts'
import { Watchdog } from './watchdog.ts'

const root = join(import.meta.dirname, '..', '..')
const REPORT_MS = 10_000

const { values, positionals } = parseArgs({
  allowPositionals: true,
  allowNegative: true,
  options: {
    seconds: { type: 'string', default: '60' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    input: { type: 'string' },
    save: { type: 'boolean', default: true },
  },
})
const name = positionals[0] ?? ''
const seconds = Number(values.seconds)
const seed = Number(values.seed)
if (!isTargetName(name) || positionals.length !== 1 || !(seconds > 0) || !Number.isInteger(seed)) {
  console.error(`usage: npm run fuzz -- ${TARGET_NAMES.join('|')} [--seconds N] [--seed N] [--no-save] [--input FILE]`)
  process.exit(2)
}

if (values.input === undefined) await fuzz(name)
else await runOne(name, values.input)

async function runOne(target: TargetName, path: string): Promise<void> {
  console.log(`${target}: ${(await loadTarget(target)).run(new Uint8Array(readFileSync(path)))}`)
}

async function fuzz(targetName: TargetName): Promise<void> {
  const coverage = new Coverage(root)
  const target = await loadTarget(targetName)
  coverage.watch(target.sources)
  const watchdog = new Watchdog(target.bytesMax, crashPath(targetName, 'stuck'))
  const fuzzer = new Fuzzer(target, coverage, seed, watchdog)
  const seeds = target.seeds()
  const corpus = readCorpus(targetName)
  fuzzer.begin([...seeds, ...corpus])
  console.log(
    `${targetName}: seed ${seed}, ${seeds.length} seeds, ${corpus.length} files, ${percent(coverage)} reached`,
  )

  const startMs = Date.now()
  let [reportedMs, isNew] = [startMs, false]
  while (Date.now() - startMs < seconds * 1000) {
    if (fuzzer.step()) isNew = true
    if (Date.now() - reportedMs < REPORT_MS) continue
    reportedMs = Date.now()
    report(fuzzer, startMs)
  }
  report(fuzzer, startMs)
  for (const [file, share] of coverage.summary().byFile)
    console.log(`  ${(share * 100).toFixed(1).padStart(5)} % ${file}`)
  for (const { input, error } of [...fuzzer.crashes.values()]) {
    const place = placeOf(error)
    const small = minimise(input, (shorter) => {
      const found = fuzzer.execute(shorter)
      return found !== null && placeOf(found) === place
    })
    const path = relative(root, writeCrash(targetName, small))
    console.error(`\n${error.stack}\n\nAgain: npm run fuzz -- ${targetName} --input ${path}`)
  }
  if (fuzzer.crashes.size > 0) process.exitCode = 1
  else if (isNew && values.save) {
    const kept = distil(fuzzer, seeds, [...corpus, ...fuzzer.found])
    writeCorpus(targetName, kept)
    console.log(`${targetName}: ${kept.length} files kept`)
  }
  await watchdog.stop()
}

function percent(coverage: Coverage): string {
  return `${(coverage.summary().total * 100).toFixed(1)} %`
}

function report(fuzzer: Fuzzer, startMs: number): void {
  const perSecond = Math.round((fuzzer.executions * 1000) / Math.max(1, Date.now() - startMs))
  console.log(
    `${fuzzer.executions} runs (${perSecond}/s), ${percent(fuzzer.coverage)} reached, ${fuzzer.pool.length} inputs, ` +
      `${fuzzer.outcomeCount} outcomes, ${fuzzer.crashes.size} crashes`,
  )
}
