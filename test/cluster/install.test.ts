/** Installing, upgrading and removing, on a real API server whose node and controller the test plays. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, before, describe, test } from 'node:test'
import { EXIT_FAILED, EXIT_OK } from '../../src/cli/command.ts'
import { needsRoot } from '../support/netns.ts'
import { type Finished, runWeft } from '../support/run-weft.ts'
import { type Cluster, startControlPlane } from './support/cluster.ts'
import { REPOSITORY } from './support/cluster-files.ts'
import { PlayedNode } from './support/played-node.ts'

const NAMESPACE = 'weft-system'

interface ObjectName {
  readonly metadata: { readonly name: string; readonly namespace?: string; readonly labels?: Record<string, string> }
}

describe('an installation', needsRoot, () => {
  let cluster: Cluster
  let node: PlayedNode
  const directory = mkdtempSync(join(tmpdir(), 'weft-install-'))
  const children: ChildProcess[] = []

  before(async () => {
    cluster = await startControlPlane()
    node = await PlayedNode.start({ kubeconfig: cluster.kubeconfig, namespace: NAMESPACE })
  })
  after(async () => {
    for (const child of children) child.kill('SIGKILL')
    await node?.stop()
    await cluster?.stop()
    rmSync(directory, { recursive: true })
  })
  afterEach(async () => {
    node.failing = null
    node.isControllerPlayed = true
    await weft('uninstall', '--crds', '--namespace', NAMESPACE, '--timeout=60s')
    node.seen.clear()
  })

  function weft(...args: readonly string[]): Promise<Finished> {
    const isAsking = !args.includes('--kubeconfig')
    return runWeft(...args, ...(isAsking ? ['--kubeconfig', cluster.kubeconfig] : []))
  }

  /** A user's rule with somebody's conditions, to which the controller has added its own; how it was before that. */
  async function ruleWithStatus(name: string, conditions: readonly object[]): Promise<unknown> {
    const [apiVersion, kind] = ['networking.istio.io/v1', 'VirtualService']
    await cluster.apply({ apiVersion, kind, metadata: { name, namespace: 'default' }, spec: { hosts: ['web'] } })
    const write = async (manager: string, status: object): Promise<void> => {
      const target = ['virtualservice', name, '-n', 'default', '--subresource=status', `--field-manager=${manager}`]
      await cluster.kubectl(['patch', ...target, '--type=merge', '-p', JSON.stringify({ status })])
    }
    if (conditions.length > 0) await write('others', { conditions, observedGeneration: 1 })
    const before = await contentOf(name)
    const ours = ['Accepted', 'Programmed'].map((type) => ({ type: `weft.dev/${type}`, status: 'True' }))
    await write('weft', { conditions: [...conditions, ...ours], validationMessages: [] })
    if (conditions.length === 0) await write('weft', { observedGeneration: 1 })
    assert.notDeepEqual(await contentOf(name), before)
    return before
  }

  /** Of a user's rule: everything but the API server's book about it. */
  async function contentOf(name: string): Promise<unknown> {
    const { metadata, ...rest } = await cluster.get<{ metadata: { generation: number } }>('virtualservice', name)
    return { ...rest, generation: metadata.generation }
  }

  /** `weft install` as a program of its own, which is sent the signal whenever it has said the next of `moments`. */
  async function interrupted(
    signal: NodeJS.Signals,
    ...moments: readonly RegExp[]
  ): Promise<{ readonly code: number | null; readonly signal: NodeJS.Signals | null; readonly err: string }> {
    const args = [join(REPOSITORY, 'src/cli/main.ts'), 'install', '--kubeconfig', cluster.kubeconfig]
    const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] })
    children.push(child)
    let err = ''
    let sent = 0
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      err += text
      if (moments[sent]?.test(err) !== true) return
      sent++
      child.kill(signal)
    })
    const [code, endedBy] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
    return { code, signal: endedBy, err }
  }

  /** Everything of every kind that an installation could touch, by kind and name. */
  async function everything(): Promise<readonly string[]> {
    const kinds = [
      'namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,validatingwebhookconfigurations',
      'serviceaccounts,roles,rolebindings,services,endpointslices,deployments,replicasets,daemonsets',
      'controllerrevisions,poddisruptionbudgets,secrets,configmaps,leases,pods',
    ]
    const { items } = await cluster.get<{ items: (ObjectName & { kind: string })[] }>(kinds.join(','), '-A')
    return items
      .map(({ kind, metadata }) => `${kind} ${metadata.namespace ?? ''}/${metadata.name}`)
      .filter((name) => !/Lease kube-system|Lease kube-node-lease/.test(name))
      .sort()
  }

  test('makes everything, is ready, and leaves no trace when it is removed', async () => {
    const earlier = await everything()
    const { code, out, err } = await weft('install', '-o', 'json', '--timeout=60s')
    assert.equal(code, EXIT_OK, err)
    const report = JSON.parse(out) as { ok: boolean; objects: { object: string; action: string }[] }
    assert.equal(report.ok, true)
    assert.ok(report.objects.every(({ action }) => action === 'created'))
    assert.equal(report.objects[0]!.object, 'Namespace weft-system')
    const { metadata } = await cluster.get<ObjectName>('namespace', NAMESPACE)
    assert.equal(metadata.labels?.['pod-security.kubernetes.io/enforce'], 'privileged')
    const agents = await cluster.get<{ status: { numberAvailable: number } }>('-n', NAMESPACE, 'daemonset/weft-agent')
    assert.equal(agents.status.numberAvailable, 1)

    const removal = await weft('uninstall', '-o', 'json', '--timeout=60s')
    assert.equal(removal.code, EXIT_OK, removal.err + removal.out)
    assert.deepEqual((JSON.parse(removal.out) as { left: unknown }).left, [])
    assert.match(removal.out, /traces on node played-1/)
    assert.deepEqual(await everything(), earlier)
  })

  test('a second one is refused and changes nothing; an upgrade changes what the values change', async () => {
    assert.equal((await weft('install', '--set', 'agent.logLevel=debug')).code, EXIT_OK)
    const generation = async (): Promise<number> =>
      (await cluster.get<{ metadata: { generation: number } }>('-n', NAMESPACE, 'daemonset/weft-agent')).metadata
        .generation
    const first = await generation()
    const again = await weft('install')
    assert.equal(again.code, EXIT_FAILED)
    assert.match(again.err, /installed already in the namespace weft-system; use weft upgrade/)
    assert.equal(await generation(), first)

    const upgrade = await weft('upgrade', '--set', 'agent.workers=2', '--set', 'webhook.enabled=false', '-o', 'json')
    assert.equal(upgrade.code, EXIT_OK, upgrade.err)
    assert.match(upgrade.out, /"ValidatingWebhookConfiguration weft-controller","action":"removed"/)
    const { spec } = await cluster.get<{ spec: { template: { spec: { containers: { args: string[] }[] } } } }>(
      ...['-n', NAMESPACE, 'daemonset/weft-agent'],
    )
    const { args } = spec.template.spec.containers[0]!
    assert.ok(args.includes('--workers=2'))
    assert.ok(args.includes('--log-level=debug'), 'the values of the installation are remembered')
  })

  test('one that does not become ready says why, and takes everything back', async () => {
    node.failing = { part: 'weft-agent', reason: 'ImagePullBackOff', message: 'Back-off pulling image "weft:nope"' }
    const earlier = await everything()
    const { code, out, err } = await weft('install', '--timeout=6s', '-o', 'json')
    assert.equal(code, EXIT_FAILED)
    assert.match(
      err,
      /DaemonSet weft-system\/weft-agent: 0 of 1 nodes ready; pod weft-agent-\w+ on played-1: ImagePullBackOff/,
    )
    const report = JSON.parse(out) as { ok: boolean; error: string; left: string[] }
    assert.equal(report.ok, false)
    assert.match(report.error, /the time is over: .*ImagePullBackOff Back-off pulling image "weft:nope"/)
    assert.deepEqual(report.left, [])
    assert.deepEqual(await everything(), earlier)
    assert.ok(![...node.seen.keys()].some((name) => name.includes('cleanup')), 'no agent has run: nothing to clean up')
  })

  test('an upgrade that does not become ready gives everything its last form back, and keeps the root', async () => {
    assert.equal((await weft('install')).code, EXIT_OK)
    const earlier = await everything()
    const secret = async (): Promise<unknown> =>
      (await cluster.get<ObjectName>('-n', NAMESPACE, 'secret/weft-ca')).metadata
    const root = await secret()
    node.failing = { part: 'weft-agent', reason: 'CrashLoopBackOff', message: 'back-off' }
    const { code, err } = await weft('upgrade', '--set', 'agent.workers=3', '--timeout=6s')
    assert.equal(code, EXIT_FAILED, err)
    assert.match(err, /restored +DaemonSet weft-system\/weft-agent/)
    const { spec } = await cluster.get<{ spec: { template: { spec: { containers: { args: string[] }[] } } } }>(
      ...['-n', NAMESPACE, 'daemonset/weft-agent'],
    )
    assert.ok(!spec.template.spec.containers[0]!.args.includes('--workers=3'))
    assert.deepEqual(await secret(), root)
    const names = (await everything()).filter((name) => !/^(Pod|ReplicaSet|ControllerRevision) /.test(name))
    assert.deepEqual(
      names,
      earlier.filter((name) => !/^(Pod|ReplicaSet|ControllerRevision) /.test(name)),
    )
  })

  test('CRDs of somebody else are left alone, before and after', async () => {
    const foreign = {
      apiVersion: 'apiextensions.k8s.io/v1',
      kind: 'CustomResourceDefinition',
      metadata: { name: 'virtualservices.networking.istio.io', labels: { owner: 'istio' } },
      spec: {
        group: 'networking.istio.io',
        names: { kind: 'VirtualService', plural: 'virtualservices', singular: 'virtualservice' },
        scope: 'Namespaced',
        versions: [
          {
            name: 'v1',
            served: true,
            storage: true,
            schema: { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } },
            subresources: { status: {} },
          },
        ],
      },
    }
    await cluster.apply(foreign)
    await cluster.kubectl(['wait', '--for=condition=Established', 'crd', foreign.metadata.name, '--timeout=60s'])
    const read = async (): Promise<unknown> =>
      (await cluster.get<{ metadata: { resourceVersion: string }; spec: unknown }>('crd', foreign.metadata.name)).spec
    const spec = await read()
    const { code, err } = await weft('install')
    assert.equal(code, EXIT_OK, err)
    assert.match(err, /left +CustomResourceDefinition virtualservices.networking.istio.io: not Weft's/)
    const shared = await ruleWithStatus('shared', [{ type: 'Reconciled', status: 'True' }])
    const own = await ruleWithStatus('own', [])
    const removal = await weft('uninstall')
    assert.equal(removal.code, EXIT_FAILED)
    assert.match(removal.out, /left +CustomResourceDefinition virtualservices.* somebody else installed it/)
    assert.match(removal.err, /removed +status of virtualservices\..*: conditions of weft.dev in 2 objects/)
    assert.deepEqual(await read(), spec)
    // What was written into the status of users' objects is gone, and nothing else of them.
    assert.deepEqual(await contentOf('shared'), shared)
    assert.deepEqual(await contentOf('own'), own)
    const again = await weft('uninstall', '--namespace', NAMESPACE)
    assert.doesNotMatch(again.err, /status of/)
    await cluster.kubectl(['delete', 'crd', foreign.metadata.name])
  })

  test('a CRD of somebody else that serves no version we read is told before anything is changed', async () => {
    const name = 'virtualservices.networking.istio.io'
    const names = { kind: 'VirtualService', plural: 'virtualservices', singular: 'virtualservice' }
    const schema = { openAPIV3Schema: { type: 'object' } }
    await cluster.apply({
      apiVersion: 'apiextensions.k8s.io/v1',
      kind: 'CustomResourceDefinition',
      metadata: { name },
      spec: {
        group: 'networking.istio.io',
        names,
        scope: 'Namespaced',
        versions: [{ name: 'v9', served: true, storage: true, schema }],
      },
    })
    const earlier = await everything()
    const { code, err } = await weft('install')
    assert.equal(code, EXIT_FAILED)
    assert.match(err, /virtualservices.*: it serves v9, and Weft reads v1/)
    assert.deepEqual(await everything(), earlier)
    await cluster.kubectl(['delete', 'crd', name])
  })

  test('objects of users keep their CRD, unless --crds gives them up', async () => {
    assert.equal((await weft('install')).code, EXIT_OK)
    // The webhook has nobody to ask here, and Ignore lets it by.
    await cluster.apply({
      apiVersion: 'security.istio.io/v1',
      kind: 'PeerAuthentication',
      metadata: { name: 'default', namespace: 'default' },
      spec: { mtls: { mode: 'STRICT' } },
    })
    const removal = await weft('uninstall', '-o', 'json')
    assert.equal(removal.code, EXIT_FAILED)
    const { left } = JSON.parse(removal.out) as { left: string[] }
    assert.deepEqual(left, [
      'CustomResourceDefinition peerauthentications.security.istio.io: 1 objects are in it: default/default; --crds removes them, too',
    ])
    await cluster.get('peerauthentication', '-n', 'default', 'default')
    const rest = await weft('uninstall', '--crds', '-n', NAMESPACE)
    assert.equal(rest.code, EXIT_OK, rest.out)
    await assert.rejects(cluster.get('crd', 'peerauthentications.security.istio.io'), /NotFound/)
  })

  test('a root of the user keeps its namespace', async () => {
    await cluster.apply(
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: NAMESPACE, labels: { team: 'mesh' } } },
      { apiVersion: 'v1', kind: 'Secret', metadata: { name: 'cacerts', namespace: NAMESPACE }, stringData: { a: 'b' } },
    )
    assert.equal((await weft('install')).code, EXIT_OK)
    const { code, out } = await weft('uninstall')
    assert.equal(code, EXIT_FAILED)
    assert.match(out, /left +Namespace weft-system: there are objects of yours in it: Secret cacerts/)
    await cluster.get('secret', '-n', NAMESPACE, 'cacerts')
    await cluster.kubectl(['delete', 'namespace', NAMESPACE])
  })

  test('a node that is away keeps what is on it, told with what to do; a pod waits for it, and the next removal ends it', async () => {
    assert.equal((await weft('install')).code, EXIT_OK)
    const labels = { 'kubernetes.io/os': 'linux' }
    await cluster.apply({ apiVersion: 'v1', kind: 'Node', metadata: { name: 'away-1', labels } })
    const setReady = async (status: string): Promise<void> => {
      const patch = JSON.stringify({ status: { conditions: [{ type: 'Ready', status, reason: 'NodeStatusUnknown' }] } })
      await cluster.kubectl(['patch', 'node', 'away-1', '--subresource=status', '--type=merge', '-p', patch])
    }
    try {
      await setReady('Unknown')
      const removal = await weft('uninstall', '-o', 'json', '--timeout=60s')
      assert.equal(removal.code, EXIT_FAILED, removal.err)
      const { left } = JSON.parse(removal.out) as { left: string[] }
      assert.match(left[0]!, /^traces on node away-1: the node is away \(NodeStatusUnknown\), and keeps programs/)
      assert.match(left[0]!, /pod weft-system\/weft-node-cleanup-away-1 removes them when it is back/)
      assert.match(left[1]!, /^Namespace weft-system: .* weft uninstall --namespace weft-system removes it/)
      assert.equal(left.length, 2)
      const { spec } = await cluster.get<{ spec: { nodeName: string } }>(
        ...['-n', NAMESPACE, 'pod/weft-node-cleanup-away-1'],
      )
      assert.equal(spec.nodeName, 'away-1')
      await setReady('True')
      const done = JSON.stringify({ status: { phase: 'Succeeded' } })
      const pod = ['pod', 'weft-node-cleanup-away-1', '-n', NAMESPACE]
      await cluster.kubectl(['patch', ...pod, '--subresource=status', '--type=merge', '-p', done])
      const { code, out, err } = await weft('uninstall', '-o', 'json', '--namespace', NAMESPACE, '--timeout=60s')
      assert.equal(code, EXIT_OK, err + out)
      assert.match(out, /traces on node away-1/)
    } finally {
      await cluster.kubectl(['delete', 'node', 'away-1'])
    }
  })

  test('an installation that is interrupted takes everything back; a second time ends it, and it says what stays', async () => {
    node.failing = { part: 'weft-agent', reason: 'ImagePullBackOff', message: 'it never comes' }
    const earlier = await everything()
    const early = await interrupted('SIGTERM', /^created +ClusterRole /m)
    assert.deepEqual([early.code, early.signal], [EXIT_FAILED, null], early.err)
    assert.match(early.err, /interrupted; taking back what was done \(interrupt again to leave it as it is\)/)
    assert.match(early.err, /everything is as it was before/)
    assert.deepEqual(await everything(), earlier)
    const late = await interrupted('SIGINT', /^waiting +DaemonSet /m, /taking back what was done/)
    assert.deepEqual([late.code, late.signal], [null, 'SIGINT'], late.err)
    assert.match(late.err, /ended before it was done: [0-9]+ objects were made, 0 were changed; weft uninstall removes/)
    await cluster.get('-n', NAMESPACE, 'deployment/weft-controller')
    assert.equal((await weft('uninstall', '--timeout=60s')).code, EXIT_OK)
    assert.deepEqual(await everything(), earlier)
  })

  test('whoever may not do it is told every missing verb, before anything is changed', async () => {
    const token = (await cluster.kubectl(['create', 'token', 'default', '-n', 'default'])).trim()
    const config = JSON.parse(await cluster.kubectl(['config', 'view', '--raw', '-o', 'json'])) as {
      users: { name: string; user: unknown }[]
    }
    const file = join(directory, 'weak.kubeconfig')
    writeFileSync(
      file,
      JSON.stringify({ ...config, users: config.users.map(({ name }) => ({ name, user: { token } })) }),
    )
    const earlier = await everything()
    const { code, err } = await weft('install', '--kubeconfig', file)
    assert.equal(code, EXIT_FAILED)
    assert.match(err, /may not do what the installation needs; nothing was changed\. Missing:/)
    assert.match(err, /\n {2}create daemonsets\.apps in weft-system\n/)
    assert.match(err, /\n {2}patch clusterroles\.rbac\.authorization\.k8s\.io\n/)
    const removal = await weft('uninstall', '--kubeconfig', file)
    assert.equal(removal.code, EXIT_FAILED)
    assert.deepEqual(await everything(), earlier)
  })

  test('objects of the same names that are not ours are in the way, and stay', async () => {
    await cluster.apply({
      apiVersion: 'rbac.authorization.k8s.io/v1',
      kind: 'ClusterRole',
      metadata: { name: 'weft-controller' },
      rules: [],
    })
    const { code, err } = await weft('install')
    assert.equal(code, EXIT_FAILED)
    assert.match(err, /not Weft's: ClusterRole weft-controller\. Nothing was changed/)
    await cluster.get('clusterrole', 'weft-controller')
    await cluster.kubectl(['delete', 'clusterrole', 'weft-controller'])
  })

  test('--dry-run says what would be done, and does nothing', async () => {
    const earlier = await everything()
    const { code, out } = await weft('install', '--dry-run')
    assert.equal(code, EXIT_OK)
    assert.match(out, /^would be created {2}DaemonSet weft-system\/weft-agent$/m)
    assert.deepEqual(await everything(), earlier)
  })

  test('what the API server would refuse is told before anything is changed', async () => {
    await cluster.apply({ apiVersion: 'v1', kind: 'Namespace', metadata: { name: NAMESPACE } })
    const earlier = await everything()
    const { code, err } = await weft('install', '--set', 'agent.resources={"requests":{"cpu":"many"}}')
    assert.equal(code, EXIT_FAILED)
    assert.match(err, /the API server refuses; nothing was changed:\n {2}DaemonSet weft-system\/weft-agent: /)
    assert.deepEqual(await everything(), earlier)
    await cluster.kubectl(['delete', 'namespace', NAMESPACE])
  })
})
