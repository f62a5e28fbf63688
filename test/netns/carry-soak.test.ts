/**
 * Very many TCP connections between pods of one node, on every way that they can take: carried by the kernel, relayed by
 * the proxy, and through a tunnel. Every byte is checked at both ends, and nothing of them stays.
 */
import assert from 'node:assert/strict'
import { closeSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { manifests } from '../../src/cli/demo/manifests.ts'
import { run } from '../../src/cli/demo/shell.ts'
import { HELD_BYTES_FREE } from '../../src/http/h2/limits.ts'
import { loadAddon } from '../../src/kernel/addon.ts'
import { EdgeMap } from '../../src/kernel/edge-map.ts'
import { OUTCOME_DENIED } from '../../src/kernel/layout.generated.ts'
import { KernelMap } from '../../src/kernel/maps.ts'
import { TUNNELS_MAX } from '../../src/proxy/hbone-client.ts'
import { BACKLOG_HIGH } from '../../src/transport/conn.ts'
import { LiveMesh } from '../support/live-mesh.ts'
import { needsRoot } from '../support/netns.ts'
import { PrometheusText } from '../support/prometheus-text.ts'
import { Soak } from '../support/soak.ts'
import type { CallOrder, Course, Tally } from '../support/soak-program.ts'

const AGENT = 'agent-node1'

/** Ports of the programs: connections to the first are carried, to the second relayed. */
const CARRIED = 7100
const RELAYED = 7200

type Way = 'carried' | 'relayed' | 'tunnelled'

const ENDINGS: readonly Course[] = ['client', 'server', 'both', 'reset-client', 'reset-server']

/** Of the reactor (native/addon/reactor.h). */
const READ_BYTES_MAX = 262_144

/** What the proxy holds of one direction of a connection at most: its backlog, and what one read adds to it. */
const HELD_BYTES_MAX = BACKLOG_HIGH + READ_BYTES_MAX

/** What the agent's memory may grow by for other reasons: garbage that waits for its collector, code that is compiled. */
const OTHER_GROWTH_BYTES = 48 * 1_048_576

const DEAF: readonly Course[] = ['deaf-client', 'deaf-server']
const DEAF_COUNT = 200

/** Connections that come while others stand still. */
const OTHERS_COUNT = 100

/** Of each connection whose reader stops: much more than the sockets on its way and the proxy may take together. */
const DEAF_BYTES = 4_194_304

/** For connections whose reader stops: left alone, buffers of the kernel grow until they take all of DEAF_BYTES. */
const SMALL_BUFFERS: readonly [string, string][] = [
  ['net.ipv4.tcp_wmem', '4096 16384 262144'],
  ['net.ipv4.tcp_rmem', '4096 131072 262144'],
]

/** What the kernel puts into a socket's queue at once: the queue may be too long by one of these. */
const SEGMENT_BYTES_MAX = 65_536

/** See `ss -m`. */
interface Queues {
  readonly unread: number
  readonly unsent: number
  readonly receiveBuffer: number
  readonly sendBuffer: number
}

function service(name: string, pod: string, namespace: string, targetPort: number, host: number): string {
  return `
apiVersion: v1
kind: Service
metadata: { name: ${name}, namespace: ${namespace} }
spec:
  clusterIP: 198.19.0.${host}
  clusterIPs: ["198.19.0.${host}", "fd77:ffff::${host}"]
  selector: { app: ${pod} }
  ports: [{ name: tcp-soak, port: 80, targetPort: ${targetPort} }]
---`
}

/** Limits are for somebody who watches the connection: the proxy. */
function limited(name: string): string {
  return `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: ${name}, namespace: default }
spec: { host: ${name}, trafficPolicy: { connectionPool: { tcp: { maxConnections: 100000 } } } }
---`
}

const HOSTS: Readonly<Record<string, number>> = {
  'left-carried': 100,
  'right-carried': 101,
  'left-relayed': 102,
  'right-relayed': 103,
  sealed: 104,
  'brief-carried': 105,
  'brief-relayed': 106,
}

const RULES = [
  ...['left', 'right', 'brief'].flatMap((pod) => [
    service(`${pod}-carried`, pod, 'default', CARRIED, HOSTS[`${pod}-carried`]!),
    service(`${pod}-relayed`, pod, 'default', RELAYED, HOSTS[`${pod}-relayed`]!),
    limited(`${pod}-relayed`),
  ]),
  service('sealed', 'sealed', 'vault', CARRIED, HOSTS['sealed']!),
  `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: vault }
spec: { mtls: { mode: STRICT } }
`,
].join('')

describe('thousands of TCP connections on one node', needsRoot, () => {
  const addon = loadAddon()
  let mesh: LiveMesh
  const servers = new Map<string, Soak>()
  let nextId = 1

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'left', node: 'node1' },
        { name: 'right', node: 'node1' },
        { name: 'sealed', node: 'node1', namespace: 'vault' },
      ],
      rules: { 'soak.yaml': RULES },
    })
    await encryptVault()
    for (const pod of ['left', 'right', 'sealed']) servers.set(pod, await Soak.serve(mesh, pod, CARRIED, RELAYED))
  })

  after(async () => {
    await Promise.allSettled([...servers.values()].map((server) => server.kill()))
    await mesh?.close()
  })

  /** `writeObjects` of the mesh takes it back. */
  async function encryptVault(): Promise<void> {
    const namespaces = manifests(mesh.plan).get('namespaces.yaml')!
    mesh.writeRules(
      'namespaces.yaml',
      namespaces.replace('name: vault\n', '$&  annotations: { weft.dev/encrypt-same-node: "true" }\n'),
    )
    await mesh.eventually('the agent knows', async () => {
      const { pods } = (await mesh.configDump('node1')) as { pods: { uid: string; mustEncrypt?: boolean }[] }
      return pods.some(({ uid, mustEncrypt }) => uid.includes('/vault/') && mustEncrypt === true)
    })
  }

  // --- calls ---

  /** Where a pod's server is found on that way: its service in both families, and its own addresses if it can be. */
  function targetsOf(pod: string, way: Way): { host: string; port: number }[] {
    const number = HOSTS[way === 'tunnelled' ? pod : `${pod}-${way}`]!
    const vips = [`198.19.0.${number}`, `fd77:ffff::${number}`].map((host) => ({ host, port: 80 }))
    if (way === 'relayed') return vips
    return [...vips, ...mesh.plan.pod(pod).addresses.map((host) => ({ host, port: CARRIED }))]
  }

  function call(from: string, to: string, way: Way, order: Partial<CallOrder> & { count: number }): Soak {
    const firstId = nextId
    nextId += order.count
    const targets = targetsOf(to, way)
    return Soak.call(mesh, from, { seed: firstId, firstId, atOnce: 48, targets, courses: ENDINGS, ...order })
  }

  /** Clients and the servers that they called have seen `count` calls, all of them right. */
  async function assertGood(results: readonly Tally[], called: readonly string[], count: number): Promise<void> {
    const over = (): Promise<Tally[]> => Promise.all(called.map((pod) => servers.get(pod)!.tally()))
    const before = calls
    let seen = await over()
    await mesh.eventually('the servers are done', async () => {
      seen = await over()
      return seen.every(({ begun, over: ended }) => begun === ended)
    })
    calls = new Map([...before, ...called.map((pod, i) => [pod, seen[i]!] as const)])
    const grown = called.map((pod, i) => seen[i]!.good - (before.get(pod)?.good ?? 0))
    assert.deepEqual(
      [...results, ...seen].flatMap(({ complaints }) => complaints),
      [],
    )
    assert.equal(
      sum(results, ({ good }) => good),
      count,
    )
    assert.equal(
      grown.reduce((total, good) => total + good),
      count,
    )
    assert.equal(
      sum(seen, ({ repeated }) => repeated),
      0,
    )
  }
  let calls = new Map<string, Tally>()

  // --- what the agent and the kernel know ---

  interface Counted {
    readonly opened: number
    readonly closed: number
    readonly received: number
    readonly sent: number
  }

  async function counted(reporter: string): Promise<Counted> {
    const text = new PrometheusText(await mesh.metrics('node1'))
    const of = (family: string): number =>
      text.find(`istio_tcp_${family}_total`, { reporter }).reduce((total, { value }) => total + value, 0)
    return {
      opened: of('connections_opened'),
      closed: of('connections_closed'),
      received: of('received_bytes'),
      sent: of('sent_bytes'),
    }
  }

  const both = (): Promise<Counted[]> => Promise.all(['source', 'destination'].map(counted))

  /** Both reporters have counted these calls since `before`, to the byte. */
  async function assertCounted(before: readonly Counted[], results: readonly Tally[], count: number): Promise<void> {
    let now = before
    const grown = (): Counted[] =>
      now.map((counts, i) => ({
        opened: counts.opened - before[i]!.opened,
        closed: counts.closed - before[i]!.closed,
        received: counts.received - before[i]!.received,
        sent: counts.sent - before[i]!.sent,
      }))
    await mesh.eventually(
      'all are counted as closed',
      async () => {
        now = await both()
        return grown().every(({ closed }) => closed >= count)
      },
      () => JSON.stringify(grown()),
    )
    const expected = {
      opened: count,
      closed: count,
      received: sum(results, ({ taken }) => taken),
      sent: sum(results, ({ received }) => received),
    }
    assert.deepEqual(grown(), [expected, expected])
  }

  function readMap<T>(name: string, read: (map: KernelMap) => T): T {
    const fd = addon.openPinned(join(mesh.pinDirectory('node1'), 'maps', name))
    try {
      return read(new KernelMap(addon, fd))
    } finally {
      closeSync(fd)
    }
  }

  /** Entries of a pinned map. */
  function entriesOf(name: string): number {
    const keyBytes = readMap(name, ({ fd }) => addon.describeMap(fd).keyBytes)
    return readMap(name, (map) => map.readAll().keys.length / keyBytes)
  }

  /** Connections that the edges take for open. */
  function openOfEdges(): number {
    return readMap('edges', (map) => new EdgeMap(map).all()).reduce((total, { totals }) => {
      const ended = totals.ended.reduce((all, ended, outcome) => all + (outcome === OUTCOME_DENIED ? 0 : ended), 0)
      return total + totals.attempted - ended
    }, 0)
  }

  const descriptors = (): number => readdirSync(`/proc/${mesh.pid(AGENT)}/fd`).length

  /** Nothing of any connection is left in the kernel and in the agent, which has as many descriptors as before. */
  async function assertNothingLeft(descriptorsBefore: number): Promise<void> {
    let left: readonly unknown[] = []
    await mesh.eventually(
      'nothing is left',
      async () => {
        const shown = JSON.parse(await mesh.get('node1', 15_000, '/connections')) as unknown[]
        const open = await mesh.metric('node1', 'weft_carried_open_connections')
        left = [entriesOf('flows'), openOfEdges(), open, shown.length, Math.max(0, descriptors() - descriptorsBefore)]
        return left.every((count) => count === 0)
      },
      () => `flows, open of edges, open in metrics, shown, descriptors: ${left}`,
    )
  }

  // --- every way, every ending ---

  for (const [way, count, pairs] of [
    ['carried', 10_000, ['left right', 'right left']],
    ['relayed', 10_000, ['left right', 'right left']],
    ['tunnelled', 2_000, ['left sealed', 'right sealed']],
  ] as const) {
    it(`${count} that are ${way} are whole at both ends, counted to the byte, and leave nothing`, async () => {
      const warm = await Promise.all(pairs.map((pair) => callPair(pair, way, 20)))
      await assertGood(warm, [...new Set(pairs.map((pair) => pair.split(' ')[1]!))], 40)
      await assertNothingLeft(Infinity)
      const descriptorsBefore = way === 'tunnelled' ? Infinity : descriptors()
      const [before, carriedBefore] = [await both(), await mesh.metric('node1', 'weft_carried_connections_total')]
      const results = await Promise.all(pairs.map((pair) => callPair(pair, way, count / 2)))
      await assertGood(results, [...new Set(pairs.map((pair) => pair.split(' ')[1]!))], count)
      await assertCounted(before, results, count)
      const carried = (await mesh.metric('node1', 'weft_carried_connections_total')) - carriedBefore
      assert.equal(carried, way === 'carried' ? count : 0)
      await assertNothingLeft(descriptorsBefore)
    })
  }

  // --- readers that stop ---

  for (const [way, to, count] of [
    ['carried', 'right', DEAF_COUNT],
    ['relayed', 'right', DEAF_COUNT],
    ['tunnelled', 'sealed', DEAF_COUNT],
  ] as const) {
    it(`${count} readers that stop hold their ${way} senders up, and nobody else; then they get everything`, async () => {
      const before = await both()
      const buffers = await setBuffers(SMALL_BUFFERS)
      resetPeak()
      const residentBefore = resident('VmRSS')
      const client = call('left', to, way, { count, courses: DEAF, bytes: DEAF_BYTES })
      await client.reached()
      const ends = [client, servers.get(to)!]
      await standsStill(ends)
      const sockets = [...(await queuesOf('left')), ...(await queuesOf(to))]
      const others = await callPair(`left ${to}`, way, OTHERS_COUNT)
      for (const end of ends) end.go()
      const result = await client.result()
      const grown = resident('VmHWM') - residentBefore
      await setBuffers(buffers)
      await assertGood([result, others], [to], count + OTHERS_COUNT)
      await assertCounted(before, [result, others], count + OTHERS_COUNT)
      await assertNothingLeft(Infinity)
      const held = {
        carried: 0,
        relayed: count * HELD_BYTES_MAX,
        // At both ends of each HTTP/2 connection.
        tunnelled: 2 * Math.ceil(count / TUNNELS_MAX) * HELD_BYTES_FREE + count * HELD_BYTES_MAX,
      }[way]
      assert.ok(grown <= held + OTHER_GROWTH_BYTES, `the agent has grown by ${grown} bytes`)
      if (way !== 'carried') return
      // Full on both sides, and no more: the sender waits for TCP alone.
      assert.equal(sockets.filter(({ unsent }) => unsent > 0).length, DEAF_COUNT)
      for (const { unsent, sendBuffer, unread, receiveBuffer } of sockets) {
        const isWithin = unsent <= sendBuffer + SEGMENT_BYTES_MAX && unread <= receiveBuffer
        assert.ok(isWithin, JSON.stringify({ unsent, sendBuffer, unread, receiveBuffer }))
      }
    })
  }

  /** The kernel has taken what it takes: nothing moves any more. */
  async function standsStill(ends: readonly Soak[]): Promise<void> {
    let last = ''
    let times = 0
    await mesh.eventually('senders stand still', async () => {
      const now = (await Promise.all(ends.map((end) => end.tally())))
        .map(({ taken, received }) => [taken, received])
        .join()
      times = now === last ? times + 1 : 0
      last = now
      return times === 8
    })
  }

  /** Queues of a pod's connections in bytes, and what they may take. */
  async function queuesOf(pod: string): Promise<Queues[]> {
    const lines = await inPod(pod, 'ss', '-Htnm', 'state', 'connected')
    const pattern = /^[A-Z0-9-]+ +([0-9]+) +([0-9]+) .*\n?.*skmem:\(r[0-9]+,rb([0-9]+),t[0-9]+,tb([0-9]+),/gm
    return [...lines.matchAll(pattern)].map((match) => {
      const [unread, unsent, receiveBuffer, sendBuffer] = match.slice(1).map(Number)
      return { unread: unread!, unsent: unsent!, receiveBuffer: receiveBuffer!, sendBuffer: sendBuffer! }
    })
  }

  /** Says how large buffers may grow in the pods (smallest, default, largest), and returns what was said before. */
  async function setBuffers(setting: readonly [name: string, value: string][]): Promise<[string, string][]> {
    const before: [string, string][] = []
    for (const [name, value] of setting) {
      before.push([name, (await inPod('left', 'sysctl', '-n', name)).trim()])
      for (const pod of servers.keys()) await inPod(pod, 'sysctl', '-qw', `${name}=${value}`)
    }
    return before
  }

  async function inPod(pod: string, ...command: string[]): Promise<string> {
    return await run('ip', ['netns', 'exec', mesh.plan.pod(pod).netns!, ...command])
  }

  /** A line of the agent's memory, in bytes. */
  function resident(line: 'VmRSS' | 'VmHWM'): number {
    const status = readFileSync(`/proc/${mesh.pid(AGENT)}/status`, 'utf8')
    return Number(new RegExp(`^${line}:\\s+([0-9]+) kB$`, 'm').exec(status)![1]) * 1024
  }

  /** The highest resident memory is that of now. */
  const resetPeak = (): void => writeFileSync(`/proc/${mesh.pid(AGENT)}/clear_refs`, '5')

  // --- ends that go ---

  for (const gone of ['destination', 'source'] as const) {
    it(`a netns that goes with its connections as their ${gone} takes nobody else with it`, async () => {
      // Edges stay for a while, because their counters do: `assertNothingLeft` asks for those that are open.
      const maps = ['pods', 'own_addresses', 'frontends', 'backends', 'verdicts', 'flows']
      await assertNothingLeft(Infinity)
      const [entriesBefore, descriptorsBefore, pid] = [maps.map(entriesOf), descriptors(), mesh.pid(AGENT)]
      await mesh.addPod({ name: 'brief', node: 'node1' })
      await encryptVault()
      const brief = await Soak.serve(mesh, 'brief', CARRIED, RELAYED)
      servers.set('brief', brief)
      const [from, to] = gone === 'source' ? (['brief', 'left'] as const) : (['left', 'brief'] as const)
      const carriedBefore = await mesh.metric('node1', 'weft_carried_connections_total')
      await mesh.eventually('it is in the mesh', async () => {
        await callPair(`${from} ${to}`, 'carried', 1)
        return (await mesh.metric('node1', 'weft_carried_connections_total')) > carriedBefore
      })
      const far = servers.get(to)!
      const overBefore = (await far.tally()).over
      const clients = (['carried', 'relayed'] as const).map((way) => call(from, to, way, { count: 1_000_000 }))
      const others = (['carried', 'relayed'] as const).map((way) => call('left', 'right', way, { count: 1_000 }))
      await mesh.eventually('they talk', async () => (await far.tally()).over > overBefore + 200)
      await mesh.deletePod('brief')
      await encryptVault()
      await brief.kill()
      for (const client of clients) await client.kill()
      servers.delete('brief')
      await assertGood(await Promise.all(others.map((other) => other.result())), ['right'], 2_000)
      // Its own ends were cut: what it saw is of no use to other tests.
      await servers.get('left')!.kill()
      servers.set('left', await Soak.serve(mesh, 'left', CARRIED, RELAYED))
      calls.delete('left')
      await mesh.eventually('its netns is gone', async () => !(await mesh.hasWire('node1', 'brief')))
      let entries: number[] = []
      await mesh.eventually(
        'its entries are gone',
        () => {
          entries = maps.map(entriesOf)
          return entries.every((count, i) => count <= entriesBefore[i]!)
        },
        () => `${maps}: ${entries} instead of ${entriesBefore}`,
      )
      await assertNothingLeft(descriptorsBefore)
      assert.equal(mesh.pid(AGENT), pid)
    })
  }

  // --- no agent ---

  it('2000 carried ones live through the agent that is killed under them, and new ones go as without it', async () => {
    const before = await both()
    const order = { count: 1_000, courses: ['held'] as const }
    const streams = [call('left', 'right', 'carried', order), call('right', 'left', 'carried', order)]
    for (const stream of streams) await stream.reached()
    await mesh.eventually('all are counted', async () =>
      (await both()).every(({ opened }, i) => opened - before[i]!.opened === 2_000),
    )
    const atKill = await both()
    await mesh.kill(AGENT)
    for (const stream of streams) stream.go()
    const results = await Promise.all(streams.map((stream) => stream.result()))
    await assertGood(results, ['left', 'right'], 2_000)
    const carried = await callPair('left right', 'carried', 500)
    await assertGood([carried], ['right'], 500)
    await assertGood([await callPair('left right', 'relayed', 500)], ['right'], 500)
    const refused = await callPair('left sealed', 'tunnelled', 20)
    assert.equal(refused.good, 0)
    assert.match(refused.complaints.join(), /ECONNREFUSED/)
    await mesh.startAgent('node1')
    // What the agents have counted together.
    const rest = before.map((counts, i) => ({
      opened: counts.opened - atKill[i]!.opened,
      closed: counts.closed - atKill[i]!.closed,
      received: counts.received - atKill[i]!.received,
      sent: counts.sent - atKill[i]!.sent,
    }))
    await assertCounted(rest, [...results, carried], 2_500)
    await assertNothingLeft(Infinity)
  })

  function callPair(pair: string, way: Way, count: number): Promise<Tally> {
    const [from, to] = pair.split(' ') as [string, string]
    return call(from, to, way, { count }).result()
  }
})

function sum(tallies: readonly Tally[], of: (tally: Tally) => number): number {
  return tallies.reduce((total, tally) => total + of(tally), 0)
}
