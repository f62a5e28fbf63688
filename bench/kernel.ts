/**
 * TCP that the kernel carries, the relay and the tunnel against no mesh, between pods of one mesh in one run.
 *
 * Rounds go from case to case, ours and the peer's one right after the other and in turns; medians are compared. Only
 * ratios mean anything. Needs root, iperf3 and a C compiler (`sh deploy/setup.sh test`).
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { describeCommit, describeMachine } from './http/machine.ts'
import { MEASUREMENTS, type Pair } from './kernel/cases.ts'
import { formatTable, type KernelResult, type Measured, rowOf } from './kernel/report.ts'
import { Stage } from './kernel/stage.ts'

const root = join(import.meta.dirname, '..')
const names = MEASUREMENTS.map(({ rows }) => rows[0]!.name)

const USAGE = `Usage: npm run bench -- kernel [--case NAME]... [--rounds N] [--duration SECONDS] [--workers N] [-o json]

Cases: ${names.join(', ')}
A whole run goes to bench/results/kernel.json, a part of one to kernel.local.json.
`

/** Rounds and seconds of one number: with 18 of them, some of them several times, and the start, a run takes four minutes. */
const ROUNDS = 9
const DURATION_S = 1

const { values: options } = parseArgs({
  options: {
    case: { type: 'string', multiple: true },
    rounds: { type: 'string', default: String(ROUNDS) },
    duration: { type: 'string', default: String(DURATION_S) },
    workers: { type: 'string', default: '1' },
    output: { type: 'string', short: 'o', default: 'table' },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
const [rounds, seconds, workers] = [options.rounds, options.duration, options.workers].map(Number) as [
  number,
  number,
  number,
]
const isUsable =
  (options.case ?? []).every((name) => names.includes(name)) &&
  Number.isInteger(rounds) &&
  rounds > 0 &&
  seconds >= 0.1 &&
  seconds <= 10 &&
  Number.isInteger(workers) &&
  workers > 0

if (options.help) {
  process.stdout.write(USAGE)
} else if (!isUsable) {
  process.stderr.write(USAGE)
  process.exitCode = 2
} else if (process.getuid?.() !== 0) {
  console.error('weft: the bench needs root: network namespaces and eBPF')
  process.exitCode = 1
} else {
  await main()
}

async function main(): Promise<void> {
  const machine = { ...describeMachine(), commit: describeCommit(root) }
  const stage = await Stage.start(workers)
  let measured: readonly Measured[]
  try {
    measured = await measureAll(stage)
  } finally {
    await stage.close()
  }
  const result: KernelResult = { suite: 'kernel', machine, rows: measured.map(rowOf) }
  const isWhole = options.case === undefined && rounds >= ROUNDS && seconds >= DURATION_S
  mkdirSync(join(root, 'bench', 'results'), { recursive: true })
  const path = join(root, 'bench', 'results', isWhole ? 'kernel.json' : 'kernel.local.json')
  writeFileSync(path, `${JSON.stringify(result, null, 2)}\n`)
  if (options.output === 'json') {
    console.log(JSON.stringify(result))
    return
  }
  const { cpu, cores, kernel, node, load, commit } = machine
  console.log(`${cores} cores of ${cpu}, Linux ${kernel}, Node ${node}, commit ${commit}, load ${load} at the start`)
  console.log(`medians of ${rounds} rounds of ${seconds} s; ${workers} data workers for each agent\n`)
  console.log(formatTable(measured))
}

async function measureAll(stage: Stage): Promise<readonly Measured[]> {
  const chosen = MEASUREMENTS.filter(({ rows }) => options.case === undefined || options.case.includes(rows[0]!.name))
  const pairs = chosen.map(({ rows }) => rows.map((): Pair[] => []))
  // Just-in-time compilers and caches: a short round that does not count.
  for (const measurement of chosen) await measurement.sample(stage, Math.min(seconds, 0.5), false)
  for (let round = 0; round < rounds; round++) {
    for (const [index, measurement] of chosen.entries()) {
      const sample = await measurement.sample(stage, seconds, round % 2 === 1)
      for (const [row, pair] of sample.entries()) pairs[index]![row]!.push(pair)
    }
    console.error(`round ${round + 1} of ${rounds}`)
  }
  return chosen.flatMap(({ rows }, index) => rows.map((row, at) => ({ row, pairs: pairs[index]![at]! })))
}
