/**
 * Bulk data and small requests through the whole mesh with the real capture, against the same pods without a mesh.
 *
 * Two pairs of client and servers live side by side in one topology, one in the mesh and one outside of it; rounds are
 * interleaved and their order changes, so that whatever else the machine does meets all alike. Medians are compared,
 * and only their ratios mean anything. Needs root, iperf3, wrk and nginx (`sh deploy/setup.sh test`).
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { parseArgs } from 'node:util'
import { LiveMesh, NODES } from '../../test/support/live-mesh.ts'
import { cpuUs, describeCommit, describeMachine, type Machine } from '../http/machine.ts'

const USAGE = `Usage: npm run bench -- throughput [--rounds N] [--duration SECONDS] [--connections N] [--workers N] [-o json]
                                  [--out FILE]

Each round takes eight times the duration. Results go to bench/results/throughput.local.json unless --out says else.`

const { values: options } = parseArgs({
  options: {
    rounds: { type: 'string', default: '5' },
    duration: { type: 'string', default: '2' },
    connections: { type: 'string', default: '64' },
    workers: { type: 'string', default: '1' },
    output: { type: 'string', short: 'o', default: 'table' },
    out: { type: 'string', default: join(import.meta.dirname, '../results/throughput.local.json') },
    help: { type: 'boolean', short: 'h', default: false },
  },
})
if (options.help) {
  console.log(USAGE)
  process.exit(0)
}
const [rounds, duration, connections, workers] = [
  options.rounds,
  options.duration,
  options.connections,
  options.workers,
].map(Number) as [number, number, number, number]
if (![rounds, duration, connections, workers].every((value) => Number.isInteger(value) && value > 0)) {
  console.error(`weft: rounds, duration, connections and workers are whole numbers above 0.\n\n${USAGE}`)
  process.exit(2)
}
if (process.getuid?.() !== 0) {
  console.error('weft: the bench needs root: network namespaces and eBPF')
  process.exit(1)
}

/** One way of a client to a server. `peer` names the way without a mesh between the same places. */
interface Way {
  readonly name: string
  readonly client: string
  readonly server: string
  readonly peer: string | null
}

const WAYS: readonly Way[] = [
  { name: 'one node, no mesh', client: 'plain', server: 'plain-near', peer: null },
  { name: 'one node, mesh', client: 'client', server: 'near', peer: 'one node, no mesh' },
  { name: 'two nodes, no mesh', client: 'plain', server: 'plain-far', peer: null },
  { name: 'two nodes, mesh', client: 'client', server: 'far', peer: 'two nodes, no mesh' },
]

const BULK_PORT = '5201'

interface Sample {
  readonly gbitPerS: number
  /** CPU time of both agents for a gigabyte (10^9 bytes), seconds. */
  readonly agentCpuPerGigabyte: number
  readonly requestsPerS: number
  readonly p50Ms: number
  readonly p99Ms: number
  /** CPU time of both agents for 1000 requests, seconds. */
  readonly agentCpuPerThousand: number
}

type Row = Sample & { readonly way: string; readonly bulkRatio: number | null; readonly requestRatio: number | null }

const machine = describeMachine()
const mesh = await LiveMesh.start({
  pods: [
    { name: 'client', node: 'node1' },
    { name: 'near', node: 'node1', programs: ['web'] },
    { name: 'far', node: 'node2', programs: ['web'] },
    { name: 'plain', node: 'node1', namespace: 'outside' },
    { name: 'plain-near', node: 'node1', namespace: 'outside', programs: ['web'] },
    { name: 'plain-far', node: 'node2', namespace: 'outside', programs: ['web'] },
  ],
  services: ['near', 'far'],
  workers,
})
let rows: readonly Row[]
try {
  for (const { server } of WAYS) mesh.startIn(server, 'iperf3', ['iperf3', '-s', '-p', BULK_PORT])
  rows = summarize(await measureAll())
} finally {
  await mesh.close()
}
report(rows, machine)

async function measureAll(): Promise<Map<string, Sample[]>> {
  const samples = new Map<string, Sample[]>(WAYS.map(({ name }) => [name, []]))
  // Just-in-time compilers and pools: a round that does not count.
  for (const way of WAYS) await measure(way, 1)
  for (let round = 0; round < rounds; round++) {
    for (let i = 0; i < WAYS.length; i++) {
      const way = WAYS[(i + round) % WAYS.length]!
      samples.get(way.name)!.push(await measure(way, duration))
    }
    console.error(`round ${round + 1} of ${rounds}`)
  }
  return samples
}

async function measure(way: Way, seconds: number): Promise<Sample> {
  return { ...(await measureBulk(way, seconds)), ...(await measureRequests(way, seconds)) }
}

async function measureBulk({ client, server }: Way, seconds: number) {
  const address = mesh.plan.pod(server).addresses[0]!
  const cpuBefore = agentCpu()
  const { stdout } = await mesh.run(client, ['iperf3', '-c', address, '-p', BULK_PORT, '-t', String(seconds), '-J'])
  const cpu = agentCpu() - cpuBefore
  const { sum_received: received } = (JSON.parse(stdout) as IperfReport).end
  return { gbitPerS: received.bits_per_second / 1e9, agentCpuPerGigabyte: (cpu * 1e9) / received.bytes }
}

interface IperfReport {
  readonly end: { readonly sum_received: { readonly bits_per_second: number; readonly bytes: number } }
}

async function measureRequests({ client, server }: Way, seconds: number) {
  const url = `http://${mesh.plan.pod(server).addresses[0]}:8080/`
  const load = ['wrk', '-t1', `-c${connections}`, `-d${seconds}s`, '--latency', url]
  const cpuBefore = agentCpu()
  const { stdout } = await mesh.run(client, load)
  const cpu = agentCpu() - cpuBefore
  const requests = Number(/([0-9]+) requests in/.exec(stdout)?.[1])
  if (!(requests > 0) || /Non-2xx|Socket errors/.test(stdout)) throw new Error(`requests failed:\n${stdout}`)
  return {
    requestsPerS: Number(/Requests\/sec:\s+([0-9.]+)/.exec(stdout)![1]),
    p50Ms: latency(stdout, '50%'),
    p99Ms: latency(stdout, '99%'),
    agentCpuPerThousand: (cpu * 1000) / requests,
  }
}

function agentCpu(): number {
  return cpuUs(NODES.map((node) => mesh.pid(`agent-${node}`))) / 1e6
}

function latency(text: string, percentile: string): number {
  const [, value, unit] = new RegExp(`${percentile}\\s+([0-9.]+)(us|ms|s)`).exec(text)!
  return Number(value) * { us: 0.001, ms: 1, s: 1000 }[unit as 'us' | 'ms' | 's']
}

// --- results ---

function summarize(samples: ReadonlyMap<string, readonly Sample[]>): readonly Row[] {
  const medians = new Map([...samples].map(([way, all]) => [way, medianOf(all)]))
  return WAYS.map(({ name, peer }) => {
    const own = medians.get(name)!
    const other = peer === null ? null : medians.get(peer)!
    return {
      way: name,
      ...own,
      bulkRatio: other === null ? null : own.gbitPerS / other.gbitPerS,
      requestRatio: other === null ? null : own.requestsPerS / other.requestsPerS,
    }
  })
}

function medianOf(samples: readonly Sample[]): Sample {
  const of = (field: keyof Sample): number => {
    const sorted = samples.map((sample) => sample[field]).sort((a, b) => a - b)
    return (sorted[(sorted.length - 1) >> 1]! + sorted[sorted.length >> 1]!) / 2
  }
  return {
    gbitPerS: of('gbitPerS'),
    agentCpuPerGigabyte: of('agentCpuPerGigabyte'),
    requestsPerS: of('requestsPerS'),
    p50Ms: of('p50Ms'),
    p99Ms: of('p99Ms'),
    agentCpuPerThousand: of('agentCpuPerThousand'),
  }
}

function report(results: readonly Row[], facts: Machine): void {
  const commit = describeCommit(join(import.meta.dirname, '../..'))
  const settings = { rounds, durationS: duration, connections, workers }
  const result = { suite: 'throughput', commit, machine: facts, settings, rows: results.map(rounded) }
  const text = `${JSON.stringify(result, null, 2)}\n`
  mkdirSync(dirname(options.out), { recursive: true })
  writeFileSync(options.out, text)
  if (options.output === 'json') {
    process.stdout.write(text)
    return
  }
  const { cpu, cores, kernel, node, load } = facts
  console.log(`${cores} cores of ${cpu}, Linux ${kernel}, Node ${node}, commit ${commit}, load ${load} at the start`)
  console.log(
    `median of ${rounds} rounds of ${duration} s; wrk with ${connections} connections; ${workers} data workers\n`,
  )
  const head = ['', 'Gbit/s', 'ratio', 'CPU s/GB', 'requests/s', 'ratio', 'p50 ms', 'p99 ms', 'CPU s/1000']
  const lines = results.map((row) => [
    row.way,
    row.gbitPerS.toFixed(2),
    row.bulkRatio?.toFixed(2) ?? '',
    row.bulkRatio === null ? '' : row.agentCpuPerGigabyte.toFixed(2),
    row.requestsPerS.toFixed(0),
    row.requestRatio?.toFixed(2) ?? '',
    row.p50Ms.toFixed(2),
    row.p99Ms.toFixed(2),
    row.requestRatio === null ? '' : row.agentCpuPerThousand.toFixed(4),
  ])
  for (const line of [head, ...lines]) {
    console.log(line.map((cell, i) => (i === 0 ? cell.padEnd(20) : cell.padStart(11))).join(''))
  }
}

function rounded(row: Row): Record<string, string | number | null> {
  return Object.fromEntries(
    Object.entries(row).map(([key, value]) => [key, typeof value === 'number' ? Number(value.toPrecision(4)) : value]),
  )
}
