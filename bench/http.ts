/**
 * `npm run bench -- http`: requests through Weft and through its peers, side by side in one run.
 *
 * The proxy under test has one core, the load and the origin have the other. Rounds are interleaved peer by peer, so
 * that whatever else the machine does meets all of them alike; medians are compared. Only ratios mean anything.
 */
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { type BenchCase, CASES, type Sample } from './http/cases.ts'
import { writeCertificates } from './http/certificates.ts'
import { GRPC_BODY } from './http/load.ts'
import { describeCommit, describeMachine } from './http/machine.ts'
import { endAll, findProgram } from './http/programs.ts'
import {
  type BenchResult,
  type CaseResult,
  formatCase,
  type MissingRow,
  type Row,
  rowsOf,
  summarize,
} from './http/report.ts'
import { MissingPeer, Stage, type System, type SystemName } from './http/systems.ts'
import { BULK_BYTES } from './peers/nginx.ts'

const root = join(import.meta.dirname, '..')

const USAGE = `Usage: npm run bench -- http [--case NAME]... [--peer NAME]... [--rounds N] [--duration SECONDS] [-o json]

Cases: ${CASES.map(({ name }) => name).join(', ')}
Envoy is looked for in WEFT_ENVOY and in PATH.
`

/** Time for just-in-time compilers to be done, seconds of load. */
const WARM_UP_S = 2

/** After this time the cases that are left get one round each: a run ends within six minutes on a busy machine too. */
const HURRY_AFTER_S = 240

/** Hand-compiled peers need only fill their pools. */
const PEER_WARM_UP_S = 1

const { values: options } = parseArgs({
  options: {
    case: { type: 'string', multiple: true },
    peer: { type: 'string', multiple: true },
    rounds: { type: 'string' },
    duration: { type: 'string', default: '1' },
    output: { type: 'string', short: 'o', default: 'table' },
    help: { type: 'boolean', short: 'h', default: false },
  },
})

const isJson = options.output === 'json'
const say = (line: string): void => (isJson ? console.error(line) : console.log(line))

if (options.help) {
  process.stdout.write(USAGE)
} else {
  process.exitCode = await main()
}

async function main(): Promise<number> {
  const unknown = options.case?.find((name) => !CASES.some((each) => each.name === name))
  const seconds = Number(options.duration)
  const rounds = options.rounds === undefined ? null : Number(options.rounds)
  if (
    unknown !== undefined ||
    !(seconds >= 1 && seconds <= 60) ||
    (rounds !== null && !(rounds >= 1 && rounds <= 20))
  ) {
    process.stderr.write(USAGE)
    return 2
  }
  const lacking = ['wrk', 'h2load', 'nginx', 'taskset', 'openssl'].filter((name) => findProgram(name) === null)
  if (lacking.length > 0) {
    console.error(
      `weft: the http bench needs ${lacking.join(', ')}: apt-get install wrk nghttp2-client nginx-light openssl`,
    )
    return 1
  }
  const directory = mkdtempSync(join(tmpdir(), 'weft-bench-'))
  process.on('exit', endAll)
  process.on('SIGINT', () => process.exit(130))
  process.on('SIGTERM', () => process.exit(143))
  try {
    return await runAll(directory, seconds, rounds)
  } finally {
    endAll()
    rmSync(directory, { recursive: true, force: true })
  }
}

async function runAll(directory: string, seconds: number, rounds: number | null): Promise<number> {
  const machine = describeMachine()
  const commit = describeCommit(root)
  say(`weft ${commit} on ${machine.cores} x ${machine.cpu}, Node ${machine.node}, load ${machine.load}`)
  const envoy = process.env['WEFT_ENVOY'] ?? findProgram('envoy')
  // Blocks of 127.0.0.0/8 by process, so that two runs do not meet.
  const block = `127.${64 + (process.pid % 64)}.${(process.pid >> 6) % 256}`
  const stage = new Stage(directory, writeCertificates(directory), block, envoy)
  writeFileSync(join(directory, 'grpc-body'), GRPC_BODY)
  await stage.startOrigin()
  truncateSync(bulkFile(directory), BULK_BYTES)
  const rows: Row[] = []
  const missing: MissingRow[] = []
  const cases: CaseResult[] = []
  const hurryAtMs = performance.now() + HURRY_AFTER_S * 1000
  for (const each of CASES) {
    if (options.case !== undefined && !options.case.includes(each.name)) continue
    const isLate = rounds === null && performance.now() > hurryAtMs
    const result = await runCase(each, stage, seconds, isLate ? 1 : (rounds ?? each.rounds), missing)
    if (isLate && each.rounds > 1) say(`\n${each.name}: one round only, time is short`)
    cases.push(result)
    rows.push(...rowsOf(each, result.lines))
    say(`\n${formatCase(each, result.lines)}`)
    for (const { peer, why } of missing.filter((entry) => entry.case === each.name)) say(`  ${peer}: no row: ${why}`)
  }
  await stage.end()
  const result: BenchResult = { suite: 'http', commit, machine, seconds, rows, missing, cases }
  const isWhole = options.case === undefined && options.peer === undefined
  const path = join(root, 'bench', 'results', isWhole ? 'http.json' : 'http.local.json')
  mkdirSync(join(root, 'bench', 'results'), { recursive: true })
  writeFileSync(path, `${JSON.stringify(result, null, 2)}\n`)
  if (isJson) console.log(JSON.stringify({ suite: 'http', machine: { ...machine, commit }, rows, missing }))
  // What a peer cannot stand is in its row.
  return cases.some(({ lines }) => lines.some(({ system, failed }) => system === 'weft' && failed > 0)) ? 1 : 0
}

function bulkFile(directory: string): string {
  const path = join(directory, 'origin', 'bulk')
  writeFileSync(path, '')
  return path
}

/** Starts every system of the case, warms it up, and measures them in turn, round by round. */
async function runCase(
  each: BenchCase,
  stage: Stage,
  seconds: number,
  rounds: number,
  missing: MissingRow[],
): Promise<CaseResult> {
  const samples = new Map<System, Sample[]>()
  const lack = (peer: SystemName, why: string): void => void missing.push({ case: each.name, peer, why })
  try {
    const names = each.systems.filter((name) => options.peer === undefined || options.peer.includes(name))
    const starts = await Promise.allSettled(names.map((name) => stage.start(name, each.topology, each.weftOptions)))
    for (const [index, start] of starts.entries()) {
      if (start.status === 'fulfilled') samples.set(start.value, [])
      else lack(names[index]!, messageOf(start.reason))
    }
    // Round -1 warms up.
    for (let round = each.rounds > 1 ? -1 : 0; round < rounds; round++) {
      for (const [system, list] of samples) {
        try {
          const warmUpS = isJavaScript(system.name) ? WARM_UP_S : PEER_WARM_UP_S
          const sample = await each.measure(system, round < 0 ? warmUpS : seconds, stage)
          if (round >= 0) list.push(sample)
        } catch (error) {
          lack(system.name, reasonOf(system, error))
          samples.delete(system)
          for (const program of system.programs) await program.end()
        }
      }
    }
    const lines = [...samples].filter(([, list]) => list.length > 0).map(([{ name }, list]) => summarize(name, list))
    return { case: each.name, unit: each.unit, lines }
  } finally {
    await Promise.all([...samples.keys()].flatMap(({ programs }) => programs.map((program) => program.end())))
  }
}

function isJavaScript(name: SystemName): boolean {
  return name.startsWith('weft') || name === 'node-http'
}

/** What a program said before it ended explains more than what the load met. */
function reasonOf(system: System, error: unknown): string {
  const ended = system.programs.find((program) => program.hasEnded)
  return ended === undefined ? messageOf(error) : `it ended: ${ended.lastWords}`
}

function messageOf(error: unknown): string {
  if (error instanceof MissingPeer) return error.message
  return error instanceof Error ? error.message : String(error)
}
