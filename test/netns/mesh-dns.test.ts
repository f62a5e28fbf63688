/**
 * DNS of a pod in a whole mesh: names of the mesh are answered by the agent, all others by the resolver that the pod
 * asked (dnsmasq), asked by programs that people have: dig, and the C library through getent.
 */
import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { fileURLToPath } from 'node:url'
import { LiveMesh } from '../support/live-mesh.ts'
import { finished, needsRoot } from '../support/netns.ts'
import { lacks } from '../support/programs.ts'

const LOAD_PROGRAM = fileURLToPath(new URL('../support/dns-load.ts', import.meta.url))
const NEAR = 'near.default.svc.cluster.local'

describe('DNS of a mesh', { skip: needsRoot.skip || lacks('dig', 'dnsmasq') }, () => {
  let mesh: LiveMesh
  let resolver4: string
  let resolver6: string

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'near', node: 'node1', programs: ['web'] },
        { name: 'inner', node: 'node2', namespace: 'vault' },
        { name: 'names', node: 'node2', namespace: 'outside', programs: ['web'] },
      ],
      services: ['near'],
      rules: {
        'peers.yaml': `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: vault }
spec: { mtls: { mode: STRICT } }
`,
      },
      workers: 2,
    })
    ;[resolver4, resolver6] = mesh.plan.pod('names').addresses as [string, string]
    // h<n>.load.example is 10.0.<n>, as the program that asks expects it.
    const hosts = Array.from({ length: 4000 }, (_, n) => `10.0.${n >> 8}.${n & 255} h${n}.load.example`)
    const hostsFile = join(mesh.runDirectory, 'load-hosts')
    writeFileSync(hostsFile, hosts.join('\n'))
    const long = Array.from({ length: 6 }, (_, i) => String(i).repeat(200)).join(',')
    mesh.startIn('names', 'dnsmasq', [
      ...(['dnsmasq', '--keep-in-foreground', '--no-resolv', '--no-hosts', '--conf-file=/dev/null'] as const),
      ...[`--addn-hosts=${hostsFile}`, '--dns-forward-max=1000'],
      ...['--user=root', '--pid-file=', '--bind-interfaces', '--listen-address', `${resolver4},${resolver6}`],
      ...['--local=/example/', '--local=/cluster.local/', '--host-record=other.example,198.51.100.7,2001:db8::7'],
      ...[`--txt-record=long.example,${long}`, '--cache-size=0'],
    ])
    // Another one, in the mesh itself, which takes no plaintext over TCP.
    mesh.startIn('inner', 'dnsmasq', [
      ...(['dnsmasq', '--keep-in-foreground', '--no-resolv', '--no-hosts', '--conf-file=/dev/null'] as const),
      ...['--user=root', '--pid-file=', '--host-record=inner.example,198.51.100.8', '--local=/cluster.local/'],
    ])
    await mesh.eventually(
      'dnsmasq answers',
      async () => (await dig(`@${resolver4}`, 'other.example')) === '198.51.100.7',
    )
    const { netns } = mesh.plan.pod('client')
    const search = 'search default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n'
    // The demo's hosts file has all names.
    writeFileSync(`/etc/netns/${netns}/hosts`, '127.0.0.1 localhost\n')
    writeFileSync(`/etc/netns/${netns}/resolv.conf`, `nameserver ${resolver4}\n${search}`)
  })

  after(async () => {
    await mesh?.close()
  })

  /** The short answer to one question of pod `client`; dig's own words when there is none. */
  async function dig(...args: string[]): Promise<string> {
    const { stdout } = await mesh.run('client', ['dig', '+short', '+tries=1', '+timeout=10', ...args])
    return stdout.trim()
  }

  async function status(...args: string[]): Promise<string> {
    const { stdout } = await mesh.run('client', ['dig', '+tries=1', '+timeout=10', ...args])
    return /status: ([A-Z]+)/.exec(stdout)?.[1] ?? stdout
  }

  /** Asks one question after the other; resolves when they come. The function returned ends it, and tells how it went. */
  async function askAllTheWhile(): Promise<() => Promise<string>> {
    const forwarded = async (): Promise<number> =>
      await mesh.metric('node1', 'weft_dns_queries_total', { source: 'forwarded' })
    const before = await forwarded()
    const child = mesh.spawnIn('client', [process.execPath, LOAD_PROGRAM, resolver4, '0', '1'])
    const ended = finished(child)
    await mesh.eventually('questions come', async () => (await forwarded()) > before)
    return async () => {
      child.stdin.end()
      return (await ended).stdout
    }
  }

  const addressesOf = (name: string): readonly string[] =>
    mesh.plan.services.find((service) => service.name === name)!.addresses

  for (const [family, server] of [
    ['IPv4', () => resolver4],
    ['IPv6', () => resolver6],
  ] as const) {
    for (const transport of ['+notcp', '+tcp'] as const) {
      it(`answers names of the mesh, and passes others on, over ${family} ${transport}`, async () => {
        const at = `@${server()}`
        const [ipv4, ipv6] = addressesOf('near')
        assert.equal(await dig(transport, at, NEAR), ipv4)
        assert.equal(await dig(transport, at, 'AAAA', NEAR), ipv6)
        assert.equal(await dig(transport, at, 'other.example'), '198.51.100.7')
        assert.equal(await dig(transport, at, 'AAAA', 'other.example'), '2001:db8::7')
        assert.equal(await status(transport, at, 'nobody.example'), 'NXDOMAIN')
      })
    }
  }

  it('lets a client come again over TCP when a reply is too long for UDP', async () => {
    const reply = await dig(`@${resolver4}`, '+bufsize=512', 'TXT', 'long.example')
    assert.equal(reply.length, 6 * 202 + 5)
    assert.equal(await dig(`@${resolver4}`, '+bufsize=512', '+ignore', 'TXT', 'long.example'), '')
    assert.equal((await dig(`@${resolver4}`, '+bufsize=4096', '+notcp', 'TXT', 'long.example')).length, reply.length)
  })

  it('answers several questions on one TCP connection', async () => {
    const { stdout } = await mesh.run('client', [
      ...['dig', '+short', '+tcp', '+keepopen', `@${resolver4}`],
      ...['other.example', 'A', NEAR, 'A', 'other.example', 'AAAA'],
    ])
    assert.deepEqual(stdout.trim().split('\n'), ['198.51.100.7', addressesOf('near')[0], '2001:db8::7'])
  })

  it('is what the C library sees: short names by the search list, and connections by name', async () => {
    const { stdout } = await mesh.run('client', ['getent', 'ahostsv4', 'near.default'])
    assert.match(stdout, new RegExp(`^${addressesOf('near')[0]!.replaceAll('.', '\\.')} +STREAM`))
    const other = await mesh.run('client', ['getent', 'ahostsv6', 'other.example'])
    assert.match(other.stdout, /^2001:db8::7 +STREAM/)
    assert.equal(await mesh.code('client', 'http://near.default.svc.cluster.local:8080/'), '200')
  })

  it('answers hosts of ServiceEntries, with addresses of the mesh where they have none, and these lead there', async () => {
    mesh.writeRules(
      'entry.yaml',
      `
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: { name: shop, namespace: default }
spec:
  hosts: [shop.example]
  ports: [{ number: 80, name: http, protocol: HTTP }]
  resolution: STATIC
  location: MESH_EXTERNAL
  endpoints: [{ address: ${resolver4}, ports: { http: 8080 } }]
`,
    )
    await mesh.eventually('the host has an address', async () => (await dig(`@${resolver4}`, 'shop.example')) !== '')
    const address = await dig(`@${resolver4}`, 'shop.example')
    assert.match(address, /^24[0-9]\./)
    assert.equal(await mesh.code('client', 'http://shop.example/'), '200')
  })

  it('brings questions over TCP to DNS servers of the mesh through the mesh', async () => {
    const inner = mesh.plan.pod('inner').addresses[0]!
    assert.equal(await dig('+tcp', `@${inner}`, 'inner.example'), '198.51.100.8')
    assert.equal(await dig('+notcp', `@${inner}`, 'inner.example'), '198.51.100.8')
    assert.equal(await dig('+notcp', `@${inner}`, NEAR), addressesOf('near')[0])
    assert.equal(await status('+tcp', `@${inner}`, NEAR), 'NXDOMAIN')
  })

  it('gives thousands of questions from one socket their own answers', async () => {
    const { stdout, stderr } = await mesh.run('client', [process.execPath, LOAD_PROGRAM, resolver4, '4000', '100'])
    assert.match(stdout, /"answered":4000,"wrong":0/, stdout + stderr)
  })

  it('counts the questions', async () => {
    assert.ok((await mesh.metric('node1', 'weft_dns_queries_total', { source: 'mesh' })) >= 8)
    assert.ok((await mesh.metric('node1', 'weft_dns_queries_total', { source: 'forwarded' })) >= 8)
  })

  it('says at once that nobody answers where nobody does', async () => {
    assert.equal(await status(`@${mesh.plan.pod('near').addresses[0]}`, 'other.example'), 'SERVFAIL')
  })

  it('leaves pods alone that say so, from the moment that they do', async () => {
    const path = join(mesh.rulesDirectory, 'pods.yaml')
    const before = readFileSync(path, 'utf8')
    const netns = `weft.dev/netns: /var/run/netns/${mesh.plan.pod('client').netns}`
    assert.ok(before.includes(netns))
    mesh.writeRules('pods.yaml', before.replace(netns, `${netns}\n    weft.dev/dns-capture: "false"`))
    await mesh.eventually(
      'the pod asks past the mesh',
      async () => (await status(`@${resolver4}`, NEAR)) === 'NXDOMAIN',
    )
    mesh.writeRules('pods.yaml', before)
    await mesh.eventually(
      'the pod asks the mesh',
      async () => (await dig(`@${resolver4}`, NEAR)) === addressesOf('near')[0],
    )
  })

  it('loses no question when a new agent takes over from the one that runs', async () => {
    const stop = await askAllTheWhile()
    const old = await mesh.upgradeAgent('node1')
    assert.match(await stop(), /"wrong":0,"retries":0/)
    assert.equal(await dig(`@${resolver4}`, NEAR), addressesOf('near')[0])
    assert.equal(await old.ended, 'exit code 0')
  })

  it('goes on while the agent hangs, and is as before when it comes back', async () => {
    const pid = mesh.pid('agent-node1')
    process.kill(pid, 'SIGSTOP')
    try {
      // What dig sends first may still go to the agent, which has been silent for too short a time.
      const { stdout } = await mesh.run('client', [
        'dig',
        '+short',
        '+tries=4',
        '+timeout=1',
        `@${resolver4}`,
        'other.example',
      ])
      assert.match(stdout, /198\.51\.100\.7/)
      assert.equal(await dig(`@${resolver4}`, 'other.example'), '198.51.100.7')
      assert.equal(await dig(`@${resolver4}`, '+tcp', 'other.example'), '198.51.100.7')
      assert.equal(await status(`@${resolver4}`, NEAR), 'NXDOMAIN')
    } finally {
      process.kill(pid, 'SIGCONT')
    }
    await mesh.eventually(
      'names of the mesh are back',
      async () => (await dig(`@${resolver4}`, NEAR)) === addressesOf('near')[0],
    )
  })

  it('goes on at once when the agent is killed', async () => {
    const stop = await askAllTheWhile()
    await mesh.kill('agent-node1')
    for (const server of [resolver4, resolver6]) {
      for (const transport of ['+notcp', '+tcp']) {
        assert.equal(await dig(transport, `@${server}`, 'other.example'), '198.51.100.7')
      }
    }
    await mesh.startAgent('node1')
    // One question was with the agent when it was killed, and one may have come before its sockets were gone.
    assert.match(await stop(), /"wrong":0,"retries":[012]\}/)
    assert.equal(await dig(`@${resolver4}`, NEAR), addressesOf('near')[0])
    assert.ok((await mesh.metric('node1', 'weft_dns_bypassed_total', { reason: 'unserved' })) >= 2)
  })
})
