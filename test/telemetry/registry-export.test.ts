import assert from 'node:assert/strict'
import test from 'node:test'
import { TCP_LABELS } from '../../src/telemetry/catalogue.ts'
import { MetricsRegistry } from '../../src/telemetry/registry.ts'
import { RegistryExport } from '../../src/telemetry/registry-export.ts'
import type { MetricsReport } from '../../src/telemetry/report.ts'
import { UdpTraffic } from '../../src/telemetry/udp-traffic.ts'
import { IDLE_STATE } from '../support/idle-state.ts'
import { workloadOf } from '../support/proxy-objects.ts'

const settings = { component: 'proxy', version: '1', now: () => 0 }

/** A report of TCP series: their first label, and what is added to the bytes received. */
function reportOf(bytes: Readonly<Record<string, number>>, isNew: boolean): MetricsReport {
  const names = Object.keys(bytes)
  const labels = (name: string): string[] => TCP_LABELS.map((_, index) => (index === 0 ? name : ''))
  return {
    newSeries: isNew ? names.map((name, id) => ({ id, kind: 1, labels: labels(name) })) : [],
    retired: [],
    httpIds: new Uint32Array(0),
    httpValues: new Float64Array(0),
    tcpIds: Uint32Array.from(names.keys()),
    tcpValues: Float64Array.from(Object.values(bytes).flatMap((count) => [count, 0, 0, 0])),
    messageIds: new Uint32Array(0),
    messageValues: new Float64Array(0),
    droppedEdges: 1,
    foldedOutcomes: 0,
    droppedLogLines: 0,
    violations: [{ side: 'downstream', reason: 'bad', count: 2 }],
    dns: {
      queries: [{ source: 'mesh', result: 'answered', count: 3 }],
      failures: [],
      receivedDropped: 4,
      sentDropped: 0,
    },
  }
}

/** The lines of the families that reports fill. */
async function linesOf(registry: MetricsRegistry): Promise<string[]> {
  const text = await registry.render(IDLE_STATE)
  return text
    .split('\n')
    .filter((line) => /^(istio_tcp_received|weft_metrics_edges|weft_http_viol|weft_dns_[dq])/.test(line))
}

test('UDP is told like everything else, in several reports, to one that has counted some itself', async () => {
  const [udp, later] = [new UdpTraffic(settings.now), new UdpTraffic(settings.now)]
  const counted = new RegistryExport(new MetricsRegistry({ ...settings, udp }), 2)
  const to = new MetricsRegistry({ ...settings, udp: later })
  const pods = ['a', 'b', 'c', 'd', 'e'].map((name) => workloadOf(name, { workloadName: `${name} "quoted"` }))
  const pass = (traffic: UdpTraffic, bytes: number): void => {
    for (const source of pods) traffic.add({ isSent: true, source, destination: null, service: null }, bytes, 1)
    traffic.add({ isSent: false, source: pods[0]!, destination: pods[1]!, service: null }, bytes, 1)
  }
  pass(later, 100)
  for (const bytes of [10, 1]) {
    pass(udp, bytes)
    const reports = await counted.take()
    assert.deepEqual(
      reports.map((report) => report.udp?.counts.length ?? 0),
      [0, 2, 2, 2],
    )
    for (const report of reports) to.merge(-2, report)
  }
  assert.equal((await counted.take()).length, 1, 'nothing new')
  const expected = new UdpTraffic(settings.now)
  for (const bytes of [100, 10, 1]) pass(expected, bytes)
  assert.equal(later.render(), expected.render())
  assert.match(later.render(), /weft_udp_sent_bytes_total\{.*a \\"quoted\\".* 111\n/)
})

test('UDP with labels that are not ours counts under unknown ones', () => {
  const udp = new UdpTraffic(settings.now)
  udp.merge({ counts: [{ isSent: true, labels: ['source'], bytes: 5, packets: 1 }], overflows: 2 })
  assert.match(udp.render(), /weft_udp_sent_bytes_total\{reporter="source",source_workload="unknown".* 5\n/)
  assert.match(udp.render(), /weft_udp_overflows_total 2\n/)
})

test('a registry that gets everything of another, and then what is added, shows the same', async () => {
  const [from, to] = [new MetricsRegistry(settings), new MetricsRegistry(settings)]
  const counted = new RegistryExport(from, 2)
  const names = ['plain', 'quote " and \\ and\nline', 'c', 'd', 'e']
  for (const round of [1, 2, 3]) {
    from.merge(7, reportOf(Object.fromEntries(names.map((name, index) => [name, round * (index + 1)])), round === 1))
    const reports = await counted.take()
    if (round === 1) assert.equal(reports.length > 2, true, 'in several reports')
    for (const report of reports) to.merge(-2, report)
    const [expected, shown] = [await linesOf(from), await linesOf(to)]
    assert.ok(expected.length > names.length)
    assert.deepEqual(shown, expected)
  }
  for (const report of await counted.take()) {
    assert.deepEqual([report.newSeries.length, report.tcpIds.length, report.droppedEdges], [0, 0, 0])
  }
})
