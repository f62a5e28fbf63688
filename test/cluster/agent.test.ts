/** The agent on a real node: pods by the CNI plugin and by /proc, a real kubelet's probes, and life without an agent. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { EXIT_OK } from '../../src/cli/command.ts'
import { main } from '../../src/cli/main.ts'
import { needsRoot } from '../support/netns.ts'
import { clientPod, getFrom, HTTP_PORT, podsReady, rolledOut, runInPod, server } from './support/app.ts'
import { type Cluster, startCluster } from './support/cluster.ts'
import { APP_IMAGE_NAME, WEFT_IMAGE_NAME } from './support/images.ts'

const SYSTEM = 'weft-system'
/** Meshed and STRICT. */
const SHOP = 'shop'
/** Outside the mesh, until a test labels it. */
const PLAIN = 'plain'
const SHOP_URL = `http://web.${SHOP}.svc.cluster.local/`
/** Longest wait for anything. Only a failing test waits so long. */
const PATIENCE_MS = 60_000

interface Pods {
  readonly items: readonly {
    readonly metadata: { readonly name: string }
    readonly status: {
      readonly phase: string
      readonly podIPs: readonly { readonly ip: string }[]
      readonly containerStatuses: readonly { readonly restartCount: number }[]
    }
  }[]
}

describe('agents on Kubernetes', needsRoot, () => {
  let cluster: Cluster
  let netBefore = ''

  before(async () => {
    cluster = await startCluster({ nodes: 1 })
    netBefore = await networkFiles()
    await cluster.apply(namespace(PLAIN), namespace(SHOP, { 'weft.dev/mesh': 'enabled' }))
    const [repository, tag] = WEFT_IMAGE_NAME.split(':')
    const image = ['--set', `image.repository=${repository}`, '--set', `image.tag=${tag}`]
    const installed = await weft('install', ...image, '--set', 'agent.handoverDrainSeconds=1', '--timeout=120s')
    assert.equal(installed.code, EXIT_OK, installed.text)
    await cluster.apply(
      peerAuthentication('STRICT'),
      ...server({ name: 'web', namespace: SHOP }),
      ...server({ name: 'plain', namespace: PLAIN }),
      clientPod('client', undefined, SHOP),
      clientPod('outsider', undefined, PLAIN),
    )
    await Promise.all([rolledOut(cluster, 'web', SHOP), rolledOut(cluster, 'plain', PLAIN)])
    await podsReady(cluster, 'pod/client', '-n', SHOP)
    await podsReady(cluster, 'pod/outsider', '-n', PLAIN)
  })

  after(async () => {
    await cluster?.stop()
  })

  /** Resolves to the exit code and all that was written. */
  async function weft(...args: readonly string[]): Promise<{ readonly code: number; readonly text: string }> {
    let text = ''
    const write = (piece: string): void => {
      text += piece
    }
    const streams = { out: write, err: write, isTerminal: false, rows: () => 24 }
    const code = await main([...args, '--kubeconfig', cluster.kubeconfig, '--namespace', SYSTEM], streams, {})
    return { code, text }
  }

  /** What container runtimes read and run, with its contents. */
  async function networkFiles(): Promise<string> {
    const { stdout } = await cluster.runIn('node1', [
      ...['sh', '-c', 'cd /etc/cni/net.d && ls -la --time-style=+ && cat * && ls /opt/cni/bin'],
    ])
    return stdout
  }

  async function eventually(what: string, isTrue: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + PATIENCE_MS
    while (!(await isTrue())) {
      assert.ok(performance.now() < deadline, what)
      await delay(100)
    }
  }

  const podsOf = async (selector: string, inNamespace: string): Promise<Pods['items']> => {
    return (await cluster.get<Pods>('pods', '-n', inNamespace, '-l', selector)).items
  }

  /** Statuses of connections that a process of the node makes to a port of the first pod of `app`, one per address. */
  async function dialFromNode(port: number, app = 'web'): Promise<readonly (number | null)[]> {
    const [pod] = await podsOf(`app=${app}`, SHOP)
    const statuses: (number | null)[] = []
    for (const { ip } of pod!.status.podIPs) {
      const host = ip.includes(':') ? `[${ip}]` : ip
      const curl = ['curl', '-s', '-o', '/dev/null', '--max-time', '5', `telnet://${host}:${port}`]
      statuses.push((await cluster.runIn('node1', curl)).status)
    }
    return statuses
  }

  async function setAgents(isRunning: boolean): Promise<void> {
    const nodeSelector = isRunning ? null : { 'weft.test/nowhere': 'true' }
    const patch = JSON.stringify({ spec: { template: { spec: { nodeSelector } } } })
    await cluster.kubectl(['patch', 'daemonset/weft-agent', '-n', SYSTEM, '--type=merge', '-p', patch])
    if (isRunning) await cluster.kubectl(['rollout', 'status', 'daemonset/weft-agent', '-n', SYSTEM, '--timeout=90s'])
    else {
      const agents = ['delete', 'pod', '-n', SYSTEM, '-l', 'app.kubernetes.io/component=agent', '--now']
      await cluster.kubectl(agents)
    }
  }

  test('a kubelet’s HTTP and TCP probes of STRICT pods pass, over time', async () => {
    const probed = {
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'probed', namespace: SHOP, labels: { app: 'probed' } },
      spec: {
        containers: [
          {
            name: 'server',
            image: APP_IMAGE_NAME,
            args: ['serve', '--http', '8080', '--tcp', '9000'],
            startupProbe: { tcpSocket: { port: 9000 }, periodSeconds: 1, failureThreshold: 60 },
            livenessProbe: { tcpSocket: { port: 9000 }, periodSeconds: 1, failureThreshold: 1 },
            readinessProbe: { httpGet: { path: '/ready', port: 8080 }, periodSeconds: 1, failureThreshold: 1 },
          },
        ],
      },
    }
    await cluster.apply(probed)
    await podsReady(cluster, 'pod/probed', '-n', SHOP)
    await delay(3000)
    const [pod] = await podsOf('app=probed', SHOP)
    assert.equal(pod!.status.containerStatuses[0]!.restartCount, 0)
    await podsReady(cluster, 'pod/probed', '-n', SHOP)
  })

  test('a STRICT pod takes a pod of the mesh, refuses one outside, and its node at ports that are not probed', async () => {
    assert.equal((await getFrom(cluster, `client.${SHOP}`, SHOP_URL)).length, 1)
    assert.doesNotMatch(await runInPod(cluster, `outsider.${PLAIN}`, 'get', SHOP_URL), /"status":200/)
    // 28: connected, and ended by --max-time; anything else is a connection that was refused.
    assert.deepEqual(await dialFromNode(HTTP_PORT), [28, 28])
    assert.ok(!(await dialFromNode(9001)).includes(28))
  })

  test('pods that run once are in the mesh from their first connection on, also the first ones of a namespace', async () => {
    const job = (name: string, inNamespace: string, labels: Readonly<Record<string, string>> = {}): object => ({
      apiVersion: 'batch/v1',
      kind: 'Job',
      metadata: { name, namespace: inNamespace },
      spec: {
        backoffLimit: 0,
        template: {
          metadata: { labels: { app: 'first', ...labels } },
          spec: {
            restartPolicy: 'Never',
            containers: [{ name: 'client', image: APP_IMAGE_NAME, args: ['get', SHOP_URL] }],
          },
        },
      },
    })
    const meshed = Array.from({ length: 5 }, (_, i) => job(`first-${i}`, SHOP))
    // Nobody has put their namespace into the mesh: they label themselves.
    const pioneers = Array.from({ length: 3 }, (_, i) => job(`pioneer-${i}`, PLAIN, { 'weft.dev/mesh': 'enabled' }))
    await cluster.apply(...pioneers, ...meshed)
    for (const place of [PLAIN, SHOP]) {
      await cluster.kubectl(['wait', 'jobs', '--all', '-n', place, '--for=condition=Complete', '--timeout=90s'])
      for (const { metadata } of await podsOf('app=first', place)) {
        assert.match(await cluster.kubectl(['logs', '-n', place, metadata.name]), /"status":200/, metadata.name)
      }
      await cluster.kubectl(['delete', 'jobs', '--all', '-n', place])
    }
  })

  test('a label meshes running pods within two seconds, and back, and cuts no request', async () => {
    const url = `http://plain.${PLAIN}.svc.cluster.local/`
    const load = runInPod(cluster, `outsider.${PLAIN}`, 'load', url, '--seconds', '9', '--connections', '4')
    await delay(1000)
    const began = performance.now()
    await cluster.kubectl(['label', 'namespace', PLAIN, 'weft.dev/mesh=enabled'])
    await eventually('it is in the mesh', async () => {
      return /"status":200/.test(await runInPod(cluster, `outsider.${PLAIN}`, 'get', SHOP_URL))
    })
    const meshedMs = performance.now() - began
    await cluster.kubectl(['label', 'namespace', PLAIN, 'weft.dev/mesh-'])
    await eventually('it is out of it', async () => {
      return !/"status":200/.test(await runInPod(cluster, `outsider.${PLAIN}`, 'get', SHOP_URL))
    })
    const { requests, failed, reasons } = JSON.parse(await load) as {
      requests: number
      failed: number
      reasons: readonly string[]
    }
    assert.ok(requests > 100, `${requests} requests`)
    assert.deepEqual([failed, reasons], [0, []])
    console.log(`# meshed after ${Math.round(meshedMs)} ms, with two runs of kubectl`)
  })

  test('while there is no agent pods of a closed namespace do not start, and say why; others do', async () => {
    await setAgents(false)
    await cluster.apply(clientPod('late', undefined, SHOP), clientPod('late', undefined, PLAIN))
    await podsReady(cluster, 'pod/late', '-n', PLAIN)
    await eventually('the kubelet says why', async () => {
      const events = await cluster.kubectl(['get', 'events', '-n', SHOP, '-o', 'jsonpath={.items[*].message}'])
      return /the weft agent of this node does not run, and pods of namespace shop must not start/.test(events)
    })
    // Kept by the kernel meanwhile: probes pass, nobody else does.
    assert.deepEqual(await dialFromNode(HTTP_PORT), [28, 28])
    assert.doesNotMatch(await runInPod(cluster, `outsider.${PLAIN}`, 'get', SHOP_URL), /"status":200/)
    await setAgents(true)
    await podsReady(cluster, 'pod/late', '-n', SHOP)
    assert.equal((await getFrom(cluster, `late.${SHOP}`, SHOP_URL)).length, 1)
  })

  test('an agent that starts anew finds the pods that run, and keeps their probes', async () => {
    await cluster.kubectl(['rollout', 'restart', 'daemonset/weft-agent', '-n', SYSTEM])
    await cluster.kubectl(['rollout', 'status', 'daemonset/weft-agent', '-n', SYSTEM, '--timeout=90s'])
    assert.equal((await getFrom(cluster, `client.${SHOP}`, SHOP_URL)).length, 1)
    assert.deepEqual(await dialFromNode(HTTP_PORT), [28, 28])
    const [pod] = await podsOf('app=probed', SHOP)
    assert.equal(pod!.status.containerStatuses[0]!.restartCount, 0)
  })

  test('its removal leaves the node’s network as it was, byte for byte, and pods start without it', async () => {
    assert.match(await networkFiles(), /weft-cni/)
    await cluster.kubectl(['delete', 'peerauthentication', '--all', '-n', SHOP])
    // What it leaves in the API server is another test's.
    const { text } = await weft('uninstall', '--timeout=120s')
    assert.equal(await networkFiles(), netBefore, text)
    await cluster.apply(clientPod('afterwards', undefined, SHOP))
    await podsReady(cluster, 'pod/afterwards', '-n', SHOP)
    await cluster.kubectl(['delete', 'pod', 'client', 'probed', 'late', '-n', SHOP, '--now'])
    assert.equal((await getFrom(cluster, `afterwards.${SHOP}`, SHOP_URL)).length, 1)
  })
})

function namespace(name: string, labels: Readonly<Record<string, string>> = {}): object {
  return { apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } }
}

function peerAuthentication(mode: string): object {
  const metadata = { name: 'default', namespace: SHOP }
  return { apiVersion: 'security.istio.io/v1', kind: 'PeerAuthentication', metadata, spec: { mtls: { mode } } }
}
