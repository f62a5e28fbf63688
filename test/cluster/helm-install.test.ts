/** The chart on a real node, by Helm itself: it installs, and what it removes leaves no trace. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { needsRoot } from '../support/netns.ts'
import { type Cluster, startCluster } from './support/cluster.ts'
import { helm, needsHelm } from './support/helm.ts'
import { WEFT_IMAGE_NAME } from './support/images.ts'
import { type Remains, remains } from './support/installed.ts'

const CHART = join(import.meta.dirname, '../../deploy/helm/weft')
const NAMESPACE = 'weft-system'

const { skip, program } = await needsHelm()

describe('the chart', skip === false ? needsRoot : { skip }, () => {
  let cluster: Cluster
  let earlier: Remains

  before(async () => {
    cluster = await startCluster({ nodes: 1 })
    earlier = await remains(cluster)
  })
  after(() => cluster?.stop())

  const run = async (...args: readonly string[]): Promise<string> =>
    await helm(program, [...args, '--kubeconfig', cluster.kubeconfig, '--namespace', NAMESPACE])

  test('is installed by Helm, and ready', async () => {
    const [repository, tag] = WEFT_IMAGE_NAME.split(':') as [string, string]
    const image = `image.repository=${repository},image.tag=${tag},image.pullPolicy=Never,controller.replicas=1`
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
    assert.match(notes, /kubectl label namespace NAME weft\.dev\/mesh=enabled/)
    const agents = await cluster.get<{ status: { numberReady: number } }>('-n', NAMESPACE, 'daemonset/weft-agent')
    assert.equal(agents.status.numberReady, 1)
    assert.match((await remains(cluster)).nodes, /weft-cni/)
  })

  test('is removed by Helm without a trace on the node, and in the cluster but for the CRDs, which Helm never removes', async () => {
    await run('uninstall', 'weft', '--wait', '--timeout', '180s')
    await cluster.kubectl(['delete', 'namespace', NAMESPACE, '--timeout=60s'])
    const now = await remains(cluster)
    assert.equal(now.nodes, earlier.nodes)
    const isCrd = (name: string): boolean => name.startsWith('CustomResourceDefinition ')
    assert.deepEqual(
      now.objects.filter((name) => !isCrd(name)),
      earlier.objects,
    )
  })
})
