/** What the kernel counts of the connections that it carries, with the real kernel and real processes. */
import assert from 'node:assert/strict'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { after, before, beforeEach, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { EbpfCapture } from '../../src/agent/capture-ebpf.ts'
import { CarriedTelemetry } from '../../src/agent/carried-telemetry.ts'
import { silentLog } from '../../src/base/log.ts'
import type { CapturePrograms } from '../../src/kernel/capture-programs.ts'
import { EdgeTotals, ROUND_TRIP_BOUNDS_SECONDS } from '../../src/kernel/edge-map.ts'
import { type CarriedEvent, decodeEvent, type EventRing, eventCount } from '../../src/kernel/event-ring.ts'
import {
  EDGES_MAX,
  EVENT,
  EVENTS_BYTES,
  OUTCOME_CLOSED,
  OUTCOME_DENIED,
  OUTCOME_EXPELLED,
  OUTCOME_FAILED,
  OUTCOME_RESET_BY_DESTINATION,
  OUTCOME_RESET_BY_SOURCE,
  STAT_EDGES_LOST,
  STAT_EVENTS_LOST,
} from '../../src/kernel/layout.generated.ts'
import { AccessLog } from '../../src/telemetry/access-log.ts'
import { MetricsRegistry } from '../../src/telemetry/registry.ts'
import { RoundTrips } from '../../src/telemetry/round-trips.ts'
import { WorkerRecorder } from '../../src/telemetry/worker-recorder.ts'
import { AnsweringPod, runClient } from '../support/answering-pod.ts'
import { type Ending, HELLO, TALKER, type Talk, type Talked } from '../support/byte-talker.ts'
import { FakeNames } from '../support/fake-carried.ts'
import { IDLE_STATE } from '../support/idle-state.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'
import { PrometheusText } from '../support/prometheus-text.ts'
import { workloadOf } from '../support/proxy-objects.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const APP_PORT = 8080
const CLOSED_PORT = 8081
const VIP4 = '198.19.0.1'
const VIP6 = 'fd77:99::1'
/** Nobody listens there. */
const VIP_CLOSED = '198.19.0.2'
/** Who listens there reads nothing. */
const VIP_DEAF = '198.19.0.3'
const DEAF_PORT = 8082

describe('what is counted of carried connections', needsRoot, () => {
  let network: TestNetwork
  let a: TestPod
  let capture: EbpfCapture
  let programs: CapturePrograms
  let events: EventRing
  let pods: AnsweringPod[]

  before(async () => {
    network = TestNetwork.create(['a', 'b'])
    a = network.pod('a')
    const b = network.pod('b')
    const server = network.start(b, [process.execPath, TALKER, 'serve', String(APP_PORT)])
    await once(server.stdout!, 'data')
    const pinDirectory = `/run/${network.prefix}-counts`
    capture = EbpfCapture.open({ cgroupPath: network.cgroupPath, pinDirectory, log: silentLog })
    programs = (capture as unknown as { programs: CapturePrograms }).programs
    pods = [await AnsweringPod.enrol(capture, a), await AnsweringPod.enrol(capture, b, 1, true)]
    for (const [service, address, target, port] of [
      [1, VIP4, b.ipv4, APP_PORT],
      [2, VIP6, b.ipv6, APP_PORT],
      [3, VIP_CLOSED, b.ipv4, CLOSED_PORT],
      [4, VIP_DEAF, b.ipv4, DEAF_PORT],
    ] as const) {
      programs.backends.insert(service, 0, { address: target, port, pod: 2 })
      programs.frontends.insert({ address, port: 80, scope: 1 }, service, 1)
    }
    for (const port of [CLOSED_PORT, DEAF_PORT]) {
      programs.verdicts.insert({ source: 1, destination: 2, port }, true, 0)
    }
    events = programs.openEvents()
  })

  beforeEach(() => {
    programs.verdicts.insert({ source: 1, destination: 2, port: APP_PORT }, true, 0)
    for (const edges of [programs.edges, programs.accountedEdges]) {
      for (const { ids } of edges.all()) edges.delete(ids)
    }
    readAll()
  })

  after(async () => {
    await network?.close(
      () => events?.close(),
      ...(pods ?? []).map((pod) => () => pod.close()),
      () => capture?.close(),
    )
  })

  function readAll(): CarriedEvent[] {
    const found: CarriedEvent[] = []
    for (;;) {
      const records = events.read(1000)
      if (records.length === 0) return found
      for (let i = 0; i < eventCount(records); i++) found.push(decodeEvent(records, i))
    }
  }

  /** The edge's counters once all its connections are over. */
  function settled(service: number): Promise<EdgeTotals> {
    return settledButFor(service, 0)
  }

  async function settledButFor(service: number, open: number): Promise<EdgeTotals> {
    for (;;) {
      const totals = programs.edges.read(1, 2, service)
      assert.ok(totals !== null)
      const over = totals.ended.reduce((sum, count) => sum + count) - totals.ended[OUTCOME_DENIED]!
      assert.ok(over <= totals.attempted, `${over} of ${totals.attempted} connections have ended`)
      if (over + open === totals.attempted) return totals
      await delay(5)
    }
  }

  async function talk(address: string, talks: readonly Talk[], atOnce = 8, repeat = 1): Promise<Talked[]> {
    const order = JSON.stringify({ address, port: 80, talks, atOnce, repeat })
    const { stdout, stderr } = await network.run(a, [process.execPath, TALKER, 'talk', order])
    assert.equal(stderr, '')
    return stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Talked)
  }

  async function eventually(isTrue: () => boolean): Promise<void> {
    while (!isTrue()) await delay(5)
  }

  async function startDeaf(mode: 'ignore' | 'greet'): Promise<ChildProcess> {
    const deaf = network.start(network.pod('b'), [process.execPath, TALKER, mode, String(DEAF_PORT)])
    await once(deaf.stdout!, 'data')
    return deaf
  }

  /** True once the source probes a destination that takes no more: then bytes are waiting, whatever becomes of the app. */
  async function isWindowClosed(): Promise<boolean> {
    const { stdout } = await network.run(a, ['ss', '-Htno', 'dport', '=', String(DEAF_PORT)])
    return stdout.includes('timer:(persist')
  }

  async function end(child: ChildProcess): Promise<void> {
    const gone = once(child, 'exit')
    child.kill('SIGKILL')
    await gone
  }

  for (const [family, vip, service] of [
    ['4', VIP4, 1],
    ['6', VIP6, 2],
  ] as const) {
    it(`bytes are exact both ways, however connections are closed, over IPv${family}`, async () => {
      const random = new SeededRandom(Number(family))
      const endings: readonly Ending[] = ['half', 'server', 'client']
      const talks = Array.from({ length: 150 }, (_, i) => ({
        ending: endings[i % 3]!,
        sent: i < 6 ? 0 : random.integer(0, i % 10 === 9 ? 2_000_000 : 50_000),
        received: i < 9 ? i % 2 : random.integer(0, i % 10 === 8 ? 2_000_000 : 50_000),
      }))
      const talked = await talk(vip, talks)
      const totals = await settled(service)
      assert.deepEqual(talked.filter(({ error }) => error !== '').length, 0)
      assert.equal(totals.opened, talks.length)
      assert.equal(totals.ended[OUTCOME_CLOSED], talks.length)
      const byPort = new Map(readAll().map((event) => [event.source.port, event]))
      for (const { ending, localPort, sent, received } of talked) {
        const event = byPort.get(localPort)
        assert.ok(event !== undefined, `an event for port ${localPort}`)
        assert.deepEqual([ending, event.sent, event.received], [ending, sent, received])
      }
      assert.equal(byPort.size, talks.length)
      const sum = (of: (t: Talked) => number): number => talked.reduce((total, t) => total + of(t), 0)
      assert.equal(
        totals.sent,
        sum(({ sent }) => sent),
      )
      assert.equal(
        totals.received,
        sum(({ received }) => received),
      )
      assert.equal(
        totals.roundTrips.reduce((total, count) => total + count),
        talks.length,
      )
    })
  }

  it('who breaks a connection off is told apart, each is counted once', async () => {
    await talk(VIP4, Array(20).fill({ ending: 'reset-client', sent: 100, received: 10 }))
    assert.equal((await settled(1)).ended[OUTCOME_RESET_BY_SOURCE], 20)
    await talk(VIP4, Array(20).fill({ ending: 'reset-server', sent: 100, received: 10 }))
    const totals = await settled(1)
    assert.equal(totals.ended[OUTCOME_RESET_BY_DESTINATION], 20)
    assert.equal(totals.ended[OUTCOME_RESET_BY_SOURCE], 20)
    assert.equal(totals.received, 200)
    assert.deepEqual(
      new Set(readAll().map(({ outcome }) => outcome)),
      new Set([OUTCOME_RESET_BY_SOURCE, OUTCOME_RESET_BY_DESTINATION]),
    )
  })

  it('a connection that nobody takes is counted as failed', async () => {
    const [refused] = await runClient(network, a, ['4', 'connect', VIP_CLOSED, '80'])
    assert.equal(refused, 'connect ECONNREFUSED')
    const totals = await settled(3)
    assert.deepEqual([totals.opened, totals.attempted, totals.ended[OUTCOME_FAILED]], [0, 1, 1])
    const [event, ...others] = readAll()
    assert.deepEqual(others, [])
    assert.equal(event!.outcome, OUTCOME_FAILED)
    assert.deepEqual(event!.original, { address: VIP_CLOSED, port: 80 })
    assert.equal(event!.destination.port, CLOSED_PORT)
  })

  it('a denial is counted with its policy, and is no attempt', async () => {
    programs.verdicts.insert({ source: 1, destination: 2, port: APP_PORT }, false, 7)
    const [denied] = await runClient(network, a, ['4', 'connect', VIP4, '80'])
    assert.equal(denied, 'connect ECONNREFUSED')
    const totals = await settled(1)
    assert.deepEqual([totals.attempted, totals.ended[OUTCOME_DENIED]], [0, 1])
    const [event] = readAll()
    assert.deepEqual([event!.outcome, event!.policy, event!.sourcePod], [OUTCOME_DENIED, 7, 1])
  })

  it('a connection that is broken off while policy denies it is told apart', async () => {
    const client = network.start(a, [
      process.execPath,
      TALKER,
      'talk',
      JSON.stringify({ address: VIP4, port: 80, talks: [{ ending: 'stay', sent: 5, received: 5 }], atOnce: 1 }),
    ])
    await once(client.stdout!, 'data')
    programs.verdicts.insert({ source: 1, destination: 2, port: APP_PORT }, false, 7)
    await network.run(a, ['ss', '-K', 'dport', '=', String(APP_PORT)])
    assert.equal((await settled(1)).ended[OUTCOME_EXPELLED], 1)
    const [event] = readAll()
    assert.deepEqual([event!.outcome, event!.policy], [OUTCOME_EXPELLED, 7])
    client.kill('SIGKILL')
  })

  for (const [family, vip, service] of [
    ['4', VIP4, 1],
    ['6', VIP6, 2],
  ] as const) {
    it(`open connections show exact bytes, both ends and a round trip, over IPv${family}`, async () => {
      const talks: Talk[] = [
        { ending: 'stay', sent: 70_000, received: 3 },
        { ending: 'stay', sent: 0, received: 200_000 },
      ]
      const order = JSON.stringify({ address: vip, port: 80, talks, atOnce: 2 })
      const client = network.start(a, [process.execPath, TALKER, 'talk', order])
      const lines = createInterface({ input: client.stdout! })[Symbol.asyncIterator]()
      const talked = [JSON.parse((await lines.next()).value!), JSON.parse((await lines.next()).value!)] as Talked[]
      const open = capture.carried.socketsOf(1)
      assert.equal(open.length, 2)
      for (const { localPort, sent, received } of talked) {
        const socket = open.find(({ source }) => source.port === localPort)!
        assert.deepEqual([socket.sent, socket.received], [sent, received])
        assert.deepEqual(socket.source.address, family === '4' ? a.ipv4 : a.ipv6)
        assert.deepEqual(socket.original, { address: vip, port: 80 })
        assert.deepEqual([socket.sourcePod, socket.destinationPod, socket.service], [1, 2, service])
        assert.ok(socket.roundTripUs > 0)
        assert.ok(BigInt(socket.openedNs) < process.hrtime.bigint())
      }
      assert.equal(programs.edges.read(1, 2, service)!.sent, 0, 'counted at the end')
      client.stdin!.write('\n')
      const totals = await settled(service)
      assert.equal(totals.sent, talked[0]!.sent + talked[1]!.sent)
      assert.deepEqual(capture.carried.socketsOf(1), [])
      assert.deepEqual(capture.carried.socketsOf(99), [])
    })
  }

  it('a connection that the client alone has closed is over, and its bytes are exact', async () => {
    const deaf = await startDeaf('greet')
    const talks: Talk[] = [{ ending: 'client', sent: 1_000, received: HELLO.length }]
    const [talked] = await talk(VIP_DEAF, talks)
    const totals = await settled(4)
    assert.deepEqual([totals.sent, totals.received], [talked!.sent, HELLO.length])
    assert.equal(totals.ended[OUTCOME_CLOSED], 1)
    await end(deaf)
  })

  it('a connection whose app is gone is open until its bytes are taken or given up, and is counted once', async () => {
    const deaf = await startDeaf('ignore')
    const talks: Talk[] = [{ ending: 'half', sent: 20_000_000, received: 0 }]
    const order = JSON.stringify({ address: VIP_DEAF, port: 80, talks, atOnce: 1 })
    const client = network.start(a, [process.execPath, TALKER, 'talk', order])
    // More than the destination takes: its window is closed, and the rest waits at the source.
    while (!(await isWindowClosed())) await delay(5)
    await end(client)
    assert.equal(capture.carried.socketsOf(1).length, 1)
    const { attempted, ended } = programs.edges.read(1, 2, 4)!
    assert.deepEqual([attempted, ended], [1, [0, 0, 0, 0, 0, 0]])
    await end(deaf)
    const totals = await settled(4)
    assert.equal(totals.ended[OUTCOME_RESET_BY_DESTINATION], 1)
    assert.ok(totals.sent > 0 && totals.sent < 20_000_000, `${totals.sent} bytes were taken`)
    assert.deepEqual(capture.carried.socketsOf(1), [])
    assert.equal(readAll().length, 1)
  })

  it('what a socket that connects anew was before is not counted for what it is then', async () => {
    const own = network.start(a, [process.execPath, TALKER, 'serve', String(APP_PORT)])
    await once(own.stdout!, 'data')
    const [failed, , carried, , loopback] = await runClient(network, a, [
      ...['4', 'connect', VIP_CLOSED, '80', 'disconnect'],
      ...['connect', VIP4, '80', 'disconnect'],
      ...['connect', '127.0.0.1', String(APP_PORT)],
    ])
    assert.equal(failed, 'connect ECONNREFUSED')
    assert.ok(carried!.endsWith(`remote ${VIP4}:80`), carried)
    assert.ok(loopback!.endsWith(`remote 127.0.0.1:${APP_PORT}`), loopback)
    assert.equal((await settled(3)).ended[OUTCOME_FAILED], 1)
    assert.deepEqual((await settled(1)).attempted, 1)
    assert.equal(readAll().length, 2)
    await end(own)
  })

  for (const [kind, family, address] of [
    ['MPTCP sockets', 'mptcp', VIP4],
    ['IPv4 addresses dialled from IPv6 sockets', '6', `::ffff:${VIP4}`],
  ] as const) {
    it(`bytes of ${kind} are exact, too`, async () => {
      const [connect] = await runClient(network, a, [
        family,
        'connect',
        address,
        '80',
        'write',
        'stay 4 0',
        'write',
        'abc',
      ])
      assert.ok(connect!.startsWith('connect ok'), connect)
      const totals = await settled(1)
      assert.deepEqual([totals.attempted, totals.opened, totals.sent], [1, 1, 'stay 4 0\nabc\n'.length])
      const [event, ...others] = readAll()
      assert.deepEqual(others, [])
      assert.equal(event!.source.address, a.ipv4)
    })
  }

  it('10,000 short connections as fast as they can be made are all counted, whoever reads the events', async () => {
    const before = programs.stats.read(STAT_EVENTS_LOST)
    const talks: Talk[] = [{ ending: 'server', sent: 1, received: 1 }]
    const talked = (await Promise.all([talk(VIP4, talks, 32, 5_000), talk(VIP6, talks, 32, 5_000)])).flat()
    assert.equal(talked.filter(({ error }) => error !== '').length, 0)
    const totals = [await settled(1), await settled(2)]
    assert.deepEqual(
      totals.map(({ opened, ended }) => [opened, ended[OUTCOME_CLOSED]]),
      [
        [5_000, 5_000],
        [5_000, 5_000],
      ],
    )
    const found = readAll()
    assert.equal(found.length + programs.stats.read(STAT_EVENTS_LOST) - before, 10_000)
    assert.equal(
      totals.reduce((sum, { sent }) => sum + sent, 0),
      talked.reduce((sum, { sent }) => sum + sent, 0),
    )
  })

  it('events that find the ring full are counted as lost, and all counters are right', async () => {
    const before = programs.stats.read(STAT_EVENTS_LOST)
    // Each event takes 8 bytes more than its struct.
    const count = EVENTS_BYTES / (EVENT.bytes + 8) + 1_000
    programs.verdicts.insert({ source: 1, destination: 2, port: APP_PORT }, false, 7)
    const [failed] = await runClient(network, a, ['4', 'attempts', VIP4, '80', String(count)])
    assert.equal(failed, `attempts failed ${count}`)
    assert.equal((await settled(1)).ended[OUTCOME_DENIED], count)
    const lost = programs.stats.read(STAT_EVENTS_LOST) - before
    assert.ok(lost >= 1_000, `${lost} events found no room`)
    assert.equal(readAll().length, count - lost)
    await runClient(network, a, ['4', 'attempts', VIP4, '80', '1'])
    assert.equal(readAll().length, 1, 'there is room again')
  })

  it('connections that find no room for their edge are counted as lost, and carried and logged all the same', async () => {
    const before = programs.stats.read(STAT_EDGES_LOST)
    for (let source = 1; source <= EDGES_MAX; source++) {
      programs.edges.write({ source: 100_000 + source, destination: 2, service: 1 }, new EdgeTotals())
    }
    const [talked] = await talk(VIP4, [{ ending: 'server', sent: 10, received: 10 }])
    assert.equal(talked!.error, '')
    await eventually(() => readAll().length === 1)
    assert.equal(programs.stats.read(STAT_EDGES_LOST) - before, 1)
    assert.equal(programs.edges.all().length, EDGES_MAX)
    assert.equal(programs.edges.read(1, 2, 1), null)
  })

  it('a pod whose network namespace goes with open connections is counted to the end', async () => {
    const c = network.addPod('c')
    const pod = await AnsweringPod.enrol(capture, c)
    const number = capture.carrier!.numberOf(pod.uid)!
    programs.verdicts.insert({ source: number, destination: 2, port: APP_PORT }, true, 0)
    const order = JSON.stringify({
      address: VIP4,
      port: 80,
      talks: [{ ending: 'stay', sent: 5, received: 5 }],
      atOnce: 1,
    })
    const client = network.start(c, [process.execPath, TALKER, 'talk', order])
    await once(client.stdout!, 'data')
    network.deletePod('c')
    await end(client)
    pod.close()
    await capture.withdraw(pod.uid)
    await eventually(() => programs.edges.read(number, 2, 1)?.ended[OUTCOME_CLOSED] === 1)
    const totals = programs.edges.read(number, 2, 1)!
    assert.deepEqual([totals.attempted, totals.opened, totals.received], [1, 1, 5])
    await eventually(() => !network.nodeHas('v3'))
    assert.equal(readAll().length, 1)
  })

  it('who reads after another counts and logs what happened in between, once', async () => {
    const lines: string[] = []
    const opened: number[] = []
    const received: number[] = []
    const names = new FakeNames()
    names.pods.set(1, workloadOf('a')).set(2, workloadOf('b'))
    events.close()
    const talks: Talk[] = [{ ending: 'client', sent: 1_000, received: 10 }]
    const stay = JSON.stringify({
      address: VIP4,
      port: 80,
      talks: [{ ending: 'stay', sent: 500, received: 5 }],
      atOnce: 1,
    })
    const staying = network.start(a, [process.execPath, TALKER, 'talk', stay])
    await once(staying.stdout!, 'data')
    let sent = 'stay 500 5\n'.length + 500
    for (let reader = 0; reader < 3; reader++) {
      const log = new AccessLog((text) => lines.push(...text.trimEnd().split('\n')))
      const recorder = new WorkerRecorder(log)
      const telemetry = new CarriedTelemetry({
        kernel: capture.carried,
        names,
        recorder,
        roundTrips: new RoundTrips(ROUND_TRIP_BOUNDS_SECONDS, Date.now),
        clock: { now: Date.now, monotonicNs: () => Number(process.hrtime.bigint()) },
        log: silentLog,
        areNamesKnown: () => true,
      })
      for (const { sent: bytes } of await talk(VIP4, talks, 4, 25)) sent += bytes
      if (reader === 2) {
        staying.stdin!.write('\n')
        await settled(1)
      }
      // Stopping in order is as good as being killed after a look at the counters: `accounted` is written then.
      await telemetry.stop()
      log.flush()
      const registry = new MetricsRegistry({ component: 'weft', version: '1', now: Date.now })
      registry.merge(-1, recorder.collect())
      const text = new PrometheusText(await registry.render(IDLE_STATE))
      const labels = { reporter: 'destination', response_flags: '-' }
      opened.push(text.value('istio_tcp_connections_opened_total', labels))
      received.push(text.value('istio_tcp_received_bytes_total', labels))
      // Nobody reads now.
      if (reader < 2) for (const { sent: bytes } of await talk(VIP4, talks, 4, 25)) sent += bytes
      await settledButFor(1, reader < 2 ? 1 : 0)
    }
    assert.deepEqual(opened, [26, 50, 50])
    const total = await settled(1)
    assert.equal(total.sent, sent)
    assert.equal(
      received.reduce((sum, bytes) => sum + bytes),
      sent,
    )
    assert.equal(lines.length, 126)
    events = programs.openEvents()
  })
})
