/** Datagram sockets of the reactor, in a network namespace of their own: bursts, losses, answers, errors, and closing. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { closeSync } from 'node:fs'
import { after, afterEach, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { FAMILY_IPV4, FAMILY_IPV6, type Family } from '../../src/base/address.ts'
import { type Addon, loadAddon, NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'
import { loadReactor } from '../../src/kernel/reactor-addon.ts'
import {
  copyEnds,
  type DatagramHandler,
  type DatagramSocket,
  peerAddressOf,
  peerPortOf,
} from '../../src/transport/datagram.ts'
import { asReactorAddon } from '../../src/transport/reactor-addon.ts'
import { ReactorTransport } from '../../src/transport/reactor-transport.ts'
import { DATAGRAM_CLIENT, runDatagrams } from '../support/answering-dns.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'

/** The sanitizer's build, where this runs in it. */
const SANITIZED = process.env['WEFT_TEST_REACTOR']

const PORT = 7053
/** More than this many datagrams of 1,400 bytes fit into no buffer of a megabyte. */
const FLOOD = 5000
/** Only a failing test waits so long. */
const PATIENCE_MS = 10_000

/** Of the build for the sanitizers. */
interface Faults {
  failAllocation(count: number): number
}

/** Keeps what comes, and does what the test says with it. */
class Receiver implements DatagramHandler {
  readonly texts: string[] = []
  readonly errors: string[] = []
  onEach: (socket: DatagramSocket, bytes: Uint8Array, ends: number, offset: number, end: number) => void = () => {}

  onDatagram(socket: DatagramSocket, bytes: Uint8Array, ends: number, offset: number, end: number): void {
    this.texts.push(Buffer.from(bytes.subarray(offset, end)).toString('latin1'))
    this.onEach(socket, bytes, ends, offset, end)
  }

  onDatagramError(_socket: DatagramSocket, code: string): void {
    this.errors.push(code)
  }
}

describe('datagram sockets of the reactor', needsRoot, () => {
  const addon: Addon = loadAddon()
  let network: TestNetwork
  let pod: TestPod
  let netnsFd: number
  let cookie: bigint
  let maps: Readonly<Record<string, number>>
  let transport: ReactorTransport
  const open: DatagramSocket[] = []

  before(() => {
    network = TestNetwork.create(['a'])
    pod = network.pod('a')
    netnsFd = addon.openNetns(pod.netns)
    cookie = addon.netnsCookie(netnsFd)
    const loaded = addon.loadObject(`${NATIVE_BUILD_DIRECTORY}connect.bpf.o`, {}, null)
    for (const fd of Object.values(loaded.programs)) closeSync(fd)
    maps = loaded.maps
    transport = new ReactorTransport(asReactorAddon(loadReactor(SANITIZED)), {
      isPoisoning: true,
    })
  })

  afterEach(() => {
    for (const socket of open.splice(0)) socket.close()
  })

  after(async () => {
    for (const fd of Object.values(maps)) closeSync(fd)
    closeSync(netnsFd)
    await network.close()
  })

  const makeFd = (family: Family, port: number): number =>
    addon.datagramInNetns(netnsFd, cookie, family, port, maps['exempt_sockets']!)

  function bound(receiver: Receiver, family: Family = FAMILY_IPV6, port = PORT): DatagramSocket {
    const socket = transport.datagrams.open(makeFd(family, port), receiver)
    open.push(socket)
    return socket
  }

  function connected(receiver: Receiver, address: string, port: number, family: Family = FAMILY_IPV4): DatagramSocket {
    const socket = transport.datagrams.connect(makeFd(family, 0), address, port, receiver)
    open.push(socket)
    return socket
  }

  /** Sends while this thread stands still. Returns how many left the sender. */
  function burst(address: string, count: number, bytes: number): number {
    const steps = ['4', 'burst', address, String(PORT), String(count), String(bytes)]
    const output = execFileSync('nsenter', [`--net=${pod.netns}`, DATAGRAM_CLIENT, ...steps], { encoding: 'utf8' })
    return Number(/^burst ([0-9]+)$/m.exec(output)![1])
  }

  async function eventually(condition: () => boolean): Promise<void> {
    for (const end = Date.now() + PATIENCE_MS; !condition(); await delay(5)) assert.ok(Date.now() < end, 'not in time')
  }

  it('deliver a burst whole and in order', async () => {
    const receiver = new Receiver()
    bound(receiver)
    assert.equal(burst('127.0.0.1', 300, 700), 300)
    await eventually(() => receiver.texts.length === 300)
    for (const [i, text] of receiver.texts.entries()) assert.equal(text, String(i).padEnd(700, '.'))
  })

  it('count what the kernel had no room for', async () => {
    const receiver = new Receiver()
    bound(receiver)
    const before = transport.datagrams.receivedDropped
    let sent = burst('127.0.0.1', FLOOD, 1400)
    // The loss is told with the first datagram that comes after it.
    await eventually(() => {
      if (receiver.texts.at(-1) !== '0') sent += burst('127.0.0.1', 1, 1)
      return receiver.texts.at(-1) === '0'
    })
    const dropped = (): number => transport.datagrams.receivedDropped - before
    await eventually(() => receiver.texts.length + dropped() === sent)
    assert.ok(dropped() > 0)
  })

  it('carry the largest datagram, both ways', async () => {
    const receiver = new Receiver()
    bound(receiver)
    receiver.onEach = (from, bytes, ends, offset, end) => from.reply(copyEnds(bytes, ends), bytes.slice(offset, end))
    const echo = new Receiver()
    const asking = connected(echo, '127.0.0.1', PORT)
    const largest = 'x'.repeat(65_507)
    assert.ok(asking.send(Buffer.from(largest)))
    await eventually(() => echo.texts.length === 1)
    assert.equal(echo.texts[0], largest)
  })

  for (const [name, family] of [
    ['both families', FAMILY_IPV6],
    ['IPv4 alone', FAMILY_IPV4],
  ] as const) {
    it(`answer from the address that was asked, on a socket of ${name}`, async () => {
      const receiver = new Receiver()
      bound(receiver, family)
      receiver.onEach = (from, bytes, ends) => {
        const peer = peerAddressOf(bytes, ends)
        const text = `${peer.subarray(12).join('.')}:${peerPortOf(bytes, ends) > 0}`
        from.reply(copyEnds(bytes, ends), Buffer.from(text))
      }
      const steps = ['127.0.0.5', '127.83.0.9', pod.ipv4].flatMap((to) => ['sendto', to, String(PORT), 'q', 'recv'])
      const lines = await runDatagrams(network, pod, ['4', 'bind', '127.0.0.2', '0', ...steps])
      assert.deepEqual(
        lines.filter((line) => line.startsWith('recv')),
        [`127.0.0.5 ${PORT}`, `127.83.0.9 ${PORT}`, `${pod.ipv4} ${PORT}`].map(
          (from) => `recv from ${from} 127.0.0.2:true`,
        ),
      )
    })
  }

  it('that are connected hear from their peer alone, and of its absence', async () => {
    const receiver = new Receiver()
    const socket = bound(receiver)
    receiver.onEach = (from, bytes, ends) => {
      // From another address than the one that was asked, and then from the right one.
      const forged = copyEnds(bytes, ends)
      forged.set([127, 0, 0, 77], 16 + 12)
      from.reply(forged, Buffer.from('forged'))
      from.reply(copyEnds(bytes, ends), Buffer.from('true'))
    }
    const echo = new Receiver()
    const stranger = connected(echo, '127.0.0.1', PORT)
    assert.ok(stranger.send(Buffer.from('q')))
    await eventually(() => echo.texts.length > 0)
    assert.deepEqual(echo.texts, ['true'])
    socket.close()
    assert.ok(stranger.send(Buffer.from('q')))
    await eventually(() => echo.errors.length > 0)
    assert.deepEqual(echo.errors, ['ECONNREFUSED'])
  })

  it('say nothing more once they are closed, in the middle of a batch too', async () => {
    const receiver = new Receiver()
    const socket = bound(receiver)
    receiver.onEach = (from, bytes, ends) => {
      from.reply(copyEnds(bytes, ends), Buffer.from('never sent'))
      from.close()
      from.reply(copyEnds(bytes, ends), Buffer.from('nor this'))
    }
    burst('127.0.0.1', 40, 10)
    await eventually(() => receiver.texts.length > 0)
    await delay(50)
    assert.deepEqual(receiver.texts, ['0.........'])
    assert.equal(socket.send(Buffer.from('x')), false)
  })

  // Only the build for the sanitizers can make allocations fail: see reactor-sanitizers.test.ts.
  if (SANITIZED !== undefined) {
    it('lose a datagram, and no more, when there is no memory', async () => {
      const faults = loadReactor(SANITIZED!) as Faults
      const count = transport.reactor.connectionCount()
      let failed = 0
      for (let nth = 0; ; nth++) {
        faults.failAllocation(nth)
        const id = transport.reactor.openDatagram(makeFd(FAMILY_IPV4, PORT), '', 0)
        faults.failAllocation(-1)
        if (id >= 0) {
          transport.reactor.close(id, false)
          break
        }
        failed++
      }
      assert.ok(failed > 0)
      assert.equal(transport.reactor.connectionCount(), count)
      const receiver = new Receiver()
      bound(receiver)
      receiver.onEach = (from, bytes, ends) => {
        faults.failAllocation(0)
        from.reply(copyEnds(bytes, ends), Buffer.from('lost'))
        from.reply(copyEnds(bytes, ends), Buffer.from('kept'))
      }
      const before = transport.datagrams.sentDropped
      const lines = await runDatagrams(network, pod, ['4', 'sendto', '127.0.0.1', String(PORT), 'q', 'recv'])
      assert.equal(lines[1], `recv from 127.0.0.1 ${PORT} kept`)
      assert.equal(transport.datagrams.sentDropped, before + 1)
    })
  }

  it('refuse what they cannot be made of, and leave no descriptor behind', () => {
    const { reactor } = transport
    const count = reactor.connectionCount()
    assert.ok((reactor.openDatagram(-1, '', 0) as number) < 0)
    assert.ok(reactor.openDatagram(makeFd(FAMILY_IPV4, 0), 'nonsense', 1) < 0)
    assert.ok(reactor.openDatagram(makeFd(FAMILY_IPV4, 0), '2001:db8::1', 53) < 0)
    assert.throws(() => transport.datagrams.connect(makeFd(FAMILY_IPV4, 0), '::1', 53, new Receiver()), /::1/)
    assert.equal(reactor.connectionCount(), count)
    const receiver = new Receiver()
    const id = reactor.openDatagram(makeFd(FAMILY_IPV4, 0), '127.0.0.1', 9)
    // What is for streams does nothing to a datagram socket, and the other way round.
    reactor.write(id, Buffer.from('x'), 0, 1)
    reactor.end(id)
    reactor.discard(id)
    reactor.resume(id)
    reactor.approve(id)
    assert.throws(() => reactor.replyDatagram(id, new Uint8Array(43), Buffer.from('x'), 0, 1), RangeError)
    assert.throws(() => reactor.sendDatagram(id, Buffer.from('x'), 1, 1), RangeError)
    reactor.close(id, false)
    assert.equal(reactor.sendDatagram(id, Buffer.from('x'), 0, 1), 0)
    assert.deepEqual(receiver.texts, [])
  })
})
