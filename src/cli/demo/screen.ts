/** What the demo shows: one row per edge, the verdicts, and what to try. Pure text; the caller decides when to draw. */
import type { Paint } from '../output.ts'
import { tableText } from '../output.ts'
import type { CheckResult } from './checks.ts'
import type { Edge } from './edges.ts'
import { type DemoPlan, podNamed, serviceNamed } from './plan.ts'
import type { WireReport } from './wire.ts'

export interface Picture {
  readonly plan: DemoPlan
  readonly runDirectory: string
  readonly enterScript: string
  readonly uptimeMs: number
  /** Edges of the last `spanMs`. */
  readonly edges: readonly Edge[]
  readonly spanMs: number
  readonly checks: readonly CheckResult[]
  readonly areChecksDone: boolean
  readonly wire: WireReport | null
}

/** The whole screen, with or without what to try. */
export function screenText(picture: Picture, hasSuggestions: boolean, paint: Paint): string {
  const { plan, uptimeMs } = picture
  const title = `Weft demo  ${plan.nodes.length} nodes, ${plan.pods.length} pods, ${plan.kind} capture, up ${clock(uptimeMs)}`
  const parts = [
    `${paint.bold(title)}\n`,
    edgesText(picture.edges, picture.spanMs, plan, paint),
    verdictText(picture, paint),
  ]
  if (hasSuggestions) parts.push(`${paint.bold('Try')}\n${suggestions(picture)}`)
  return parts.join('\n')
}

/** One row per edge. Shares are among the pods of one service that have the same caller. */
export function edgesText(edges: readonly Edge[], spanMs: number, plan: DemoPlan, paint: Paint): string {
  const header = ['EDGE', 'PROTOCOL', 'REQ/S', 'SUCCESS', 'P50 MS', 'P99 MS', 'MTLS', 'SHARE']
  if (edges.length === 0) return `${paint.dim('no traffic yet')}\n`
  const rows = edges.map((edge) => [
    `${edge.source} -> ${edge.destination}`,
    edge.protocol,
    ((edge.requests * 1000) / spanMs).toFixed(1),
    edge.requests === 0 ? '-' : `${(100 * (1 - Math.min(1, edge.errors / edge.requests))).toFixed(1)} %`,
    edge.p50Ms?.toFixed(1) ?? '-',
    edge.p99Ms?.toFixed(1) ?? '-',
    edge.mutualTls ? 'yes' : 'no',
    shareOf(edge, edges, plan),
  ])
  const [head, ...lines] = tableText([header, ...rows], [2, 3, 4, 5, 7]).split('\n')
  const painted = lines.slice(0, rows.length).map((line, i) => (edges[i]!.errors > 0 ? paint.bad(line) : line))
  return `${[paint.dim(head!), ...painted].join('\n')}\n`
}

function shareOf(edge: Edge, edges: readonly Edge[], plan: DemoPlan): string {
  const app = appOf(edge.destination, plan)
  if (plan.pods.filter((pod) => pod.labels['app'] === app).length < 2) return ''
  const siblings = edges.filter((other) => other.source === edge.source && appOf(other.destination, plan) === app)
  const total = siblings.reduce((sum, { requests }) => sum + requests, 0)
  return total === 0 ? '' : `${Math.round((100 * edge.requests) / total)} %`
}

function appOf(workload: string, plan: DemoPlan): string {
  return plan.pods.find(({ name }) => name === workload)?.labels['app'] ?? workload
}

function verdictText(picture: Picture, paint: Paint): string {
  const { checks, areChecksDone, wire } = picture
  const failed = checks.filter(({ ok }) => !ok)
  const held = `${checks.length - failed.length} of ${checks.length} checks hold${areChecksDone ? '' : ' so far'}`
  const lines = [failed.length === 0 ? paint.good(held) : paint.bad(held)]
  for (const { name, detail } of failed) lines.push(paint.bad(`  ${name}: ${detail}`))
  if (wire !== null) {
    const text = `Between the nodes: ${wire.segments} TCP segments, ${wire.records} TLS records, ${wire.offences} not TLS${wire.isCut ? ' (enough seen, no longer watched)' : ''}`
    lines.push(wire.offences === 0 ? paint.good(text) : paint.bad(text))
  }
  return `${lines.join('\n')}\n`
}

/** The results of checks, one line each. */
export function checksText(checks: readonly CheckResult[], paint: Paint): string {
  return checks
    .map(({ name, ok, detail }) => `${ok ? paint.good('ok     ') : paint.bad('FAILED ')} ${name}: ${detail}\n`)
    .join('')
}

function suggestions({ plan, runDirectory, enterScript }: Picture): string {
  const rules = `${runDirectory}/mesh/routing.yaml`
  const change = [`edit ${rules}`, 'change a weight, save, watch the shares']
  const logs = [`ls ${runDirectory}/logs`, 'what every part says']
  if (plan.kind === 'loopback') {
    const client = podNamed(plan, 'client').addresses[0]!
    const page = serviceNamed(plan, 'productpage').addresses[0]!
    const reviews = serviceNamed(plan, 'reviews').addresses[0]!
    return indented([
      [`curl --interface ${client} http://${page}:9080/productpage`, 'as the client pod'],
      [`curl --interface ${client} -H 'end-user: jason' http://${reviews}:9080/reviews/0`, 'always v2'],
      change,
      [`curl -s http://${plan.nodes[0]!.address}:15020/metrics`, 'metrics of node1'],
      logs,
    ])
  }
  const details = podNamed(plan, 'details').addresses[0]!
  const echo = podNamed(plan, 'tcp-echo').addresses[0]!
  const { netns } = plan.nodes[0]!
  return indented([
    [`${enterScript} client curl -s http://productpage:9080/productpage`, 'from inside a pod'],
    [`${enterScript} client curl -s -H 'end-user: jason' http://reviews:9080/reviews/0`, 'always v2'],
    [`${enterScript} client curl -si -X DELETE http://details:9080/details/0`, 'denied: 403'],
    [`${enterScript} outsider curl -s http://${details}:9080/details/0`, 'PERMISSIVE takes plaintext'],
    [`${enterScript} outsider curl -s telnet://${echo}:9000`, 'STRICT does not'],
    change,
    [`ip netns exec ${netns} curl -s http://127.0.0.1:15020/metrics`, 'metrics of node1'],
    [`ip netns exec ${netns} tcpdump -ni wire -A`, 'what goes over the wire'],
    logs,
  ])
}

function indented(rows: readonly (readonly string[])[]): string {
  const width = Math.max(...rows.map(([command]) => command!.length))
  return rows.map(([command, meaning]) => `  ${command!.padEnd(width)}  # ${meaning}\n`).join('')
}

function clock(ms: number): string {
  const seconds = Math.floor(ms / 1000)
  const minutes = Math.floor(seconds / 60)
  return `${String(minutes).padStart(2, '0')}:${String(seconds % 60).padStart(2, '0')}`
}
