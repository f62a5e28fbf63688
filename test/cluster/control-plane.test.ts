/** A control plane without nodes: what tests of the controller stand on. */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { type Cluster, startControlPlane } from './support/cluster.ts'
import { needsControlPlane } from './support/requirements.ts'

describe('a control plane', needsControlPlane(), () => {
  let cluster: Cluster
  before(async () => {
    cluster = await startControlPlane()
  })
  after(() => cluster?.stop())

  test('is Kubernetes of the version that was asked for', async () => {
    const { serverVersion } = JSON.parse(await cluster.kubectl(['version', '-o', 'json'])) as {
      serverVersion: { gitVersion: string }
    }
    assert.equal(serverVersion.gitVersion, cluster.state.version)
    assert.match(cluster.state.version, /^v1\.34\./)
  })

  test('keeps pods of nodes that a test made up', async () => {
    await cluster.apply(
      { apiVersion: 'v1', kind: 'Node', metadata: { name: 'made-up' } },
      {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: 'web', namespace: 'default' },
        spec: { nodeName: 'made-up', containers: [{ name: 'web', image: 'none' }] },
      },
    )
    const pod = await cluster.get<{ spec: { nodeName: string; serviceAccountName: string } }>('pod', 'web')
    assert.equal(pod.spec.nodeName, 'made-up')
    assert.equal(pod.spec.serviceAccountName, 'default')
  })

  test('has controllers: a service gets its endpoints, and a namespace that is deleted goes', async () => {
    await cluster.apply(
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'short' } },
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'web', namespace: 'short' },
        spec: { selector: { app: 'web' }, ports: [{ port: 80 }] },
      },
    )
    const slices = ['endpointslices', '-n', 'short', '-l', 'kubernetes.io/service-name=web']
    while ((await cluster.get<{ items: unknown[] }>(...slices)).items.length === 0) await delay(50)
    await cluster.kubectl(['delete', 'namespace', 'short', '--timeout=60s'])
    await assert.rejects(cluster.kubectl(['get', 'namespace', 'short']), /NotFound/)
  })

  test('issues tokens of ServiceAccounts for an audience, and reviews them', async () => {
    const token = (await cluster.kubectl(['create', 'token', 'default', '--audience', 'weft-ca'])).trim()
    const review = {
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'TokenReview',
      spec: { token, audiences: ['weft-ca'] },
    }
    const { status } = JSON.parse(
      await cluster.kubectl(['create', '-f', '-', '-o', 'json'], JSON.stringify(review)),
    ) as { status: { authenticated: boolean; user: { username: string } } }
    assert.equal(status.authenticated, true)
    assert.equal(status.user.username, 'system:serviceaccount:default:default')
  })

  test('loses its API server when told, and gets it back with everything that it knew', async () => {
    await cluster.apply({ apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'kept', namespace: 'default' } })
    await cluster.stopComponent('control-plane/kube-apiserver')
    await assert.rejects(cluster.kubectl(['get', 'configmap', 'kept', '--request-timeout=5s']), /refused|connect/)
    await cluster.startComponent('control-plane/kube-apiserver')
    await cluster.serves()
    assert.match(await cluster.kubectl(['get', 'configmap', 'kept', '-o', 'name']), /configmap\/kept/)
  })

  test('says which components there are when it is asked for another', async () => {
    await assert.rejects(cluster.stopComponent('control-plane/kubelet'), /it has control-plane\/etcd, /)
  })
})
