/** Weft on a real cluster of two nodes, as its users meet it: install, label, look. */
import assert from 'node:assert/strict'
import { after, before, describe, type TestContext, test } from 'node:test'
import { needsRoot } from '../support/netns.ts'
import { clientPod, getFrom, podsReady, rolledOut, runInPod, server } from './support/app.ts'
import { type Cluster, startCluster } from './support/cluster.ts'
import { Mesh } from './support/mesh.ts'
import { PodStream } from './support/pod-stream.ts'
import { WireCapture } from './support/wire-capture.ts'

/** No header, path or body of a test has it by chance. */
const MARKER = 'seen-in-clear-text-4711'

const CLIENT_IDENTITY = 'spiffe://cluster.local/ns/shop/sa/default'

interface Pods {
  readonly items: readonly {
    readonly metadata: { readonly name: string; readonly uid: string }
    readonly status: {
      readonly podIPs: readonly { readonly ip: string }[]
      readonly containerStatuses: readonly { readonly restartCount: number }[]
    }
  }[]
}

describe('a mesh on two nodes', needsRoot, () => {
  let cluster: Cluster
  let mesh: Mesh
  const streams: PodStream[] = []

  before(async () => {
    cluster = await startCluster({ nodes: 2 })
    await cluster.apply(...namespaces('shop', 'moved'))
    await cluster.apply(
      ...['shop', 'moved'].flatMap((namespace) => [
        clientPod('client', 'node1', namespace),
        ...server({ name: 'near', namespace, node: 'node1' }),
        ...server({ name: 'far', namespace, node: 'node2' }),
      ]),
    )
    mesh = await Mesh.install(cluster)
    for (const namespace of ['shop', 'moved']) {
      await podsReady(cluster, '-n', namespace, 'pod/client')
      for (const name of ['near', 'far']) await rolledOut(cluster, name, namespace)
    }
    await mesh.label('shop', true)
    await meshed('client.shop', 'http://far.shop/')
  })
  after(async () => {
    for (const stream of streams) stream.kill()
    await cluster?.stop()
  })

  async function started(pod: string, ...args: readonly string[]): Promise<PodStream> {
    const stream = await PodStream.start(cluster, pod, args)
    streams.push(stream)
    return stream
  }

  /** Waits until what a pod asks goes through the mesh. */
  async function meshed(pod: string, url: string): Promise<void> {
    const stream = await started(pod, 'follow', url)
    await stream.until('an answer through the mesh', ({ isMeshed }) => isMeshed === true)
    await stream.end()
  }

  test('an installation by the command line is ready on both nodes, and says so', async () => {
    const { agents, controllers } = JSON.parse(await mesh.run('status', '-o', 'json')) as Record<string, object[]>
    assert.equal(agents!.length, 2)
    assert.equal(controllers!.length, 2)
  })

  test('a labelled namespace is meshed as it runs, and comes out of the mesh likewise, without a cut connection', async (t) => {
    const podsOf = async (): Promise<Pods> => cluster.get<Pods>('pods', '-n', 'moved')
    const earlier = await podsOf()
    const held = [
      await started('client.moved', 'hold', 'near.moved', '9000'),
      await started('client.moved', 'hold', 'far.moved', '9000'),
    ]
    const seen = [
      await started('client.moved', 'follow', 'http://near.moved/'),
      await started('client.moved', 'follow', 'http://far.moved/'),
    ]
    for (const stream of seen) assert.equal(stream.last['isMeshed'], false)

    for (const isMeshed of [true, false]) {
      const since = await mesh.label('moved', isMeshed)
      for (const stream of seen) {
        const line = await stream.until(`isMeshed ${isMeshed}`, (one) => one['isMeshed'] === isMeshed, since)
        t.diagnostic(`${isMeshed ? 'meshed' : 'left the mesh'} ${line.time - since} ms after kubectl label`)
      }
      // One that was opened in the mesh survives it, too.
      if (isMeshed)
        held.push(
          await started('client.moved', 'hold', 'near.moved', '9000'),
          await started('client.moved', 'hold', 'far.moved', '9000'),
        )
    }
    for (const stream of seen) {
      await stream.end()
      assert.deepEqual(
        stream.lines.filter(({ status }) => status !== 200),
        [],
        'every request was answered',
      )
    }
    for (const stream of held) assert.equal((await stream.end())['error'], null)
    const facts = ({ items }: Pods): object[] =>
      items.map(({ metadata, status }) => [metadata.uid, status.containerStatuses.map((one) => one.restartCount)])
    assert.deepEqual(facts(await podsOf()), facts(earlier))
  })

  test('between nodes there is TLS to the tunnels’ port and nothing else', async () => {
    const addresses = (await cluster.get<Pods>('pods', '-n', 'shop', '-l', 'app=far')).items[0]!.status.podIPs
    const capture = await WireCapture.start(cluster, 'node1')
    const urls = ['far.shop', ...addresses.map(({ ip }) => (ip.includes(':') ? `[${ip}]:8080` : `${ip}:8080`))]
    for (const host of urls) {
      const [answer] = await getFrom(
        cluster,
        'client.shop',
        `http://${host}/${MARKER}`,
        '--header',
        `x-mark: ${MARKER}`,
      )
      assert.equal(answer!.path, `/${MARKER}`)
      assert.match(answer!.headers['x-forwarded-client-cert']!, new RegExp(CLIENT_IDENTITY))
    }
    assert.equal(await runInPod(cluster, 'client.shop', 'talk', 'far.shop', '9000', MARKER), MARKER)
    assert.match(await runInPod(cluster, 'client.shop', 'talk', 'far.shop', '9001'), /^220 far-/)
    const report = await capture.stop()
    assert.deepEqual(report.examples, [])
    assert.equal(report.offences, 0)
    assert.ok(report.records > 10, `${report.records} TLS records`)
    assert.equal(capture.hasSeen(MARKER), false)
  })

  test('on one node HTTP, TCP and a server that speaks first work alike, with the client’s identity', async () => {
    const [answer] = await getFrom(cluster, 'client.shop', 'http://near.shop/')
    assert.match(answer!.headers['x-forwarded-client-cert']!, new RegExp(CLIENT_IDENTITY))
    assert.equal(await runInPod(cluster, 'client.shop', 'talk', 'near.shop', '9000', 'hello'), 'hello')
    assert.match(await runInPod(cluster, 'client.shop', 'talk', 'near.shop', '9001'), /^220 near-/)
  })

  test('both ends count requests and connections, with mutual TLS and who spoke to whom', async (t: TestContext) => {
    await getFrom(cluster, 'client.shop', 'http://far.shop/', '--count', '5')
    await runInPod(cluster, 'client.shop', 'talk', 'far.shop', '9000', 'hello')
    const labels = {
      source_workload: 'client',
      source_principal: CLIENT_IDENTITY,
      destination_workload: 'far',
      destination_service: 'far.shop.svc.cluster.local',
      connection_security_policy: 'mutual_tls',
    }
    const ends = { source: 'node1', destination: 'node2' }
    for (const [reporter, node] of Object.entries(ends)) {
      const requests = await mesh.counted(node, 'istio_requests_total', { ...labels, reporter, response_code: '200' })
      assert.ok(requests.value >= 5)
      t.diagnostic(`${node}: ${requests.value} requests by reporter ${reporter}`)
      await mesh.counted(node, 'istio_tcp_connections_opened_total', { ...labels, reporter })
    }
  })
})

function namespaces(...names: readonly string[]): readonly object[] {
  return names.map((name) => ({ apiVersion: 'v1', kind: 'Namespace', metadata: { name } }))
}
