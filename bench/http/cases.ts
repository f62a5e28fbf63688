/** The rows of the bench: which systems do which work, under which load, and what is counted. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Topology } from '../peers/work.ts'
import { type LoadResult, openIdleHttp, openIdleTls, runH2load, runWrk } from './load.ts'
import { cpuUs, residentBytes } from './machine.ts'
import { heapOf, type Stage, type System, type SystemName } from './systems.ts'

/** What one round measured of one system. `value` is what the case is about, in the unit of the case. */
export interface Sample {
  readonly value: number
  readonly requestsPerS: number
  readonly p50Us: number
  readonly p99Us: number
  readonly rssBytes: number
  readonly failed: number
}

export interface BenchCase {
  readonly name: string
  readonly unit: string
  readonly topology: Topology
  /** Weft first; the others in the order of the table. */
  readonly systems: readonly SystemName[]
  /** True where more is better. */
  readonly isMoreBetter: boolean
  /** Rounds when not told otherwise. */
  readonly rounds: number
  /** What the value is held against when there is no peer, and what to call that; a limit of our own. */
  readonly limit?: { readonly name: string; readonly value: number }
  /** Options for Weft's Node.js. */
  readonly weftOptions?: readonly string[]
  measure(system: System, seconds: number, stage: Stage): Promise<Sample>
}

type Load = (system: System, seconds: number, stage: Stage) => Promise<LoadResult>

const get = (connections: number): Load => {
  return ({ address }, seconds) => runWrk(address, seconds, { connections })
}
const post: Load = ({ address }, seconds) => runWrk(address, seconds, { connections: 32, isPost: true })
const churn: Load = ({ address }, seconds) => runWrk(address, seconds, { connections: 32, isClosing: true })
const bulk: Load = ({ address }, seconds) => runWrk(address, seconds, { connections: 1, path: '/bulk' })
const http2: Load = ({ address }, seconds, { directory }) =>
  runH2load(address, seconds, directory, { clients: 8, streams: 32 })
const grpc: Load = ({ address }, seconds, { directory }) =>
  runH2load(address, seconds, directory, { clients: 8, streams: 32, isGrpc: true })
const fixedRate: Load = ({ address }, seconds, { directory }) =>
  runH2load(address, seconds, directory, { clients: 16, streams: 0, rate: 1000 })

export const CASES: readonly BenchCase[] = [
  cpuCase('h1-cpu', 'http', ['weft', 'weft-node', 'envoy', 'nginx', 'haproxy', 'node-http'], get(32)),
  cpuCase('h1-1000conns', 'http', ['weft', 'envoy', 'nginx', 'haproxy'], get(1000)),
  cpuCase('h1-post-64k', 'http', ['weft', 'envoy', 'nginx', 'haproxy'], post),
  cpuCase('h2-cpu', 'http2', ['weft', 'envoy', 'nginx', 'haproxy'], http2),
  cpuCase('grpc-cpu', 'grpc', ['weft', 'envoy', 'nginx', 'haproxy'], grpc),
  cpuCase('pair-cpu', 'http-pair', ['weft', 'weft-node', 'envoy', 'nginx', 'haproxy'], get(32)),
  {
    ...cpuCase('tunnel-throughput', 'tcp-pair', ['weft', 'envoy', 'nginx'], bulk),
    unit: 'Gbit per CPU s',
    isMoreBetter: true,
    measure: measureBulk,
  },
  cpuCase('churn-cpu', 'http', ['weft', 'envoy', 'nginx', 'haproxy', 'node-http'], churn),
  {
    ...cpuCase('fixed-rate', 'http', ['direct', 'weft', 'envoy', 'nginx', 'haproxy'], fixedRate),
    unit: 'us',
    measure: measureLatency,
  },
  { ...memoryCase('idle-memory', 'http', ['weft', 'envoy', 'nginx', 'haproxy']), measure: measureIdle },
  { ...memoryCase('idle-mtls-memory', 'http-pair', ['weft', 'envoy', 'nginx']), measure: measureIdleTls },
  {
    ...memoryCase('h1-allocation', 'http', ['weft']),
    unit: 'B/request',
    rounds: 1,
    limit: { name: 'limit', value: 2048 },
    weftOptions: ['--min-semi-space-size=512', '--max-semi-space-size=512'],
    measure: measureAllocation,
  },
]

function cpuCase(name: string, topology: Topology, systems: readonly SystemName[], load: Load): BenchCase {
  return {
    name,
    unit: 'us/request',
    topology,
    systems,
    isMoreBetter: false,
    rounds: 3,
    measure: (system, seconds, stage) =>
      measured(system, seconds, stage, load, (result, usedUs) => usedUs / result.requests),
  }
}

function memoryCase(name: string, topology: Topology, systems: readonly SystemName[]): Omit<BenchCase, 'measure'> {
  return { name, unit: 'B/connection', topology, systems, isMoreBetter: false, rounds: 1 }
}

function pidsOf(system: System): number[] {
  return system.programs.map((program) => program.pid)
}

async function measured(
  system: System,
  seconds: number,
  stage: Stage,
  load: Load,
  measureOf: (result: LoadResult, usedUs: number) => number,
): Promise<Sample> {
  const pids = pidsOf(system)
  const before = cpuUs(pids)
  const result = await load(system, seconds, stage)
  const usedUs = cpuUs(pids) - before
  return {
    value: measureOf(result, usedUs),
    requestsPerS: (result.requests * 1e6) / result.durationUs,
    p50Us: result.p50Us,
    p99Us: result.p99Us,
    rssBytes: residentBytes(pids),
    failed: result.failed,
  }
}

/** Gigabits that a second of CPU time carries, of both proxies together: what one core would carry. */
function measureBulk(system: System, seconds: number, stage: Stage): Promise<Sample> {
  return measured(system, seconds, stage, bulk, (result, usedUs) => (result.bytes * 8) / 1e3 / usedUs)
}

function measureLatency(system: System, seconds: number, stage: Stage): Promise<Sample> {
  return measured(system, seconds, stage, fixedRate, (result) => result.p99Us)
}

// --- memory ---

/** haproxy wants two descriptors per connection that it may get, and programs often have 20,000. */
const IDLE_CONNECTIONS = 9_000

/** Fewer: each costs two handshakes of about a millisecond. */
const IDLE_TLS_CONNECTIONS = 1_000

const SETTLE_MS = 500

async function measureIdle(system: System): Promise<Sample> {
  await runWrk(system.address, 1, { connections: 32 })
  return await memoryOf(system, pidsOf(system), IDLE_CONNECTIONS, () => openIdleHttp(system.address, IDLE_CONNECTIONS))
}

/** Only the server's side of the pair is looked at. */
async function measureIdleTls(system: System, _seconds: number, stage: Stage): Promise<Sample> {
  await runWrk(system.address, 1, { connections: 32 })
  const close = await openIdleTls(system.middle, 100, stage.certificates)
  close()
  return await memoryOf(system, [system.programs[1]!.pid], IDLE_TLS_CONNECTIONS, () =>
    openIdleTls(system.middle, IDLE_TLS_CONNECTIONS, stage.certificates),
  )
}

async function memoryOf(
  system: System,
  pids: readonly number[],
  count: number,
  open: () => Promise<() => void>,
): Promise<Sample> {
  await delay(SETTLE_MS)
  const before = residentBytes(pids)
  const close = await open()
  await delay(SETTLE_MS)
  const rssBytes = residentBytes(pids)
  close()
  await delay(SETTLE_MS)
  const failed = system.programs.some((program) => program.hasEnded) ? count : 0
  return { value: (rssBytes - before) / count, requestsPerS: 0, p50Us: 0, p99Us: 0, rssBytes, failed }
}

/** The young space is so large that nothing is collected while it is measured. */
async function measureAllocation(system: System): Promise<Sample> {
  await runWrk(system.address, 3, { connections: 32 })
  for (;;) {
    const before = await heapOf(system)
    const result = await runWrk(system.address, 1, { connections: 32 })
    const after = await heapOf(system)
    // A collection in between would hide what was allocated; the next second begins with an empty young space.
    if (after.collections !== before.collections) continue
    const pids = pidsOf(system)
    return {
      value: (after.usedBytes - before.usedBytes) / result.requests,
      requestsPerS: (result.requests * 1e6) / result.durationUs,
      p50Us: result.p50Us,
      p99Us: result.p99Us,
      rssBytes: residentBytes(pids),
      failed: result.failed,
    }
  }
}
