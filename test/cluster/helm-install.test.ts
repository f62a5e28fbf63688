/** The chart on real nodes, by Helm itself: it installs, its mesh carries, and what it removes leaves no trace. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { needsRoot } from '../support/netns.ts'
import { clientPod, getFrom, podsReady, rolledOut, server } from './support/app.ts'
import { type Cluster, startCluster } from './support/cluster.ts'
import { helm, needsHelm } from './support/helm.ts'
import { WEFT_IMAGE_NAME } from './support/images.ts'
import { type Remains, remains } from './support/installed.ts'
import { Mesh, NAMESPACE } from './support/mesh.ts'
import { PodStream } from './support/pod-stream.ts'
import { WireCapture } from './support/wire-capture.ts'

const CHART = join(import.meta.dirname, '../../deploy/helm/weft')

/** No header, path or body of a test has it by chance. */
const MARKER = 'seen-in-clear-text-0815'

const { skip, program } = await needsHelm()

describe('the chart', skip === false ? needsRoot : { skip }, () => {
  let cluster: Cluster
  let mesh: Mesh
  let earlier: Remains
  let stream: PodStream | null = null

  before(async () => {
    cluster = await startCluster({ nodes: 2 })
    mesh = new Mesh(cluster)
    await cluster.apply(
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } },
      clientPod('client', 'node1', 'shop'),
      ...['far', 'farther'].flatMap((name) => server({ name, namespace: 'shop', node: 'node2' })),
    )
    await podsReady(cluster, '-n', 'shop', 'pod/client')
    for (const name of ['far', 'farther']) await rolledOut(cluster, name, 'shop')
    earlier = await remains(cluster)
  })
  after(async () => {
    stream?.kill()
    await cluster?.stop()
  })

  const run = async (...args: readonly string[]): Promise<string> =>
    await helm(program, [...args, '--kubeconfig', cluster.kubeconfig, '--namespace', NAMESPACE])

  test('is installed by Helm, and ready', async (t) => {
    const [repository, tag] = WEFT_IMAGE_NAME.split(':') as [string, string]
    const image = `image.repository=${repository},image.tag=${tag},image.pullPolicy=Never,controller.replicas=1`
    const begin = performance.now()
    const notes = await run(
      'install',
      'weft',
      CHART,
      '--create-namespace',
      '--set',
      image,
      '--wait',
      '--timeout',
      '180s',
    )
    t.diagnostic(`ready ${Math.round((performance.now() - begin) / 1000)} s after helm install began`)
    assert.match(notes, /kubectl label namespace NAME weft\.dev\/mesh=enabled/)
    const agents = await cluster.get<{ status: { numberReady: number } }>('-n', NAMESPACE, 'daemonset/weft-agent')
    assert.equal(agents.status.numberReady, 2)
    assert.match((await remains(cluster)).nodes, /weft-cni/)
  })

  test('makes a mesh: between nodes of a labelled namespace there is nothing but TLS', async () => {
    stream = await PodStream.start(cluster, 'client.shop', ['follow', 'http://far.shop/'])
    assert.equal(stream.last['isMeshed'], false)
    await mesh.label('shop', true)
    await stream.until('an answer through the mesh', ({ isMeshed }) => isMeshed === true)
    assert.equal((await stream.end())['status'], 200)
    // One to which no tunnel leads yet: it is seen from its beginning.
    const capture = await WireCapture.start(cluster, 'node1')
    const [answer] = await getFrom(cluster, 'client.shop', `http://farther.shop/${MARKER}`)
    const report = await capture.stop()
    assert.match(answer!.headers['x-forwarded-client-cert']!, /spiffe:\/\/cluster\.local\/ns\/shop\/sa\/default/)
    assert.deepEqual(report.examples, [])
    assert.ok(report.records > 0, 'TLS went by')
    assert.equal(capture.hasSeen(MARKER), false)
  })

  test('is removed by Helm without a trace on nodes, and in the cluster but for the CRDs, which Helm never removes', async () => {
    await run('uninstall', 'weft', '--wait', '--timeout', '180s')
    await cluster.kubectl(['delete', 'namespace', NAMESPACE, '--timeout=60s'])
    const now = await remains(cluster)
    assert.equal(now.nodes, earlier.nodes)
    const isCrd = (name: string): boolean => name.startsWith('CustomResourceDefinition ')
    assert.deepEqual(
      now.objects.filter((name) => !isCrd(name)),
      earlier.objects,
    )
    const [answer] = await getFrom(cluster, 'client.shop', 'http://far.shop/after')
    assert.equal(answer!.headers['x-forwarded-client-cert'], undefined)
  })
})
