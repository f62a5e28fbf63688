/** DNS over UDP with the real kernel: which questions come to the agent, and what the app sees of it. */
import assert from 'node:assert/strict'
import { createInterface } from 'node:readline'
import { after, before, describe, it } from 'node:test'
import { ROLE_DNS } from '../../src/agent/capture.ts'
import { EbpfCapture } from '../../src/agent/capture-ebpf.ts'
import { silentLog } from '../../src/base/log.ts'
import type { CapturePrograms } from '../../src/kernel/capture-programs.ts'
import {
  DNS_STAT_BYPASSED,
  DNS_STAT_RESOLVERS_FULL,
  RESOLVERS_PER_POD_MAX,
  STAT_OUTBOUND_CAPTURED,
} from '../../src/kernel/layout.generated.ts'
import { AnsweringDns, DATAGRAM_CLIENT, runDatagrams, startResolver } from '../support/answering-dns.ts'
import { runClient } from '../support/answering-pod.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'

describe('DNS capture', needsRoot, () => {
  let network: TestNetwork
  /** Enrolled, with one data worker. */
  let a: TestPod
  /** A resolver, not enrolled. */
  let b: TestPod
  let capture: EbpfCapture
  let programs: CapturePrograms
  let dns: AnsweringDns

  before(async () => {
    network = TestNetwork.create(['a', 'b', 'c'])
    a = network.pod('a')
    b = network.pod('b')
    network.join()
    capture = EbpfCapture.open({
      cgroupPath: network.cgroupPath,
      pinDirectory: `/run/${network.prefix}-dns`,
      log: silentLog,
    })
    programs = (capture as unknown as { programs: CapturePrograms }).programs
    dns = await AnsweringDns.enrol(capture, a)
    await startResolver(network, b, [b.ipv4, b.ipv6])
  })

  after(async () => {
    await network?.close(
      () => dns?.close(),
      () => capture?.close(),
    )
  })

  const fromA = (steps: readonly string[]): Promise<string[]> => runDatagrams(network, a, steps)

  for (const [family, first, second] of [
    ['4', '198.18.0.2', '198.18.0.77'],
    ['6', 'fd77::2', 'fd77::77'],
  ] as const) {
    it(`answers an unconnected socket from the resolver that was asked, over IPv${family}`, async () => {
      assert.deepEqual(await fromA([family, 'sendto', first, '53', 'q', 'recv']), [
        'sendto ok',
        `recv from ${first} 53 agent 0: ${first} asked q`,
      ])
    })

    it(`answers a connected socket, which sees the resolver as its peer and the pod as itself, over IPv${family}`, async () => {
      const lines = await fromA([family, 'connect', first, '53', 'names', 'send', 'q', 'recv'])
      const own = family === '4' ? a.ipv4 : a.ipv6
      assert.match(lines[1]!, new RegExp(`^names local ${own} [0-9]+ remote ${first} 53$`))
      assert.equal(lines[3], `recv from ${first} 53 agent 0: ${first} asked q`)
    })

    it(`keeps two resolvers apart that are asked from one socket, by sendmmsg and recvmmsg too, over IPv${family}`, async () => {
      const one = await fromA([family, 'sendto', first, '53', 'x', 'sendto', second, '53', 'y', 'recv', 'recv'])
      assert.deepEqual(one.slice(2).sort(), [
        `recv from ${first} 53 agent 0: ${first} asked x`,
        `recv from ${second} 53 agent 0: ${second} asked y`,
      ])
      const both = await fromA([family, 'sendmmsg', second, '53', 'x', first, '53', 'y', 'peek', 'recv', 'recv'])
      assert.deepEqual(both[1]!.replace('peek', 'recv'), both[2])
      assert.deepEqual(both.slice(2).sort(), [
        `recv from ${first} 53 agent 0: ${first} asked y`,
        `recv from ${second} 53 agent 0: ${second} asked x`,
      ])
    })

    it(`leaves other ports alone, and datagrams to the agent's own port unanswered, over IPv${family}`, async () => {
      const own = family === '4' ? a.ipv4 : a.ipv6
      const before = dns.asked.length
      await fromA([family, 'sendto', first, '5353', 'q', 'connect', own, '15053', 'send', 'q'])
      assert.deepEqual(await fromA([family, 'connect', own, '15053', 'send', 'q', 'recv']), [
        'connect ok',
        'send ok',
        'recv ECONNREFUSED',
      ])
      assert.equal(dns.asked.length, before)
    })
  }

  it('captures IPv4 resolvers that are asked from an IPv6 socket', async () => {
    const lines = await fromA(['6', 'sendto', `::ffff:${b.ipv4}`, '53', 'q', 'recv'])
    assert.equal(lines[1], `recv from ::ffff:${b.ipv4} 53 agent 0: ${b.ipv4} asked q`)
    const connected = await fromA(['6', 'connect', `::ffff:${b.ipv4}`, '53', 'names', 'send', 'q', 'recv'])
    assert.match(connected[1]!, new RegExp(`local ::ffff:${a.ipv4} [0-9]+ remote ::ffff:${b.ipv4} 53$`))
    assert.equal(connected[3], `recv from ::ffff:${b.ipv4} 53 agent 0: ${b.ipv4} asked q`)
  })

  it('captures sockets that are bound to an address, a port or an interface, or name one with each datagram', async () => {
    const expected = `recv from ${b.ipv4} 53 agent 0: ${b.ipv4} asked q`
    assert.equal((await fromA(['4', 'bind', a.ipv4, '0', 'sendto', b.ipv4, '53', 'q', 'recv'])).at(-1), expected)
    // The answer goes to port 53, which must not make a question of it.
    assert.equal((await fromA(['4', 'bind', '0.0.0.0', '53', 'sendto', b.ipv4, '53', 'q', 'recv'])).at(-1), expected)
    assert.equal((await fromA(['4', 'bind-device', 'eth0', 'sendto', b.ipv4, '53', 'q', 'recv'])).at(-1), expected)
    assert.equal(
      (await fromA(['4', 'bind-device', 'eth0', 'connect', b.ipv4, '53', 'send', 'q', 'recv'])).at(-1),
      expected,
    )
    assert.equal((await fromA(['4', 'send-by', 'eth0', b.ipv4, '53', 'q', 'recv'])).at(-1), expected)
  })

  it('follows a socket that is connected to one resolver after another, and then to none', async () => {
    const lines = await fromA([
      ...[
        '4',
        'connect',
        b.ipv4,
        '53',
        'send',
        'x',
        'recv',
        'connect',
        '198.18.0.77',
        '53',
        'names',
        'send',
        'y',
        'recv',
      ],
      ...['disconnect', 'sendto', b.ipv4, '53', 'z', 'recv'],
    ])
    assert.equal(lines[2], `recv from ${b.ipv4} 53 agent 0: ${b.ipv4} asked x`)
    assert.match(lines[4]!, /remote 198\.18\.0\.77 53$/)
    assert.equal(lines[6], 'recv from 198.18.0.77 53 agent 0: 198.18.0.77 asked y')
    assert.equal(lines.at(-1), `recv from ${b.ipv4} 53 agent 0: ${b.ipv4} asked z`)
  })

  it('lets pods alone that are not enrolled, and resolvers on the pod itself', async () => {
    const before = dns.asked.length
    const fromC = await runDatagrams(network, network.pod('c'), ['4', 'sendto', b.ipv4, '53', 'q', 'recv'])
    assert.equal(fromC[1], `recv from ${b.ipv4} 53 real ${b.ipv4} q`)
    await startResolver(network, a, ['127.0.0.53', a.ipv4, '::1', a.ipv6])
    for (const [family, address] of [
      ['4', '127.0.0.53'],
      ['4', a.ipv4],
      ['6', '::1'],
      ['6', a.ipv6],
    ] as const) {
      const lines = await fromA([
        family,
        'connect',
        address,
        '53',
        'send',
        'q',
        'recv',
        'hop',
        'sendto',
        address,
        '53',
        'q',
        'recv',
      ])
      const answer = `recv from ${address} 53 real ${address} q`
      assert.deepEqual([lines[2], lines.at(-1)], [answer, answer])
    }
    assert.equal(dns.asked.length, before)
  })

  it('lets questions by at once when no data worker is alive, and takes them again when one is', async () => {
    const before = dns.asked.length
    dns.stopBeating()
    programs.heartbeats.clear(0)
    for (const [family, address] of [
      ['4', b.ipv4],
      ['6', b.ipv6],
    ] as const) {
      const lines = await fromA([
        family,
        'sendto',
        address,
        '53',
        'q',
        'recv',
        'connect',
        address,
        '53',
        'names',
        'send',
        'q',
        'recv',
      ])
      assert.equal(lines[1], `recv from ${address} 53 real ${address} q`)
      assert.match(lines[3]!, new RegExp(`remote ${address} 53$`))
      assert.equal(lines.at(-1), `recv from ${address} 53 real ${address} q`)
    }
    assert.equal(dns.asked.length, before)
    assert.equal(programs.dnsStats.read(DNS_STAT_BYPASSED), 4)
    dns.beat(capture, 1)
    assert.equal(
      (await fromA(['4', 'sendto', b.ipv4, '53', 'q', 'recv']))[1],
      `recv from ${b.ipv4} 53 agent 0: ${b.ipv4} asked q`,
    )
  })

  it('tells a connected socket at once that nobody is there any more, so that it connects anew', async () => {
    const steps = ['connect', b.ipv4, '53', 'send', 'q', 'recv']
    const client = network.start(a, [DATAGRAM_CLIENT, '4', ...steps, 'wait', 'send', 'q', 'recv', ...steps])
    const lines = createInterface({ input: client.stdout! })[Symbol.asyncIterator]()
    const said: string[] = []
    while (said.at(-1) !== 'wait') said.push(String((await lines.next()).value))
    dns.stopBeating()
    programs.heartbeats.clear(0)
    client.stdin!.write('\n')
    for await (const line of lines) said.push(line)
    dns.beat(capture, 1)
    assert.deepEqual(said.slice(4), [
      ...['send ok', 'recv ECONNREFUSED', 'connect ok', 'send ok'],
      `recv from ${b.ipv4} 53 real ${b.ipv4} q`,
    ])
  })

  it('lets by what goes to more resolvers than are told apart', async () => {
    const steps = Array.from({ length: RESOLVERS_PER_POD_MAX }, (_, i) => ['sendto', `198.19.1.${i}`, '53', 'q']).flat()
    await fromA(['4', ...steps])
    assert.ok(programs.dnsStats.read(DNS_STAT_RESOLVERS_FULL) > 0)
    const known = await fromA(['4', 'sendto', b.ipv4, '53', 'q', 'recv'])
    assert.equal(known[1], `recv from ${b.ipv4} 53 agent 0: ${b.ipv4} asked q`)
  })

  it('brings questions over TCP to the agent, where the kernel would carry the connection too', async () => {
    const pair = { source: 1, destination: 2, port: 53 }
    programs.backends.insert(1, 0, { address: b.ipv4, port: 53, pod: 2 })
    programs.verdicts.insert(pair, true, 0)
    for (const port of [53, 54]) programs.frontends.insert({ address: '198.19.9.9', port, scope: 1 }, 1, 1)
    const counts = () => [programs.stats.read(STAT_OUTBOUND_CAPTURED), carriedCount()]
    const carriedCount = () => programs.edges.all().reduce((sum, { totals }) => sum + totals.attempted, 0)
    const [captured, carried] = counts()
    const [steered] = await runClient(network, a, ['4', 'connect', '198.19.9.9', '53'])
    assert.match(steered!, /^connect ok/)
    assert.deepEqual(counts(), [captured! + 1, carried])
    await runClient(network, a, ['4', 'connect', '198.19.9.9', '54'])
    assert.deepEqual(counts(), [captured! + 1, carried! + 1])
    programs.verdicts.delete(pair)
  })

  for (const [what, command, count] of [
    ['the IPv4 route over lo', 'route del local 127.83.0.0/16 dev lo table local', 1],
    ['the IPv4 route over the interface', 'route del local 127.83.0.0/16 dev eth0 table local', 1],
    ['the IPv6 route over lo', '-6 route del local fd3d:9a1c:6e42:53::/64 dev lo table local', 1],
    ['the IPv6 route over the interface', '-6 route del local fd3d:9a1c:6e42:53::/64 dev eth0 table local', 1],
    // 127.0.0.0/8 is local all the same, and the app would see 127.0.0.1 as its own address.
    ['every IPv4 route', 'route flush table local root 127.83.0.0/16', 2],
  ] as const) {
    it(`is seen to be damaged and is repaired when ${what} is removed`, async () => {
      const before = [network.ipIn(a, 'route show table local'), network.ipIn(a, '-6 route show table local')]
      const dnsFaults = () => capture.audit(dns.uid)!.faults.filter(({ piece }) => piece === 'dns')
      assert.deepEqual(dnsFaults(), [])
      network.ipIn(a, command)
      const { faults, left } = capture.audit(dns.uid)!
      assert.equal(faults.filter(({ piece }) => piece === 'dns').length, count, JSON.stringify(faults))
      assert.deepEqual(
        left.filter(({ piece }) => piece === 'dns'),
        [],
      )
      const after = [network.ipIn(a, 'route show table local'), network.ipIn(a, '-6 route show table local')]
      assert.deepEqual(after.map(sortedLines), before.map(sortedLines))
    })
  }

  it('is switched on again when its entry is gone, and its sockets are missed', async () => {
    const cookie = dns.captured.dialing.netnsCookie
    programs.dnsPods.switchOff(cookie)
    const { faults, left } = capture.audit(dns.uid)!
    assert.match(JSON.stringify(faults), /questions of the pod to its resolvers are not captured/)
    assert.doesNotMatch(JSON.stringify(left), /questions/)
    programs.listeners.delete(cookie, ROLE_DNS, 0)
    assert.match(JSON.stringify(capture.audit(dns.uid)!.left), /nobody listens for questions to resolvers/)
  })

  it('leaves nothing behind when the pod is withdrawn', async () => {
    await capture.withdraw(dns.uid)
    dns.close()
    const lines = await fromA(['4', 'sendto', b.ipv4, '53', 'q', 'recv'])
    assert.equal(lines[1], `recv from ${b.ipv4} 53 real ${b.ipv4} q`)
    const cookie = dns.captured.dialing.netnsCookie
    assert.equal(programs.dnsPods.has(cookie), false)
    assert.equal(programs.resolvers.addressOf(cookie, 1), null)
    assert.doesNotMatch(network.ipIn(a, 'route show table local'), /127\.83/)
    assert.doesNotMatch(network.ipIn(a, '-6 route show table local'), /fd3d/)
  })
})

function sortedLines(text: string): string[] {
  return text.split('\n').sort()
}
