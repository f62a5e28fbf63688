/**
 * Rules in a live mesh: who is let in, on one node and between nodes, and that a change of YAML is in force without
 * restarting anything, on connections that are open already.
 */
import assert from 'node:assert/strict'
import { after, afterEach, before, describe, it } from 'node:test'
import { LiveMesh, NODES } from '../support/live-mesh.ts'
import { Talker } from '../support/live-talker.ts'
import { needsRoot } from '../support/netns.ts'

const PATHS = [
  { server: 'near', locked: 'near-vault', path: 'on one node' },
  { server: 'far', locked: 'far-vault', path: 'between nodes' },
] as const

const STRICT_VAULT = `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: vault }
spec: { mtls: { mode: STRICT } }
`

describe('rules in a live mesh', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'other', node: 'node1' },
        { name: 'near', node: 'node1', programs: ['web', 'talk'] },
        { name: 'far', node: 'node2', programs: ['web', 'talk'] },
        { name: 'near-vault', node: 'node1', namespace: 'vault', programs: ['web', 'talk'] },
        { name: 'far-vault', node: 'node2', namespace: 'vault', programs: ['web', 'talk'] },
        { name: 'outsider', node: 'node1', namespace: 'outside' },
      ],
      services: ['near', 'far', 'near-vault', 'far-vault'],
      rules: { 'peers.yaml': STRICT_VAULT },
    })
  })

  after(async () => {
    await mesh?.close()
  })

  afterEach(async () => {
    for (const name of ['policy.yaml', 'routing.yaml']) mesh.removeRules(name)
    await mesh.eventually('the rules are gone from both agents', async () => {
      for (const node of NODES) {
        const { policies, traffic } = await mesh.configDump(node)
        if (/tested|opened/.test(JSON.stringify([policies, traffic]))) return false
      }
      return true
    })
  })

  /** Puts a policy for the pods `app` of a namespace in place. */
  function writePolicy(app: string, namespace: string, spec: string): void {
    mesh.writeRules(
      'policy.yaml',
      `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: tested, namespace: ${namespace} }
spec:
  selector: { matchLabels: { app: ${app} } }
${spec}`,
    )
  }

  for (const { server, locked, path } of PATHS) {
    const url = `http://${server}:8080/`

    it(`a STRICT namespace serves the mesh and refuses the outsider, ${path} of the client`, async () => {
      const [ipv4, ipv6] = mesh.plan.pod(locked).addresses
      for (const host of [locked, `${locked}.vault`, ipv4, `[${ipv6}]`]) {
        assert.equal(await mesh.code('client', `http://${host}:8080/`), '200', host)
      }
      for (const host of [ipv4, `[${ipv6}]`]) {
        assert.equal(await mesh.code('outsider', `http://${host}:8080/`), '000')
        const { stdout } = await mesh.run('outsider', ['curl', '-s', '-m', '5', `telnet://${host}:7000`], 'QUIT\r\n')
        assert.equal(stdout, '')
      }
    })

    it(`PERMISSIVE for one workload opens it to the outsider, and STRICT closes it again, ${path}`, async () => {
      const address = mesh.plan.pod(locked).addresses[0]
      mesh.writeRules(
        'policy.yaml',
        `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: opened, namespace: vault }
spec:
  selector: { matchLabels: { app: ${locked} } }
  mtls: { mode: PERMISSIVE }
`,
      )
      const traffic = mesh.traffic('outsider', { url: `http://${address}:8080/`, isFresh: false, pauseMs: 20 })
      await mesh.eventually('the outsider is served', async () => (await traffic.tally()).last === '200')
      mesh.writeRules('policy.yaml', '')
      await mesh.eventually('the open connection is closed, and new ones refused', async () => {
        const { last } = await traffic.tally()
        return last !== '200'
      })
      await traffic.stop()
    })

    it(`an ALLOW by principal lets in whom it names and nobody else, ${path}`, async () => {
      const principal = 'cluster.local/ns/default/sa/client'
      writePolicy(
        server,
        'default',
        `  action: ALLOW\n  rules: [{ from: [{ source: { principals: ["${principal}"] } }] }]`,
      )
      await mesh.eventually('others are refused', async () => (await mesh.code('other', url)) === '403')
      assert.equal(await mesh.code('client', url), '200')
      const address = mesh.plan.pod(server).addresses[0]
      assert.equal(await mesh.code('outsider', `http://${address}:8080/`), '403')
      // A header that claims an identity is no identity.
      const claim = ['-H', `x-forwarded-client-cert: URI=spiffe://${principal}`]
      assert.equal(await mesh.code('other', url, ...claim), '403')
    })

    it(`a DENY on method and path refuses these requests of a connection and serves the others, ${path}`, async () => {
      writePolicy(
        server,
        'default',
        `  action: DENY\n  rules: [{ to: [{ operation: { methods: ["DELETE"], paths: ["/private*"] } }] }]`,
      )
      await mesh.eventually('it is in force', async () => {
        return (await mesh.code('client', `${url}private/x`, '-X', 'DELETE')) === '403'
      })
      const { stdout } = await mesh.run('client', [
        ...['curl', '-s', '-o', '/dev/null', '-w', '%{http_code} %{num_connects}\n', '-X', 'DELETE', `${url}private`],
        ...['--next', '-s', '-o', '/dev/null', '-w', '%{http_code} %{num_connects}\n', url],
        ...['--next', '-s', '-o', '/dev/null', '-w', '%{http_code} %{num_connects}\n', `${url}private`],
      ])
      assert.equal(stdout, '403 1\n200 0\n404 0\n')
      // Paths that say the same in other words.
      for (const same of ['/%70rivate', '/x/../private', '//private', '/./private']) {
        const code = await mesh.code('client', `http://${server}:8080${same}`, '-X', 'DELETE', '--path-as-is')
        assert.ok(code === '403' || code === '400', `${same}: ${code}`)
      }
    })

    it(`a new policy closes TCP connections that it forbids and leaves the others, ${path}`, async () => {
      const talkers = Object.fromEntries(['client', 'other'].map((pod) => [pod, new Talker(mesh, pod, server)]))
      for (const talker of Object.values(talkers)) assert.equal(await talker.say('one'), 'hello one')
      const forbidden = 'cluster.local/ns/default/sa/other'
      writePolicy(
        server,
        'default',
        `  action: DENY\n  rules: [{ from: [{ source: { principals: ["${forbidden}"] } }] }]`,
      )
      assert.match(await talkers['other']!.ended, /ECONNRESET|ECONNABORTED|end/)
      assert.equal(await talkers['client']!.say('two'), 'hello two')
      await talkers['client']!.close()
    })

    it(`a changed route holds for the next request of open keep-alive connections, ${path}`, async () => {
      const traffic = mesh.traffic('client', { url, isFresh: false, pauseMs: 5 })
      await mesh.eventually('traffic flows', async () => (await traffic.tally()).requests > 10)
      mesh.writeRules(
        'routing.yaml',
        `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: tested, namespace: default }
spec:
  hosts: [${server}]
  http: [{ directResponse: { status: 418 } }]
`,
      )
      await mesh.eventually('the route is in force', async () => (await traffic.tally()).last === '418')
      mesh.removeRules('routing.yaml')
      await mesh.eventually('the route is gone', async () => (await traffic.tally()).last === '200')
      mesh.writeRules('routing.yaml', '')
      const { outcomes, connections } = await traffic.stop()
      assert.deepEqual(Object.keys(outcomes).sort(), ['200', '418'])
      assert.equal(connections, 1)
    })
  }

  it('broken YAML is reported with file and line and leaves what was in force', async () => {
    writePolicy('far', 'default', '  action: DENY\n  rules: [{ to: [{ operation: { methods: ["PUT"] } }] }]')
    const put = (): Promise<string> => mesh.code('client', 'http://far:8080/', '-X', 'PUT')
    await mesh.eventually('the policy is in force', async () => (await put()) === '403')
    const broken = [
      'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {',
      'apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: { name: tested, namespace: default }\nspec:\n  action: FORBID\n',
    ]
    for (const text of broken) {
      mesh.writeRules('policy.yaml', text)
      await mesh.eventually('the problem is reported', async () => {
        const { messages } = await mesh.controllerStatus()
        return messages.some((message) => /policy\.yaml/.test(JSON.stringify(message)))
      })
      assert.equal(await put(), '403')
    }
    assert.match(mesh.log('controller'), /policy\.yaml:[0-9]+/)
    writePolicy('far', 'default', '  action: DENY\n  rules: [{ to: [{ operation: { methods: ["PATCH"] } }] }]')
    await mesh.eventually('the corrected policy is in force', async () => (await put()) === '200')
    const { messages } = await mesh.controllerStatus()
    assert.deepEqual(
      messages.filter(({ severity }) => severity === 'error'),
      [],
    )
  })

  it('both reporters count the same requests under the same labels, and dumps hold no key', async () => {
    for (const { server } of PATHS) for (let i = 0; i < 5; i++) await mesh.code('client', `http://${server}:8080/`)
    const sources = await series(mesh, 'source')
    const destinations = await series(mesh, 'destination')
    assert.ok(sources.size > 0)
    // Plaintext from outside has no source reporter; all else must be there twice.
    for (const [labels, count] of sources) {
      // What the client's side answers by itself has no destination.
      if (!labels.includes('destination_workload="unknown"')) assert.equal(destinations.get(labels), count, labels)
    }
    for (const [labels, count] of destinations) {
      if (labels.includes('connection_security_policy="mutual_tls"')) assert.equal(sources.get(labels), count, labels)
    }
    for (const node of NODES) {
      const dump = JSON.stringify(await mesh.configDump(node))
      assert.doesNotMatch(dump, /PRIVATE KEY|"key"\s*:\s*"-----/)
      assert.doesNotMatch(await mesh.get(node, 15_000, '/certificates'), /PRIVATE KEY/)
    }
  })
})

/** Series of the request counter without `reporter`, over both agents. */
async function series(mesh: LiveMesh, reporter: string): Promise<Map<string, number>> {
  const counts = new Map<string, number>()
  for (const node of NODES) {
    for (const line of (await mesh.metrics(node)).split('\n')) {
      const match = /^istio_requests_total\{(.*)\} ([0-9]+)$/.exec(line)
      if (match === null || !match[1]!.includes(`reporter="${reporter}"`)) continue
      // The client's side cannot know why the other side refused: an answer of 403 is all it sees.
      const isRefusal = match[1]!.includes('response_code="403"')
      const labels = match[1]!
        .split(/,(?=[a-z_]+=")/)
        .filter((label) => !label.startsWith('reporter=') && !(isRefusal && label.startsWith('response_flags=')))
      const key = labels.sort().join(',')
      counts.set(key, (counts.get(key) ?? 0) + Number(match[2]))
    }
  }
  return counts
}
