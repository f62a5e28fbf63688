/** The programs that meter UDP, with the real kernel: what passes is counted exactly, and passes as it was. */
import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'
import { after, before, beforeEach, describe, it } from 'node:test'
import { hasCode, loadAddon, NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'
import { TCX_EGRESS, TCX_INGRESS, UDP_EDGES_MAX } from '../../src/kernel/layout.generated.ts'
import { IS_LITTLE_ENDIAN, KernelMap } from '../../src/kernel/maps.ts'
import { NETLINK_ROUTE } from '../../src/kernel/netlink.ts'
import { addClsact, replaceFilter, TC_INGRESS } from '../../src/kernel/traffic-control.ts'
import { readUnmetered, UdpEdgeMap, type UdpTotals } from '../../src/kernel/udp-edge-map.ts'
import {
  detachUdpMeter,
  type MeteredPod,
  type MeterWay,
  UdpMeterPrograms,
} from '../../src/kernel/udp-meter-programs.ts'
import { nativeProgram } from '../support/native-build.ts'
import { finished, needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'

const OBJECT = `${NATIVE_BUILD_DIRECTORY}meter.bpf.o`
const UDP_TALK = nativeProgram('udp-talk')
const PORT = 4000
const [POD_A, POD_B] = [7, 8]

for (const way of ['tcx', 'filters'] as const) describeMetered(way)

function describeMetered(way: MeterWay): void {
  describe(`UDP that is metered by ${way}`, needsRoot, () => {
    const addon = loadAddon()
    let network: TestNetwork
    let a: TestPod
    let b: TestPod
    let mapFds: Readonly<Record<string, number>>
    let edges: UdpEdgeMap
    let programs: UdpMeterPrograms
    const netnsFds: number[] = []

    before(async () => {
      network = TestNetwork.create(['a', 'b'])
      a = network.pod('a')
      b = network.pod('b')
      const loaded = addon.loadObject(OBJECT, {}, null)
      for (const fd of Object.values(loaded.programs)) closeSync(fd)
      // Without the programs' constant, which each instance has for itself.
      const { 'meter.rodata': constant, ...shared } = loaded.maps
      closeSync(constant!)
      mapFds = shared
      edges = new UdpEdgeMap(new KernelMap(addon, mapFds['udp_edges']!))
      programs = UdpMeterPrograms.load(addon, OBJECT, mapFds, way)
      await programs.attach(meteredPod(a, POD_A))
      await programs.attach(meteredPod(b, POD_B))
    })

    after(async () => {
      await network?.close(
        () => programs?.close(),
        ...[...netnsFds, ...Object.values(mapFds)].map((fd) => () => closeSync(fd)),
      )
    })

    beforeEach(() => {
      for (const { key } of edges.all()) edges.delete(key)
    })

    function meteredPod(pod: TestPod, id: number, device = 'eth0'): MeteredPod {
      const netnsFd = addon.openNetns(pod.netns)
      netnsFds.push(netnsFd)
      const interfaces = addon
        .netnsInterfaces(netnsFd)
        .filter(({ name, address }) => name === device && address === null)
      assert.equal(interfaces.length, 1)
      return {
        displayName: `test/${pod.name}`,
        id,
        netnsFd,
        interfaces: interfaces.map(({ index }) => index),
      }
    }

    /** For filters; there may be one already. */
    function addPlace(netnsFd: number, index: number): void {
      try {
        addon.netlinkInNetns(netnsFd, NETLINK_ROUTE, addClsact(index))
      } catch (error) {
        assert.ok(hasCode(error, 'EEXIST'))
      }
    }

    /** What of us is attached, by the way of attaching. */
    async function attached(pod: TestPod): Promise<Readonly<Record<MeterWay, string[]>>> {
      const { netnsFd, interfaces } = meteredPod(pod, 1)
      const tcx = [TCX_EGRESS, TCX_INGRESS].flatMap((type) => addon.interfacePrograms(netnsFd, interfaces[0]!, type))
      const filters: string[] = []
      for (const direction of ['egress', 'ingress']) {
        const { stdout } = await network.run(pod, ['tc', 'filter', 'show', 'dev', 'eth0', direction])
        filters.push(...Array.from(stdout.matchAll(/handle.*?(weft_udp_[a-z]+)/g), (match) => match[1]!))
      }
      return { tcx, filters }
    }

    /** Sends from a to b; what b's program got. */
    async function talk(address: string, bytes: number, count: number, segment: number, datagrams: number) {
      const receiver = network.start(b, [UDP_TALK, 'receive', String(PORT), String(datagrams)])
      const end = finished(receiver)
      await new Promise((resolve) => receiver.stdout!.once('data', resolve))
      const sender = await network.run(a, [UDP_TALK, 'send', address, ...[PORT, bytes, count, segment].map(String)])
      assert.equal(sender.status, 0, sender.stderr)
      return (await end).stdout.split('\n')[1]
    }

    function totals(pod: number, isSent: boolean, remote: string): UdpTotals | null {
      return edges.read({ pod, isSent, remote })
    }

    for (const [family, from, to] of [
      ['IPv4', () => a.ipv4, () => b.ipv4],
      ['IPv6', () => a.ipv6, () => b.ipv6],
    ] as const) {
      it(`is counted at both ends, payload and datagrams, over ${family}`, async () => {
        assert.equal(await talk(to(), 100, 300, 0, 300), 'datagrams 300 bytes 30000 damaged 0')
        const expected = { bytes: 30_000, packets: 300 }
        assert.deepEqual(totals(POD_A, true, to()), expected)
        assert.deepEqual(totals(POD_B, false, from()), expected)
        assert.equal(totals(POD_A, false, to()), null)
        assert.equal(totals(POD_B, true, from()), null)
      })

      it(`counts what the kernel cuts into datagrams later as these, over ${family}`, async () => {
        assert.equal(await talk(to(), 6_500, 20, 1_000, 140), 'datagrams 140 bytes 130000 damaged 0')
        const expected = { bytes: 130_000, packets: 140 }
        assert.deepEqual(totals(POD_A, true, to()), expected)
        assert.deepEqual(totals(POD_B, false, from()), expected)
      })

      it(`counts the payload of fragments once, and every fragment as a packet, over ${family}`, async () => {
        assert.equal(await talk(to(), 4_000, 10, 0, 10), 'datagrams 10 bytes 40000 damaged 0')
        const expected = { bytes: 40_000, packets: 30 }
        assert.deepEqual(totals(POD_A, true, to()), expected)
        assert.deepEqual(totals(POD_B, false, from()), expected)
      })

      it(`is counted when it is empty, over ${family}`, async () => {
        assert.equal(await talk(to(), 0, 3, 0, 3), 'datagrams 3 bytes 0 damaged 0')
        assert.deepEqual(totals(POD_A, true, to()), { bytes: 0, packets: 3 })
      })
    }

    it('is not what TCP is counted as', async () => {
      for (const address of [b.ipv4, b.ipv6]) {
        const { status } = await network.run(a, ['bash', '-c', `echo > /dev/tcp/${address}/1`])
        assert.equal(status, 1, 'nobody listens')
      }
      assert.deepEqual(edges.all(), [])
    })

    it('is told from TCP on an interface without link headers, whose addresses read like one', async () => {
      // At the places of an Ethernet header's protocol and of its packet's: IPv6, and TCP.
      const [source, target] = ['fd00:0:86dd::600:1', 'fd00:0:86dd::2']
      await network.run(a, ['ip', 'tuntap', 'add', 'dev', 'bare', 'mode', 'tun'])
      await network.run(a, ['ip', 'addr', 'add', `${source}/64`, 'dev', 'bare', 'nodad'])
      await network.run(a, ['ip', 'link', 'set', 'bare', 'up'])
      await programs.attach(meteredPod(a, POD_A, 'bare'))
      const { status, stderr } = await network.run(a, [UDP_TALK, 'send', target, String(PORT), '10', '3', '0'])
      await network.run(a, ['ip', 'link', 'del', 'bare'])
      assert.equal(status, 0, stderr)
      assert.deepEqual(totals(POD_A, true, target), { bytes: 30, packets: 3 })
    })

    it('is counted apart when the map is full, and passes all the same', async () => {
      const unmetered = new KernelMap(addon, mapFds['udp_unmetered']!)
      for (let i = 0; i < UDP_EDGES_MAX; i++) {
        edges.write({ pod: 1000 + i, isSent: true, remote: '198.18.0.77' }, { bytes: 0, packets: 0 })
      }
      const before = readUnmetered(unmetered)
      assert.equal(await talk(b.ipv4, 10, 3, 0, 3), 'datagrams 3 bytes 30 damaged 0')
      const after = readUnmetered(unmetered)
      // At both ends.
      assert.deepEqual([after.bytes - before.bytes, after.packets - before.packets], [60, 6])
    })

    it('loses nothing while the programs are replaced', async () => {
      const talking = talk(b.ipv4, 10, 3_000, 0, 3_000)
      for (let i = 0; i < 5; i++) {
        await programs.attach(meteredPod(a, POD_A))
        await programs.attach(meteredPod(b, POD_B))
      }
      assert.equal(await talking, 'datagrams 3000 bytes 30000 damaged 0')
      assert.deepEqual(totals(POD_A, true, b.ipv4), { bytes: 30_000, packets: 3_000 })
      assert.deepEqual(totals(POD_B, false, a.ipv4), { bytes: 30_000, packets: 3_000 })
    })

    it('is counted once when an earlier agent has attached its programs in the other way', async () => {
      const others = UdpMeterPrograms.load(addon, OBJECT, mapFds, way === 'tcx' ? 'filters' : 'tcx')
      for (const [pod, id] of [
        [a, POD_A],
        [b, POD_B],
      ] as const) {
        await others.attach(meteredPod(pod, id))
        await programs.attach(meteredPod(pod, id))
      }
      others.close()
      const names = { tcx: ['weft_udp_sent', 'weft_udp_receiv'], filters: ['weft_udp_sent', 'weft_udp_received'] }
      assert.deepEqual(await attached(a), { tcx: [], filters: [], [way]: names[way] })
      assert.equal(await talk(b.ipv4, 10, 3, 0, 3), 'datagrams 3 bytes 30 damaged 0')
      assert.deepEqual(totals(POD_A, true, b.ipv4), { bytes: 30, packets: 3 })
      assert.deepEqual(totals(POD_B, false, a.ipv4), { bytes: 30, packets: 3 })
    })

    it('has one meter after several agents have attached theirs at the same time', async () => {
      await Promise.all(Array.from({ length: 4 }, () => programs.attach(meteredPod(a, POD_A))))
      assert.equal((await attached(a))[way].length, 2)
    })

    it('is not metered any more when it was detached, and nothing of us is left in the netns', async () => {
      for (const pod of [a, b]) {
        const { netnsFd, interfaces } = meteredPod(pod, 1)
        await detachUdpMeter(addon, { netnsFd, interfaces })
        await detachUdpMeter(addon, { netnsFd, interfaces })
      }
      assert.equal(await talk(b.ipv4, 10, 3, 0, 3), 'datagrams 3 bytes 30 damaged 0')
      assert.deepEqual(edges.all(), [])
      const { stdout } = await network.run(a, ['tc', 'qdisc', 'show', 'dev', 'eth0'])
      assert.doesNotMatch(stdout, /clsact/)
      assert.deepEqual(await attached(a), { tcx: [], filters: [] })
    })

    it('leaves filters of others where they are', async () => {
      await programs.attach(meteredPod(a, POD_A))
      const { netnsFd, interfaces } = meteredPod(a, POD_A)
      const stranger = addon.loadObject(OBJECT, mapFds, null)
      const fd = stranger.programs['weft_udp_received']!
      addPlace(netnsFd, interfaces[0]!)
      const message = replaceFilter(interfaces[0]!, TC_INGRESS, { fd, name: 'stranger', classId: 1 })
      // The priority, in the upper half of the last field of struct tcmsg.
      new Uint16Array(message.buffer, message.byteOffset + 32, 2)[IS_LITTLE_ENDIAN ? 1 : 0] = 9
      addon.netlinkInNetns(netnsFd, NETLINK_ROUTE, message)
      for (const other of [...Object.values(stranger.programs), ...Object.values(stranger.maps)]) closeSync(other)
      await detachUdpMeter(addon, { netnsFd, interfaces })
      const { stdout } = await network.run(a, ['tc', 'filter', 'show', 'dev', 'eth0', 'ingress'])
      assert.match(stdout, /pref 9 .*stranger/)
      assert.doesNotMatch(stdout, /weft_udp_received /)
    })
  })
}
