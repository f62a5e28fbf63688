/** What the kernel counts of the connections that it carries, with the real kernel and real processes. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import { after, before, beforeEach, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { EbpfCapture } from '../../src/agent/capture-ebpf.ts'
import { silentLog } from '../../src/base/log.ts'
import type { CapturePrograms } from '../../src/kernel/capture-programs.ts'
import type { EdgeTotals } from '../../src/kernel/edge-map.ts'
import { type CarriedEvent, decodeEvent, type EventRing, eventCount } from '../../src/kernel/event-ring.ts'
import {
  OUTCOME_CLOSED,
  OUTCOME_DENIED,
  OUTCOME_EXPELLED,
  OUTCOME_FAILED,
  OUTCOME_RESET_BY_DESTINATION,
  OUTCOME_RESET_BY_SOURCE,
  STAT_EVENTS_LOST,
} from '../../src/kernel/layout.generated.ts'
import { AnsweringPod, runClient } from '../support/answering-pod.ts'
import { type Ending, TALKER, type Talk, type Talked } from '../support/byte-talker.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'
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
    for (const { ids } of programs.edges.all()) programs.edges.delete(ids)
    readAll()
  })

  after(async () => {
    events?.close()
    for (const pod of pods ?? []) pod.close()
    await capture?.close()
    await network.close()
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
  async function settled(service: number): Promise<EdgeTotals> {
    for (;;) {
      const totals = programs.edges.read(1, 2, service)
      assert.ok(totals !== null)
      const over = totals.ended.reduce((sum, count) => sum + count) - totals.ended[OUTCOME_DENIED]!
      assert.ok(over <= totals.attempted, `${over} of ${totals.attempted} connections have ended`)
      if (over === totals.attempted) return totals
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
    assert.equal(denied, 'connect EPERM')
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

  it('a connection whose app is gone is open until its bytes are taken or given up, and is counted once', async () => {
    const b = network.pod('b')
    const deaf = network.start(b, [process.execPath, TALKER, 'ignore', String(DEAF_PORT)])
    await once(deaf.stdout!, 'data')
    const talks: Talk[] = [{ ending: 'half', sent: 20_000_000, received: 0 }]
    const order = JSON.stringify({ address: VIP_DEAF, port: 80, talks, atOnce: 1 })
    const client = network.start(a, [process.execPath, TALKER, 'talk', order])
    while (capture.carried.socketsOf(1).length === 0) await delay(5)
    client.kill('SIGKILL')
    await once(client, 'exit')
    assert.equal(capture.carried.socketsOf(1).length, 1)
    const { attempted, ended } = programs.edges.read(1, 2, 4)!
    assert.deepEqual([attempted, ended], [1, [0, 0, 0, 0, 0, 0]])
    deaf.kill('SIGKILL')
    const totals = await settled(4)
    assert.equal(totals.ended[OUTCOME_RESET_BY_DESTINATION], 1)
    assert.ok(totals.sent > 0 && totals.sent < 20_000_000, `${totals.sent} bytes were taken`)
    assert.deepEqual(capture.carried.socketsOf(1), [])
    assert.equal(readAll().length, 1)
  })

  it('what a socket that connects anew was before is not counted for what it is then', async () => {
    const [first, , second] = await runClient(network, a, [
      ...['4', 'connect', VIP_CLOSED, '80', 'disconnect'],
      ...['connect', VIP4, '80', 'write', 'half 0 0'],
    ])
    assert.equal(first, 'connect ECONNREFUSED')
    assert.ok(second!.startsWith('connect ok'), second)
    assert.equal((await settled(3)).ended[OUTCOME_FAILED], 1)
    assert.deepEqual((await settled(1)).ended[OUTCOME_CLOSED], 1)
  })

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
})
