/** Two nodes with real pods and no mesh: what the tests of the mesh stand on. */
import assert from 'node:assert/strict'
import { statSync } from 'node:fs'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { clientPod, getFrom, podsReady, rolledOut, runInPod, server } from './support/app.ts'
import { type Cluster, startCluster } from './support/cluster.ts'
import { buildImages, WEFT_IMAGE_NAME } from './support/images.ts'
import { needsNodes } from './support/requirements.ts'
import { Traces } from './support/traces.ts'

/** Of the image's archive, whose layers are not compressed. */
const IMAGE_BYTES_MAX = 250_000_000

/** The root of a machine's cgroup2 hierarchy, as processes on the node see it. */
const CGROUP2 = '/sys/fs/cgroup/unified'

interface PodList {
  readonly items: readonly {
    readonly metadata: { readonly name: string; readonly uid: string }
    readonly spec: { readonly nodeName: string }
    readonly status: { readonly podIPs: readonly { readonly ip: string }[] }
  }[]
}

describe('two nodes', needsNodes(), () => {
  let cluster: Cluster
  before(async () => {
    cluster = await startCluster({ nodes: 2 })
    await cluster.apply(
      clientPod('client', 'node1'),
      ...server({ name: 'near', node: 'node1' }),
      ...server({ name: 'far', node: 'node2' }),
    )
    await podsReady(cluster, 'pod/client')
    await Promise.all([rolledOut(cluster, 'near'), rolledOut(cluster, 'far')])
  })
  after(async () => {
    if (cluster === undefined) return
    // Pods and all: nothing is left.
    const traces = Traces.of(cluster)
    await cluster.stop()
    assert.deepEqual(await traces.leftForGood(), [])
  })

  const podsOf = async (app: string): Promise<PodList['items']> =>
    (await cluster.get<PodList>('pods', '-l', `app=${app}`)).items

  for (const app of ['near', 'far']) {
    test(`pods reach a service by its name, with its pods on ${app === 'near' ? 'their own' : 'another'} node`, async () => {
      const [answer] = await getFrom(cluster, 'client', `http://${app}.default.svc.cluster.local/hello`)
      assert.match(answer!.pod, new RegExp(`^${app}-`))
      assert.equal(answer!.path, '/hello')
    })

    test(`pods reach a pod by either address, without translation (${app})`, async () => {
      const [client] = await podsOf('client')
      const own = client!.status.podIPs.map(({ ip }) => ip)
      const [pod] = await podsOf(app)
      assert.equal(pod!.status.podIPs.length, 2)
      for (const [family, { ip }] of pod!.status.podIPs.entries()) {
        const host = ip.includes(':') ? `[${ip}]` : ip
        const [answer] = await getFrom(cluster, 'client', `http://${host}:8080/`)
        assert.equal(answer!.peer.replace('::ffff:', ''), own[family])
      }
    })
  }

  test('services have addresses of both families, and both answer', async () => {
    const { spec } = await cluster.get<{ spec: { clusterIPs: readonly string[] } }>('service', 'far')
    assert.equal(spec.clusterIPs.length, 2)
    for (const ip of spec.clusterIPs) {
      const [answer] = await getFrom(cluster, 'client', `http://${ip.includes(':') ? `[${ip}]` : ip}/`)
      assert.match(answer!.pod, /^far-/)
    }
  })

  test('a server that speaks first is heard, and an echo answers', async () => {
    assert.match(await runInPod(cluster, 'client', 'talk', 'far', '9001'), /^220 far-/)
    assert.equal(await runInPod(cluster, 'client', 'talk', 'near', '9000', 'hello'), 'hello')
  })

  test('pods reach the API server by their environment and token', async () => {
    const version = JSON.parse(await runInPod(cluster, 'client', 'api', '/version')) as { gitVersion: string }
    assert.equal(version.gitVersion, cluster.state.version)
  })

  test('there is no way out, which is told at once', async () => {
    const output = await runInPod(cluster, 'client', 'get', 'http://192.0.2.1/')
    assert.match(output, /ENETUNREACH|EHOSTUNREACH/)
    await assert.rejects(runInPod(cluster, 'client', 'resolve', 'example.com'), /ENOTFOUND/)
  })

  test('pods of a node are in cgroups below the root that its processes see, and so in no other node’s', async () => {
    const [pod] = await podsOf('far')
    const find = ['find', CGROUP2, '-type', 'd', '-name', `*${pod!.metadata.uid}*`]
    assert.match((await cluster.runIn('node2', find)).stdout, new RegExp(pod!.metadata.uid))
    assert.equal((await cluster.runIn('node1', find)).stdout, '')
  })

  test('a pin in the BPF file system of one node is not in the other’s', async () => {
    await cluster.runIn('node1', ['mkdir', '/sys/fs/bpf/seen'])
    assert.match((await cluster.runIn('node1', ['ls', '/sys/fs/bpf'])).stdout, /^seen$/m)
    assert.doesNotMatch((await cluster.runIn('node2', ['ls', '/sys/fs/bpf'])).stdout, /seen/)
    await cluster.runIn('node1', ['rmdir', '/sys/fs/bpf/seen'])
  })

  test('a CNI plugin can be added to the chain, and later pods are made by it', async () => {
    const list = '/etc/cni/net.d/10-pods.conflist'
    const before = (await cluster.runIn('node1', ['cat', list])).stdout
    const changed = JSON.parse(before) as { plugins: object[] }
    changed.plugins.push({ type: 'tuning', sysctl: { 'net.ipv4.ip_unprivileged_port_start': '77' } })
    await cluster.runIn('node1', ['sh', '-c', 'cat >"$0.new" && mv "$0.new" "$0"', list], JSON.stringify(changed))
    const setting = ['exec', 'chained', '--', '/usr/bin/node', '-p', READ_PORT_START]
    try {
      // containerd reads the directory when it is told of a change.
      for (let attempt = 1; ; attempt++) {
        await cluster.apply(clientPod('chained', 'node1'))
        await podsReady(cluster, 'pod/chained')
        const value = (await cluster.kubectl(setting)).trim()
        await cluster.kubectl(['delete', 'pod', 'chained', '--now'])
        if (value === '77') break
        assert.ok(attempt < 5, `the plugin was not called: ${value}`)
        await delay(200)
      }
    } finally {
      await cluster.runIn('node1', ['sh', '-c', 'cat >"$0.new" && mv "$0.new" "$0"', list], before)
    }
  })

  test('Weft’s image runs for an ordinary user, with a root file system that it cannot write, and is small', async () => {
    const image = buildImages({ hasWeft: true }, () => {}).find(({ name }) => name === WEFT_IMAGE_NAME)!
    assert.ok(statSync(image.archivePath).size < IMAGE_BYTES_MAX)
    const securityContext = {
      runAsUser: 65_532,
      runAsNonRoot: true,
      readOnlyRootFilesystem: true,
      allowPrivilegeEscalation: false,
      capabilities: { drop: ['ALL'] },
    }
    const container = { name: 'weft', image: WEFT_IMAGE_NAME, args: ['version', '-o', 'json'], securityContext }
    await cluster.apply({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'weft-version', namespace: 'default' },
      spec: { restartPolicy: 'Never', containers: [container] },
    })
    await cluster.kubectl(['wait', '--for=jsonpath={.status.phase}=Succeeded', 'pod/weft-version', '--timeout=60s'])
    const versions = JSON.parse(await cluster.kubectl(['logs', 'weft-version'])) as { weft: string; node: string }
    assert.match(versions.node, /^24\./)
  })
})

const READ_PORT_START = 'require("fs").readFileSync("/proc/sys/net/ipv4/ip_unprivileged_port_start", "utf8")'
