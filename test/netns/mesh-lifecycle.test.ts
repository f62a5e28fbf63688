/**
 * What happens to traffic when pods come and go, and when parts of the mesh end, die and come back: each as a user
 * would meet it, with the processes really killed.
 */
import assert from 'node:assert/strict'
import { after, afterEach, before, describe, it } from 'node:test'
import { LiveMesh, NODES } from '../support/live-mesh.ts'
import { Talker } from '../support/live-talker.ts'
import { needsRoot } from '../support/netns.ts'
import { SLOW_BYTES } from '../support/nginx-site.ts'

const PATHS = [
  { server: 'near', path: 'on one node' },
  { server: 'far', path: 'between nodes' },
] as const

describe('life of a mesh', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'near', node: 'node1', programs: ['web', 'talk'] },
        { name: 'far', node: 'node2', programs: ['web', 'talk'] },
        { name: 'vault', node: 'node2', namespace: 'vault', programs: ['web'] },
        { name: 'outsider', node: 'node1', namespace: 'outside' },
      ],
      services: ['near', 'far', 'vault'],
      rules: {
        'peers.yaml': `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: vault }
spec: { mtls: { mode: STRICT } }
`,
      },
    })
  })

  after(async () => {
    await mesh?.close()
  })

  afterEach(async () => {
    if (mesh === undefined) return
    // A test that has failed is to fail no other.
    for (const name of ['broken.yaml', 'routing.yaml']) mesh.removeRules(name)
    if (!mesh.hasChild('controller')) await mesh.startController()
    for (const node of NODES) if (!mesh.hasChild(`agent-${node}`)) await mesh.startAgent(node)
  })

  /** Status code of a GET from `pod` over a new connection. */
  const get = (host: string, pod = 'client'): Promise<string> => mesh.code(pod, `http://${host}:8080/`)
  /** The same must be 200. */
  const served = (host: string, pod = 'client'): Promise<void> => mesh.assertServed(pod, `http://${host}:8080/`)
  /** A pod's address: reaches it with and without a mesh. */
  const addressOf = (pod: string): string => mesh.plan.pod(pod).addresses[0]!

  /** Connections to `pod` that came in tunnels or by one hop, as its node's agent counts them. */
  const secured = async (pod: string, node: 'node1' | 'node2'): Promise<number> => {
    const labels = { reporter: 'destination', destination_workload: pod, connection_security_policy: 'mutual_tls' }
    return await mesh.metric(node, 'istio_requests_total', labels)
  }

  describe('pods', () => {
    after(async () => {
      for (const name of ['late1', 'late2', 'mover']) if (mesh.hasPod(name)) await mesh.deletePod(name)
    })

    for (const [node, name] of [
      ['node1', 'late1'],
      ['node2', 'late2'],
    ] as const) {
      it(`that appear while agents run are served and serve, on ${node}`, async () => {
        await mesh.addPod({ name, node, programs: ['web', 'talk'], labels: { app: 'far' } })
        const host = addressOf(name)
        await mesh.eventually('it is enrolled', async () => {
          await get(host)
          return (await secured(name, node)) > 0
        })
        await served('near', name)
        await served('vault', name)
      })

      it(`that opt out by label leave the mesh without losing open connections, and come back, on ${node}`, async () => {
        // Requests on a keep-alive connection follow: not one more in plaintext once both ends are in the mesh.
        const traffic = mesh.traffic('client', { url: `http://${addressOf(name)}:8080/`, isFresh: false, pauseMs: 2 })
        const captured = new Talker(mesh, 'client', addressOf(name))
        assert.equal(await captured.say('through the mesh'), 'hello through the mesh')
        mesh.plan.label(name, { 'weft.dev/mesh': 'disabled' })
        mesh.writeObjects()
        await mesh.eventually('the vault refuses it', async () => (await get(addressOf('vault'), name)) === '000')
        await served(addressOf('near'), name)
        await mesh.eventually('the other node knows', async () => (await get(addressOf(name))) === '200')

        const plain = new Talker(mesh, 'client', addressOf(name))
        assert.equal(await plain.say('beside the mesh'), 'hello beside the mesh')
        mesh.plan.label(name, {})
        mesh.writeObjects()
        await mesh.eventually('the vault serves it again', async () => (await get('vault', name)) === '200')
        assert.equal(await plain.say('still there'), 'hello still there')
        const before = await secured(name, node)
        await mesh.eventually(
          'keep-alive traffic is in the mesh again',
          async () => (await secured(name, node)) > before,
        )
        await mesh.eventually('there were many requests', async () => (await traffic.tally()).requests > 50)
        const { outcomes, connections } = await traffic.stop()
        // 503 while one node knows and the other does not yet; nothing else, and nothing that hangs.
        assert.deepEqual(
          Object.keys(outcomes).filter((outcome) => outcome !== '503'),
          ['200'],
          JSON.stringify(outcomes),
        )
        assert.ok(connections < 20, `${connections} connections`)
        await plain.close()
        await captured.close()
      })

      it(`that are deleted free their network namespace, open connections or not, on ${node}`, async () => {
        const talkers = [new Talker(mesh, 'client', addressOf(name)), new Talker(mesh, 'near', addressOf(name))]
        for (const talker of talkers) assert.equal(await talker.say('hi'), 'hello hi')
        assert.ok(await mesh.hasWire(node, name))
        await mesh.deletePod(name)
        await mesh.eventually('its end of the wire is gone', async () => !(await mesh.hasWire(node, name)))
        for (const talker of talkers) await talker.close()
      })
    }

    it('that cannot be enrolled are reported by name, and keep no other from being served', async () => {
      const paths = ['/var/run/netns/nowhere', '/etc/passwd', '/dev/null', `/run/netns/${mesh.plan.name}-near`]
      mesh.writeRules('broken.yaml', claims('broken', paths))
      for (const index of paths.keys()) {
        await mesh.eventually('it is reported', () => mesh.log('agent-node1').includes(`default/broken${index}`))
      }
      await mesh.addPod({ name: 'sound', node: 'node1', programs: ['web'] })
      try {
        await mesh.eventually('another is enrolled', async () => {
          await get(addressOf('sound'))
          return (await secured('sound', 'node1')) > 0
        })
        for (const host of ['near', 'far', 'vault']) await served(host)
      } finally {
        mesh.removeRules('broken.yaml')
        await mesh.deletePod('sound')
      }
      await mesh.eventually('nothing is left to enrol', async () => (await readiness('node1')).status === '200')
    })

    it('that claim the network of another one never get it, also from an agent that starts', async () => {
      const names = ['client', 'near', 'outsider']
      const paths = names.map((name) => `/run/netns/${mesh.plan.name}-${name}`)
      mesh.writeRules('broken.yaml', claims('thief', paths))
      try {
        await mesh.end('agent-node1')
        mesh.spawnAgent('node1')
        await mesh.eventually('all are looked at', async () => {
          const log = mesh.log('agent-node1')
          if (!names.every((_, index) => log.includes(`default/thief${index}`))) return false
          return (await mesh.metric('node1', 'weft_enrolled_pods').catch(() => 0)) === 2
        })
        const before = await secured('near', 'node1')
        await served('near')
        assert.ok((await secured('near', 'node1')) > before)
        const { stdout } = await mesh.run('outsider', ['ip', 'rule'])
        assert.doesNotMatch(stdout, /fwmark/, 'who is not in the mesh is not brought into it by another')
      } finally {
        mesh.removeRules('broken.yaml')
      }
      await mesh.eventually('nothing is left to enrol', async () => (await readiness('node1')).status === '200')
    })

    it('that move to another node are found there', async () => {
      await mesh.addPod({ name: 'mover', node: 'node1', programs: ['web'] })
      mesh.plan.addService('mover')
      mesh.writeObjects()
      const [address] = mesh.plan.services.at(-1)!.addresses
      await mesh.eventually('it is served', async () => (await get(address!)) === '200')
      await mesh.deletePod('mover')
      await mesh.eventually('it is gone', async () => {
        return (await mesh.code('client', `http://${address}:8080/`, '--max-time', '1')) !== '200'
      })
      await mesh.addPod({ name: 'mover', node: 'node2', programs: ['web'] })
      await mesh.eventually('it is served from its new node', async () => (await get(address!)) === '200')
      await mesh.eventually('and by mutual TLS', async () => {
        await get(address!)
        return (await secured('mover', 'node2')) > 0
      })
      await mesh.deletePod('mover')
    })
  })

  describe('the controller', () => {
    it('may be killed: traffic goes on, and what changed meanwhile arrives alone when it is back', async () => {
      const traffics = PATHS.map(({ server }) =>
        mesh.traffic('client', { url: `http://${server}:8080/`, isFresh: true, pauseMs: 10 }),
      )
      const received = await Promise.all(NODES.map(receivedBy))
      await mesh.kill('controller')
      await mesh.eventually('both agents have noticed', async () => {
        return (await Promise.all(NODES.map(subscriptionOf))).every(({ isConnected }) => !isConnected)
      })
      for (const { server } of PATHS) await served(server)
      mesh.writeRules(
        'routing.yaml',
        `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: changed-meanwhile, namespace: default }
spec:
  hosts: [near]
  http: [{ match: [{ uri: { exact: /new } }], directResponse: { status: 418 } }, { route: [{ destination: { host: near } }] }]
`,
      )
      await mesh.startController()
      await mesh.eventually('the change is in force', async () => {
        return (await mesh.code('client', 'http://near:8080/new')) === '418'
      })
      for (const [index, node] of NODES.entries()) {
        await mesh.eventually('the agent is connected', async () => (await subscriptionOf(node)).isConnected)
        const count = (await receivedBy(node)) - received[index]!
        // One service port changed: its traffic, in each form that an agent takes.
        assert.ok(count <= 4, `${node} received ${count} resources`)
      }
      for (const traffic of traffics) {
        const { outcomes, requests } = await traffic.stop()
        assert.deepEqual(outcomes, { 200: requests })
      }
      mesh.removeRules('routing.yaml')
    })

    it('may be away when an agent restarts: pods run as without a mesh until certificates can be had', async () => {
      await mesh.kill('controller')
      await mesh.end('agent-node1')
      mesh.spawnAgent('node1')
      // The configuration comes from disk; keys are only in memory, so no pod can be captured yet.
      await mesh.eventually('it has its configuration from disk', async () => {
        return (await subscriptionOf('node1').catch(() => null))?.isFromDisk === true
      })
      const { status, stdout } = await readiness('node1')
      assert.equal(status, '503')
      assert.match(stdout, /pods are not captured yet/)
      for (const { server } of PATHS) await served(addressOf(server))
      assert.equal(await get(addressOf('vault')), '000')

      await mesh.startController()
      await mesh.eventually('it is ready', async () => (await readiness('node1')).status === '200')
      for (const host of ['near', 'far', 'vault']) await served(host)
    })
  })

  describe('an agent', () => {
    for (const [node, { server }] of [
      ['node1', PATHS[0]],
      ['node1', PATHS[1]],
      ['node2', PATHS[1]],
    ] as const) {
      it(`of ${node} that is told to end lets requests to "${server}" finish; then pods connect directly`, async () => {
        const slow = mesh.run('client', [
          'curl',
          '-sS',
          '--max-time',
          '15',
          '-o',
          '/dev/null',
          '-w',
          '%{http_code} %{size_download}',
          `http://${server}:8080/slow`,
        ])
        await mesh.eventually('the download is under way', async () => {
          const connections = JSON.parse(await mesh.get(node, 15_000, '/connections')) as unknown[]
          return connections.length > 0
        })
        await mesh.end(`agent-${node}`)
        assert.deepEqual(pick(await slow), { status: 0, stdout: `200 ${SLOW_BYTES}`, stderr: '' })
        for (const { name } of mesh.plan.pods.filter((pod) => pod.node === node && pod.name !== 'outsider')) {
          assert.match((await mesh.run(name, ['ip', 'rule'])).stdout, /fwmark/, 'the next agent finds the pod captured')
        }
        await served(addressOf(server), 'outsider')
        // A pod in the mesh does not fall back to plaintext because the other node's agent is gone.
        assert.equal(await get(addressOf(server)), node === 'node1' ? '200' : '503')
        await mesh.startAgent(node)
        await served('vault')
      })
    }

    it('that ends under load costs no request: new connections go directly, open ones end in order', async () => {
      const traffics = PATHS.map(({ server }) => {
        return mesh.traffic('client', { url: `http://${addressOf(server)}:8080/`, isFresh: true })
      })
      await mesh.eventually('traffic flows', async () => (await traffics[0]!.tally()).requests > 20)
      await mesh.end('agent-node1')
      await mesh.startAgent('node1')
      for (const traffic of traffics) {
        const { outcomes, requests } = await traffic.stop()
        assert.deepEqual(outcomes, { 200: requests })
      }
    })

    it('that hangs for a moment delays requests and loses none', async () => {
      const traffics = PATHS.map(({ server }) =>
        mesh.traffic('client', { url: `http://${server}:8080/`, isFresh: true }),
      )
      for (const node of NODES) {
        const pid = mesh.pid(`agent-${node}`)
        process.kill(pid, 'SIGSTOP')
        try {
          await new Promise((resolve) => setTimeout(resolve, 1000))
        } finally {
          process.kill(pid, 'SIGCONT')
        }
      }
      for (const traffic of traffics) {
        const { outcomes, requests } = await traffic.stop()
        assert.deepEqual(outcomes, { 200: requests })
      }
    })

    it('whose data worker dies replaces it and serves again; what arrives meanwhile waits', async () => {
      for (const node of NODES) {
        await mesh.endWorker(node)
        for (const host of ['near', 'far', 'vault']) {
          await mesh.eventually(`${host} is served`, async () => (await get(host)) === '200')
        }
        assert.match(mesh.log(`agent-${node}`), /a data worker died/)
      }
      for (let i = 0; i < 20; i++) for (const host of ['near', 'far', 'vault']) await served(host)
    })

    it('whose only data worker is blocked: pods go on without it within two seconds, and with it when it runs', async () => {
      const blocks = await Promise.all(NODES.map((node) => mesh.block(node, 'worker')))
      try {
        for (const node of NODES) {
          await mesh.eventually('the agent says so', async () =>
            /does not respond; it gets/.test(mesh.log(`agent-${node}`)),
          )
        }
        for (const { server } of PATHS) {
          for (const pod of ['client', 'outsider']) await served(addressOf(server), pod)
        }
        assert.equal(await get(addressOf('vault')), '000', 'nobody serves plaintext for a STRICT pod')
        for (const node of NODES) assert.equal(await mesh.metric(node, 'weft_silent_workers'), 1)
      } finally {
        for (const unblock of blocks) unblock()
      }
      for (const host of ['near', 'far', 'vault']) {
        await mesh.eventually(`${host} is served again`, async () => (await get(host)) === '200')
      }
      for (const node of NODES) {
        await mesh.eventually('all workers run', async () => (await mesh.metric(node, 'weft_silent_workers')) === 0)
        assert.match(mesh.log(`agent-${node}`), /a data worker responds again/)
        assert.ok((await mesh.metric(node, 'weft_bypassed_connections_total')) > 0)
      }
    })

    it('that is killed: PERMISSIVE pods are reached directly, STRICT ones are not; a new one enrols them again', async () => {
      await mesh.kill('agent-node1')
      await mesh.kill('agent-node2')
      for (const { server } of PATHS) {
        for (const pod of ['client', 'outsider']) await served(addressOf(server), pod)
      }
      assert.equal(await get(addressOf('vault')), '000', 'nobody serves plaintext for a STRICT pod')
      await Promise.all(NODES.map((node) => mesh.startAgent(node)))
      for (const host of ['near', 'far', 'vault']) await served(host)
      for (const node of NODES) assert.equal(await mesh.metric(node, 'weft_enrolled_pods'), 2)
    })
  })

  describe('an agent that was killed', () => {
    const rulesOf = async (pod: string): Promise<string> => {
      const both = [await mesh.run(pod, ['ip', '-4', 'rule']), await mesh.run(pod, ['ip', '-6', 'rule'])]
      return both.map(({ stdout }) => stdout).join('')
    }

    it('is followed by one that lets pods go which have left the mesh meanwhile, and keeps the others', async () => {
      await mesh.kill('agent-node1')
      assert.match(await rulesOf('near'), /fwmark/)
      mesh.plan.label('near', { 'weft.dev/mesh': 'disabled' })
      mesh.writeObjects()
      try {
        await mesh.startAgent('node1')
        await mesh.eventually('its rules are gone', async () => !(await rulesOf('near')).includes('fwmark'))
        assert.match(await rulesOf('client'), /fwmark/)
        await served(addressOf('near'))
        assert.equal(await mesh.metric('node1', 'weft_enrolled_pods'), 1)
      } finally {
        mesh.plan.label('near', {})
        mesh.writeObjects()
      }
      await mesh.eventually('it is captured again', async () => (await rulesOf('near')).includes('fwmark'))
    })
  })

  /** Pods of node1 that name these network namespaces as their own; each has the name and a number. */
  function claims(name: string, paths: readonly string[]): string {
    const pods = paths.map(
      (path, index) => `
apiVersion: v1
kind: Pod
metadata: { name: ${name}${index}, namespace: default, annotations: { weft.dev/netns: ${path} } }
spec: { nodeName: node1, serviceAccountName: near, containers: [{ name: x, image: x }] }
status: { phase: Running, podIP: 198.18.1.20${index}, podIPs: [{ ip: 198.18.1.20${index} }] }
`,
    )
    return pods.join('---')
  }

  async function subscriptionOf(node: (typeof NODES)[number]) {
    const { subscription } = await mesh.configDump(node)
    return subscription as { isConnected: boolean; isFromDisk: boolean; receivedCount: number }
  }

  async function receivedBy(node: (typeof NODES)[number]): Promise<number> {
    return (await subscriptionOf(node)).receivedCount
  }

  async function readiness(node: (typeof NODES)[number]): Promise<{ status: string; stdout: string }> {
    const answer = await mesh.onNode(node, [
      ...(['curl', '-s', '-w', '%{http_code}', 'http://127.0.0.1:15021/healthz/ready'] as const),
    ])
    return { status: answer.slice(-3), stdout: answer.slice(0, -3) }
  }
})

function pick({ status, stdout, stderr }: { status: number | null; stdout: string; stderr: string }) {
  return { status, stdout, stderr }
}
