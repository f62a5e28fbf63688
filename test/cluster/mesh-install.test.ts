/** The whole way of a user on real nodes: install, look, label, use, upgrade under load, remove without a trace. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { needsRoot } from '../support/netns.ts'
import { clientPod, getFrom, podsReady, rolledOut, runInPod, server } from './support/app.ts'
import { type Cluster, startCluster } from './support/cluster.ts'
import { REPOSITORY } from './support/cluster-files.ts'
import { componentPath } from './support/components.ts'
import { WEFT_IMAGE_NAME } from './support/images.ts'
import { type Remains, remains } from './support/installed.ts'
import { endOf } from './support/machine.ts'

const NAMESPACE = 'weft-system'
const [REPOSITORY_NAME, TAG] = WEFT_IMAGE_NAME.split(':') as [string, string]
const IMAGE = [
  '--set',
  `image.repository=${REPOSITORY_NAME}`,
  '--set',
  `image.tag=${TAG}`,
  '--set',
  'image.pullPolicy=Never',
]

interface Requirement {
  readonly name: string
  readonly isMet: boolean
  readonly detail: string
}

describe('a user of a cluster', needsRoot, () => {
  let cluster: Cluster
  let earlier: Remains
  const directory = mkdtempSync(join(tmpdir(), 'weft-user-'))

  before(async () => {
    cluster = await startCluster({ nodes: 2 })
    // Programs as users have them: weft, and the plugin beside it.
    const weftScript = `#!/bin/sh\nexec ${process.execPath} ${REPOSITORY}/src/cli/main.ts "$@"\n`
    writeFileSync(join(directory, 'weft'), weftScript, { mode: 0o755 })
    await cluster.apply(
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } },
      clientPod('client', 'node1', 'shop'),
      ...server({ name: 'near', namespace: 'shop', node: 'node1' }),
      ...server({ name: 'far', namespace: 'shop', node: 'node2' }),
    )
    await podsReady(cluster, 'pod/client', '-n', 'shop')
    await Promise.all([rolledOut(cluster, 'near', 'shop'), rolledOut(cluster, 'far', 'shop')])
    earlier = await remains(cluster)
    await weft('install', ...IMAGE, '--set', 'agent.accessLog=true', '--timeout=150s')
    await cluster.kubectl(['label', 'namespace', 'shop', 'weft.dev/mesh=enabled'])
    while ((await pods()).filter(({ state }) => state === 'captured').length < 3);
  })
  after(async () => {
    await cluster?.stop()
    rmSync(directory, { recursive: true })
  })

  async function run(program: string, args: readonly string[]): Promise<{ code: number; out: string; err: string }> {
    const path = `${directory}:${join(REPOSITORY, 'deploy')}:${process.env['PATH']}`
    const env = { ...process.env, KUBECONFIG: cluster.kubeconfig, PATH: path }
    const { status, stdout, stderr } = await endOf(spawn(program, args, { env, stdio: 'pipe' }), '')
    return { code: status ?? -1, out: stdout, err: stderr }
  }

  /** Output of a command that succeeds. */
  async function weft(...args: readonly string[]): Promise<string> {
    const { code, out, err } = await run(join(directory, 'weft'), args)
    assert.equal(code, 0, `weft ${args.join(' ')}: ${err}${out}`)
    return out
  }

  async function pods(): Promise<readonly { pod: string; state: string; node: string }[]> {
    return JSON.parse(await weft('get', 'pods', '-o', 'json')) as never
  }

  async function podOf(app: string): Promise<string> {
    const { items } = await cluster.get<{ items: { metadata: { name: string } }[] }>(
      'pods',
      '-n',
      'shop',
      '-l',
      `app=${app}`,
    )
    return `shop/${items[0]!.metadata.name}`
  }

  /** Requests to the other node, for so long; none of them fails. */
  async function loaded(seconds: number): Promise<void> {
    const output = await runInPod(cluster, 'client.shop', 'load', 'http://far/', '--seconds', `${seconds}`)
    const { failed, requests, reasons } = JSON.parse(output) as { failed: number; requests: number; reasons: unknown }
    assert.equal(failed, 0, JSON.stringify(reasons))
    assert.ok(requests > 100)
  }

  /** Of all pods of Weft that are not on their way out. */
  async function imagesOf(): Promise<readonly string[]> {
    const { items } = await cluster.get<{
      items: { metadata: { deletionTimestamp?: string }; spec: { containers: { image: string }[] } }[]
    }>('pods', '-n', NAMESPACE, '-l', 'app.kubernetes.io/name=weft')
    const staying = items.filter(({ metadata }) => metadata.deletionTimestamp === undefined)
    return [...new Set(staying.map(({ spec }) => spec.containers[0]!.image))]
  }

  /** One agent serves on each node, and every pod of the mesh is captured. */
  async function isWhole(): Promise<void> {
    const agents = await cluster.get<{ status: { numberAvailable: number } }>('-n', NAMESPACE, 'daemonset/weft-agent')
    assert.equal(agents.status.numberAvailable, 2)
    assert.ok((await pods()).every(({ state }) => state === 'captured'))
  }

  test('weft check --cluster finds nothing wrong, and that the webhook answers', async () => {
    const { requirements } = JSON.parse(await weft('check', '--cluster', '-o', 'json')) as {
      requirements: Requirement[]
    }
    assert.deepEqual(
      requirements.filter(({ isMet }) => !isMet),
      [],
    )
    assert.match(requirements.find(({ name }) => name === 'webhook')!.detail, /it answers/)
  })

  test('weft check --cluster names a NetworkPolicy that stops the tunnel, and the pods that it hurts', async () => {
    await cluster.apply({
      apiVersion: 'networking.k8s.io/v1',
      kind: 'NetworkPolicy',
      metadata: { name: 'web-only', namespace: 'shop' },
      spec: { podSelector: { matchLabels: { app: 'far' } }, ingress: [{ ports: [{ port: 8080 }] }] },
    })
    const { code, out } = await run(join(directory, 'weft'), ['check', '--cluster'])
    await cluster.kubectl(['delete', 'networkpolicy', '-n', 'shop', 'web-only'])
    assert.equal(code, 1)
    assert.match(out, /missing +NetworkPolicy shop\/web-only .* not on 15008, which the mesh needs to shop\/far-/)
  })

  test('weft check --proxy finds every pod captured, with certificates and configuration', async () => {
    const { requirements } = JSON.parse(await weft('check', '--proxy', '-o', 'json')) as { requirements: Requirement[] }
    const details = new Map(requirements.map(({ name, detail }) => [name, detail]))
    assert.equal(details.get('node node1 pods'), '2 of 2 captured')
    assert.equal(details.get('node node2 pods'), '1 of 1 captured')
    assert.match(details.get('node node2 certificates')!, /^2, the oldest of /)
    assert.match(details.get('node node1 configuration')!, /in step with its controller/)
  })

  test('weft status shows controllers and agents, and that all is well', async () => {
    const status = JSON.parse(await weft('status', '-o', 'json')) as {
      ok: boolean
      controllers: { isReady: boolean }[]
      agents: { node: string; captured: number; wanted: number; isConnected: boolean }[]
    }
    assert.equal(status.ok, true)
    assert.deepEqual(
      status.controllers.map(({ isReady }) => isReady),
      [true, true],
    )
    assert.deepEqual(
      status.agents.map(({ node, captured, wanted, isConnected }) => ({ node, captured, wanted, isConnected })),
      [
        { node: 'node1', captured: 2, wanted: 2, isConnected: true },
        { node: 'node2', captured: 1, wanted: 1, isConnected: true },
      ],
    )
    assert.match(await weft('status'), /node1 .* 2\/2 /)
  })

  test('weft proxy-config shows what a pod and a node have', async () => {
    assert.match(
      await weft('proxy-config', 'shop/client', 'endpoints'),
      /shop\/far\.shop\.svc\.cluster\.local +shop\/far-.* HBONE/,
    )
    assert.match(
      await weft('proxy-config', 'node2', 'certificates'),
      /spiffe:\/\/cluster\.local\/ns\/shop\/sa\/default/,
    )
    assert.match(await weft('proxy-config', await podOf('far'), 'services'), /shop\/near\.shop\.svc\.cluster\.local/)
    const { code, err } = await run(join(directory, 'weft'), ['proxy-config', 'weft-system/nobody', 'routes'])
    assert.equal(code, 1)
    assert.match(err, /there is no pod weft-system\/nobody/)
  })

  test('weft logs shows the requests of a pod at both ends, over mutual TLS', async () => {
    await getFrom(cluster, 'client.shop', 'http://far/from-the-log')
    const lines = async (pod: string): Promise<string> => {
      for (;;) {
        const text = await weft('logs', pod, '--since', '1m')
        if (text.includes('/from-the-log')) return text
      }
    }
    assert.match(
      await lines('shop/client'),
      /source shop\/client > far\.shop\.svc\.cluster\.local GET far\/from-the-log 200 [0-9]+ms mTLS/,
    )
    assert.match(
      await lines(await podOf('far')),
      /destination shop\/client > far\.shop\.svc\.cluster\.local GET far\/from-the-log 200/,
    )
  })

  test('weft tap shows open connections of a pod', async () => {
    // On a busy machine a program may take longer to start than the connections of the other one last.
    for (let attempt = 1; ; attempt++) {
      const load = runInPod(cluster, 'client.shop', 'load', 'http://far/', '--seconds', '5')
      const out = await weft('tap', 'shop/client', '--interval', '200ms', '--duration', '4s')
      await load
      if (attempt < 10 && !out.includes('open')) continue
      assert.match(out, /^open +outbound http +\S+ > \S+:80/m)
      break
    }
  })

  test('kubectl weft is weft', async () => {
    const { code, out, err } = await run(componentPath('kubectl'), ['weft', 'get', 'services', '-n', 'shop'])
    assert.equal(code, 0, err)
    assert.match(out, /shop\/far\.shop\.svc\.cluster\.local .* 80\/HTTP/)
  })

  test('an upgrade to another version under load, and back, loses no request, and leaves one agent on each node', async () => {
    for (const node of ['node1', 'node2']) {
      await cluster.runIn(node, ['ctr', '-n', 'k8s.io', 'images', 'tag', WEFT_IMAGE_NAME, `${REPOSITORY_NAME}:next`])
    }
    const load = loaded(60)
    const drains = ['--set', 'agent.handoverDrainSeconds=5', '--set', 'agent.drainSeconds=5']
    const values = ['--set', 'agent.logLevel=debug', '--set', 'image.tag=next', ...drains]
    await weft('upgrade', ...values, '--timeout=150s')
    assert.deepEqual(await imagesOf(), [`${REPOSITORY_NAME}:next`])
    await weft('upgrade', '--set', `image.tag=${TAG}`, '--timeout=150s')
    await load
    assert.deepEqual(await imagesOf(), [WEFT_IMAGE_NAME])
    await isWhole()
  })

  test('an upgrade whose agents do not start takes itself back under load, and loses no request', async () => {
    const load = loaded(30)
    const tiny = JSON.stringify({ requests: { memory: '8Mi' }, limits: { memory: '8Mi' } })
    const upgrade = ['upgrade', '--set', `agent.resources=${tiny}`, '--timeout=20s']
    const { code, out, err } = await run(join(directory, 'weft'), [...upgrade, '-o', 'json'])
    assert.equal(code, 1, err)
    const report = JSON.parse(out) as { ok: boolean; left: unknown }
    assert.deepEqual([report.ok, report.left], [false, []], err)
    assert.match(err, /DaemonSet weft-system\/weft-agent: [01] of 2 nodes ready/)
    assert.match(err, /everything is as it was before/)
    await load
    for (const what of ['deployment/weft-controller', 'daemonset/weft-agent']) {
      await cluster.kubectl(['rollout', 'status', what, '-n', NAMESPACE, '--timeout=90s'])
    }
    assert.deepEqual(await imagesOf(), [WEFT_IMAGE_NAME])
    await isWhole()
  })

  test('removed, it leaves no trace on nodes and in the cluster, and pods go on', async () => {
    await cluster.kubectl(['label', 'namespace', 'shop', 'weft.dev/mesh-'])
    const report = JSON.parse(await weft('uninstall', '-o', 'json', '--timeout=150s')) as { left: string[] }
    assert.deepEqual(report.left, [])
    const now = await remains(cluster)
    assert.equal(now.nodes, earlier.nodes)
    assert.deepEqual(now.objects, earlier.objects)
    const [answer] = await getFrom(cluster, 'client.shop', 'http://far/after')
    assert.match(answer!.pod, /^far-/)
  })
})
