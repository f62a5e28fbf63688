/** TCP between pods of one node is carried by the kernel, as users' YAML says, in a live mesh. */
import assert from 'node:assert/strict'
import { after, afterEach, before, describe, it } from 'node:test'
import { manifests } from '../../src/cli/demo/manifests.ts'
import { LiveMesh } from '../support/live-mesh.ts'
import { Talker } from '../support/live-talker.ts'
import { needsRoot } from '../support/netns.ts'

interface Listed {
  readonly direction: string
  readonly originalDestination: string
  readonly carriedBy?: string
}

const GREETER = `
apiVersion: v1
kind: Service
metadata: { name: greeter, namespace: default }
spec:
  clusterIP: 198.19.0.200
  clusterIPs: ["198.19.0.200", "fd77:ffff::200"]
  selector: { greets: "yes" }
  ports: [{ name: tcp-greeter, port: 25, targetPort: 7000 }]
`

describe('what the kernel carries in a live mesh', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: 'node1' },
        { name: 'other', node: 'node1' },
        { name: 'near', node: 'node1', labels: { greets: 'yes' }, programs: ['web', 'talk'] },
        { name: 'second', node: 'node1', labels: { greets: 'yes', version: 'v2' }, programs: ['talk'] },
        { name: 'far', node: 'node2', programs: ['talk'] },
        { name: 'vault', node: 'node1', namespace: 'vault', programs: ['web', 'talk'] },
      ],
      services: ['near', 'far', 'vault'],
      rules: { 'greeter.yaml': GREETER },
    })
  })

  after(async () => {
    await mesh?.close()
  })

  afterEach(async () => {
    for (const name of ['policy.yaml', 'routing.yaml']) mesh.removeRules(name)
    mesh.writeObjects()
    await mesh.eventually('policies and rules are gone', async () => {
      const { policies, traffic, workloads } = await mesh.configDump('node1')
      return (
        `${JSON.stringify([policies, traffic])}${JSON.stringify(workloads).includes('"isHealthy":false')}` ===
        '[[],[]]false'
      )
    })
  })

  /** Connections that pass through the agent of node1. */
  async function proxied(): Promise<readonly Listed[]> {
    const all = JSON.parse(await mesh.get('node1', 15_000, '/connections')) as Listed[]
    return all.filter(({ carriedBy }) => carriedBy !== 'kernel')
  }

  const near = (): readonly string[] => mesh.plan.services.find(({ name }) => name === 'near')!.addresses

  for (const [family, index] of [
    ['IPv4', 0],
    ['IPv6', 1],
  ] as const) {
    it(`TCP to a service and to a pod of the node is, over ${family}`, async () => {
      for (const host of [near()[index]!, mesh.plan.pod('near').addresses[index]!]) {
        const talker = new Talker(mesh, 'client', host)
        assert.equal(await talker.say('hi'), 'hello hi')
        assert.deepEqual(await proxied(), [])
        await talker.close()
      }
    })

    it(`TCP to another node is not, over ${family}`, async () => {
      const far = mesh.plan.services.find(({ name }) => name === 'far')!.addresses[index]!
      const talker = new Talker(mesh, 'client', far)
      assert.equal(await talker.say('hi'), 'hello hi')
      assert.equal((await proxied()).length, 1)
      await talker.close()
    })

    it(`a pod reaches itself through its service, over ${family}`, async () => {
      const talker = new Talker(mesh, 'near', near()[index]!)
      assert.equal(await talker.say('hi'), 'hello hi')
      assert.deepEqual(await proxied(), [])
      await talker.close()
    })

    it(`a server that speaks first is heard, over ${family}`, async () => {
      const host = ['198.19.0.200', 'fd77:ffff::200'][index]!
      const { stdout } = await mesh.run(
        'client',
        ['curl', '-s', '-m', '5', `telnet://${host.includes(':') ? `[${host}]` : host}:25`],
        'QUIT\r\n',
      )
      assert.match(stdout, /^220 (near|second) ready\r\n221 bye/)
      assert.deepEqual(await proxied(), [])
    })
  }

  it('HTTP and undeclared ports are not', async () => {
    const before = await mesh.metric('node1', 'istio_requests_total', { reporter: 'source' })
    assert.equal(await mesh.code('client', 'http://near:8080/'), '200')
    assert.equal(await mesh.metric('node1', 'istio_requests_total', { reporter: 'source' }), before + 1)
    const talker = new Talker(mesh, 'client', 'near', 7000)
    await talker.say('hi')
    assert.equal((await proxied()).length, 1)
    await talker.close()
  })

  it('a policy that denies ends open connections, refuses new ones at connect(), and lets others be', async () => {
    const talkers = [new Talker(mesh, 'client', near()[0]!), new Talker(mesh, 'client', near()[1]!)]
    const other = new Talker(mesh, 'other', near()[0]!)
    for (const talker of [...talkers, other]) assert.equal(await talker.say('hi'), 'hello hi')
    assert.deepEqual(await proxied(), [])
    mesh.writeRules(
      'policy.yaml',
      `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: no-client, namespace: default }
spec:
  action: DENY
  selector: { matchLabels: { app: near } }
  rules: [{ from: [{ source: { principals: ["cluster.local/ns/default/sa/client"] } }] }]
`,
    )
    for (const talker of talkers) assert.notEqual(await talker.ended, 'end')
    for (const index of [0, 1]) {
      const refused = new Talker(mesh, 'client', near()[index]!)
      assert.match(await refused.ended, /^ECONNREFUSED$/)
    }
    assert.equal(await other.say('still'), 'hello still')
    await other.close()
    mesh.removeRules('policy.yaml')
    await mesh.eventually('it is allowed again', async () => {
      const talker = new Talker(mesh, 'client', near()[0]!)
      const answer = await talker.say('hi')
      await talker.close()
      return answer === 'hello hi'
    })
  })

  /** Who answered so many connections to the greeter service, by pod. */
  async function greetings(count: number): Promise<Record<string, number>> {
    const script = `
      const net = require('node:net'), counts = {}
      const one = (left) => {
        if (left === 0) return console.log(JSON.stringify(counts))
        const socket = net.connect({ host: '198.19.0.200', port: 25 })
        socket.on('error', (error) => { counts[error.code] = (counts[error.code] ?? 0) + 1; one(left - 1) })
        socket.once('data', (bytes) => {
          const pod = String(bytes).split(' ')[1]
          counts[pod] = (counts[pod] ?? 0) + 1
          socket.destroy()
          one(left - 1)
        })
      }
      one(${count})`
    const { stdout, stderr } = await mesh.run('client', [process.execPath, '-e', script])
    assert.equal(stderr, '')
    return JSON.parse(stdout) as Record<string, number>
  }

  const SUBSETS = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: greeter, namespace: default }
spec:
  host: greeter
  subsets: [{ name: v1, labels: { version: v1 } }, { name: v2, labels: { version: v2 } }]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: greeter, namespace: default }
spec:
  hosts: [greeter]
  tcp:
    - route:
        - { destination: { host: greeter, subset: v1 }, weight: WEIGHT1 }
        - { destination: { host: greeter, subset: v2 }, weight: WEIGHT2 }
`

  it('weights of subsets hold, and change with the rule', async () => {
    const CONNECTIONS = 1000
    for (const weight of [80, 0]) {
      mesh.writeRules(
        'routing.yaml',
        SUBSETS.replace('WEIGHT1', String(weight)).replace('WEIGHT2', String(100 - weight)),
      )
      const wanted = weight === 0 ? { second: 1 } : { near: 0.8, second: 0.2 }
      // The rule is in force when what was impossible (or certain) before is not any more; then it is counted.
      let counts: Record<string, number> = {}
      await mesh.eventually(
        `weights ${weight}`,
        async () => {
          counts = await greetings(CONNECTIONS)
          return Object.entries(wanted).every(([name, share]) => {
            // Six standard deviations.
            const gap = Math.abs((counts[name] ?? 0) - CONNECTIONS * share)
            return gap <= 6 * Math.sqrt(CONNECTIONS * share * (1 - share))
          })
        },
        () => JSON.stringify(counts),
      )
    }
    assert.deepEqual(await proxied(), [])
  })

  it('an endpoint that is not ready gets nothing', async () => {
    const pods = manifests(mesh.plan).get('pods.yaml')!
    const [before, second] = pods.split('  name: second\n  namespace: default\n  labels')
    mesh.writeRules(
      'pods.yaml',
      `${before}  name: second\n  namespace: default\n  labels${second!.replace('status: "True"', 'status: "False"')}`,
    )
    await mesh.eventually('only the other one answers', async () => {
      const counts = await greetings(50)
      return counts['near'] === 50
    })
    mesh.writeObjects()
    await mesh.eventually('both answer again', async () => Object.keys(await greetings(50)).length === 2)
  })

  it('limits of a DestinationRule bring connections to the proxy, and without them they leave it again', async () => {
    const isProxied = async (): Promise<boolean> => {
      const talker = new Talker(mesh, 'client', near()[0]!)
      assert.equal(await talker.say('hi'), 'hello hi')
      const found = await proxied()
      await talker.close()
      return found.length > 0
    }
    assert.equal(await isProxied(), false)
    mesh.writeRules(
      'routing.yaml',
      `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: { name: near, namespace: default }
spec: { host: near, trafficPolicy: { connectionPool: { tcp: { maxConnections: 100 } } } }
`,
    )
    await mesh.eventually('the proxy counts connections', isProxied)
    mesh.removeRules('routing.yaml')
    await mesh.eventually('the kernel carries them again', async () => !(await isProxied()))
  })

  it('connections to a namespace that wants encryption are TLS on the node too, TCP and HTTP', async () => {
    const open = [
      new Talker(mesh, 'client', mesh.plan.pod('vault').addresses[0]!),
      new Talker(mesh, 'client', near()[0]!),
    ]
    for (const talker of open) assert.equal(await talker.say('hi'), 'hello hi')
    assert.deepEqual(await proxied(), [])
    const namespaces = manifests(mesh.plan).get('namespaces.yaml')!
    mesh.writeRules(
      'namespaces.yaml',
      namespaces.replace('name: vault\n', '$&  annotations: { weft.dev/encrypt-same-node: "true" }\n'),
    )
    await mesh.eventually('the agent knows', async () => {
      const { pods } = (await mesh.configDump('node1')) as { pods: { uid: string; mustEncrypt?: boolean }[] }
      return pods.some(({ uid, mustEncrypt }) => uid.includes('/vault/') && mustEncrypt === true)
    })
    assert.notEqual(await open[0]!.ended, 'end')
    assert.equal(await open[1]!.say('still'), 'hello still')
    await open[1]!.close()
    await mesh.watchPod('vault')
    const service = mesh.plan.services.find(({ name }) => name === 'vault')!
    const pod = mesh.plan.pod('vault')
    for (const host of [...service.addresses, ...pod.addresses]) {
      await mesh.eventually('the proxy carries it', async () => {
        const talker = new Talker(mesh, 'client', host)
        const answer = await talker.say('secret')
        const isProxied = (await proxied()).some(({ direction }) => direction === 'outbound')
        await talker.close()
        assert.equal(answer, 'hello secret')
        return isProxied
      })
      const url = `http://${host.includes(':') ? `[${host}]` : host}:8080/`
      assert.equal(await mesh.code('client', url), '200')
    }
    const report = await mesh.wireReport()
    assert.ok(report.records > 20, JSON.stringify(report))
    assert.deepEqual([report.offences, report.examples], [0, []])
    // Within the pod there is no wire.
    const own = new Talker(mesh, 'vault', service.addresses[0]!)
    assert.equal(await own.say('hi'), 'hello hi')
    await own.close()
  })

  it('without an agent services still have endpoints, also those that only the proxy understands', async () => {
    await mesh.kill('agent-node1')
    for (const index of [0, 1]) {
      const far = mesh.plan.services.find(({ name }) => name === 'far')!.addresses[index]!
      for (const host of [near()[index]!, far]) {
        const talker = new Talker(mesh, 'client', host)
        assert.equal(await talker.say('hi'), 'hello hi', host)
        await talker.close()
      }
      const host = near()[index]!
      assert.equal(await mesh.code('client', `http://${host.includes(':') ? `[${host}]` : host}:8080/`), '200')
    }
    await mesh.startAgent('node1')
    const talker = new Talker(mesh, 'client', near()[0]!)
    assert.equal(await talker.say('hi'), 'hello hi')
    assert.deepEqual(await proxied(), [])
    await talker.close()
  })
})
