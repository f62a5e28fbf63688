/** The controller's end of the Kubernetes API against a real API server: requests, list and watch, and what comes out. */
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, type TestContext, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { systemClock } from '../../src/base/clock.ts'
import { type Logger, silentLog } from '../../src/base/log.ts'
import type { MeshObject } from '../../src/compiler/object.ts'
import { KubernetesSource } from '../../src/controller/kubernetes-source.ts'
import { KubernetesApi, KubernetesError, type KubernetesObject, type ResourceType } from '../../src/kubernetes/api.ts'
import { Reflector, type ReflectorApi, type ReflectorPhase } from '../../src/kubernetes/reflector.ts'
import { ServerPresence } from '../../src/kubernetes/server-presence.ts'
import { makeRootFiles, TestAgent, TestController } from '../support/control-plane.ts'
import { needsRoot } from '../support/netns.ts'
import { type Cluster, startControlPlane } from './support/cluster.ts'

const MAPS: ResourceType = { group: '', version: 'v1', plural: 'configmaps', isNamespaced: true }
const PODS: ResourceType = { group: '', version: 'v1', plural: 'pods', isNamespaced: true }
const LEASES: ResourceType = { group: 'coordination.k8s.io', version: 'v1', plural: 'leases', isNamespaced: true }

/** As much of the real one as the API server asks for. */
const RULES_CRD = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'virtualservices.networking.istio.io' },
  spec: {
    group: 'networking.istio.io',
    scope: 'Namespaced',
    names: { plural: 'virtualservices', kind: 'VirtualService' },
    versions: [
      {
        name: 'v1beta1',
        served: true,
        storage: true,
        schema: { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } },
      },
    ],
  },
}

describe('the Kubernetes API of a real control plane', needsRoot, () => {
  let cluster: Cluster
  let api: KubernetesApi
  before(async () => {
    cluster = await startControlPlane()
    api = await KubernetesApi.open({ kubeconfig: cluster.kubeconfig })
  })
  after(async () => {
    api?.close()
    await cluster?.stop()
  })

  const map = (name: string, value: string, namespace = 'default'): KubernetesObject => ({
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name, namespace },
    data: { value },
  })

  /** A namespace that no other test uses. */
  async function namespace(t: TestContext, labels: Readonly<Record<string, string>> = {}): Promise<string> {
    const name = `t-${Math.random().toString(36).slice(2)}`
    await cluster.apply({ apiVersion: 'v1', kind: 'Namespace', metadata: { name, labels } })
    t.after(() => cluster.kubectl(['delete', 'namespace', name, '--wait=false']))
    return name
  }

  async function source(t: TestContext, of = api, log: Logger = silentLog): Promise<Followed> {
    const followed = new Followed(of, log)
    t.after(() => followed.source.stop())
    await followed.source.start()
    return followed
  }

  // --- requests ---

  test('takes every kind of write, and says what was wrong with one', async (t) => {
    const ns = await namespace(t)
    const created = await api.create(map('a', '1', ns), MAPS)
    assert.equal((await api.get(MAPS, ns, 'a'))?.['data']?.valueOf() !== undefined, true)
    await assert.rejects(api.create(map('a', '1', ns), MAPS), (error) => {
      return error instanceof KubernetesError && error.isConflict && error.reason === 'AlreadyExists'
    })
    const replaced = await api.replace({ ...created, data: { value: '2' } }, MAPS)
    await assert.rejects(api.replace({ ...created, data: { value: '3' } }, MAPS), (error) => {
      return error instanceof KubernetesError && error.isConflict && error.reason === 'Conflict'
    })
    assert.deepEqual(replaced['data'], { value: '2' })
    const applied = await api.apply(map('a', '4', ns), MAPS)
    assert.deepEqual(applied['data'], { value: '4' })
    const patched = await api.mergePatch(MAPS, ns, 'a', { data: { value: null, other: 'x' } })
    assert.deepEqual(patched['data'], { other: 'x' })
    assert.equal(await api.delete(MAPS, ns, 'a', { preconditions: { uid: 'another' } }).catch(statusOf), 409)
    assert.equal(await api.delete(MAPS, ns, 'a'), true)
    assert.equal(await api.get(MAPS, ns, 'a'), null)
    const lease = {
      apiVersion: 'coordination.k8s.io/v1',
      kind: 'Lease',
      metadata: { name: 'l', namespace: ns },
      spec: 1,
    }
    assert.equal(await api.create(lease, LEASES).catch(statusOf), 400)
  })

  test('writes a status beside the spec, and lists in pages', async (t) => {
    const ns = await namespace(t)
    const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'p', namespace: ns } }
    const spec = { nodeName: 'made-up', containers: [{ name: 'c', image: 'none' }] }
    const created = await api.create({ ...pod, spec }, PODS)
    const status = { phase: 'Running', podIP: '10.1.2.3', podIPs: [{ ip: '10.1.2.3' }] }
    const written = await api.replaceStatus({ ...created, status }, PODS)
    assert.equal((written['status'] as { podIP: string }).podIP, '10.1.2.3')
    for (let i = 0; i < 5; i++) await api.create(map(`m${i}`, '', ns), MAPS)
    const options = { namespace: ns, fieldSelector: 'metadata.name!=kube-root-ca.crt' }
    const first = await api.listPage(MAPS, options, '', { limit: 2 })
    const second = await api.listPage(MAPS, options, first.continueToken, { limit: 4 })
    assert.deepEqual(
      [...first.items, ...second.items].map(({ kind, metadata }) => `${kind} ${metadata.name}`),
      [0, 1, 2, 3, 4].map((i) => `ConfigMap m${i}`),
    )
    assert.equal(second.continueToken, '')
    assert.equal(first.resourceVersion, second.resourceVersion)
    assert.equal((await api.list(MAPS, options)).length, 5)
  })

  // --- list and watch ---

  test('reflectors go on through a restart of the API server, all at the first word that it is ready, and through what happened before', async (t) => {
    const ns = await namespace(t)
    await api.create(map('a', '1', ns), MAPS)
    /** What was asked of the server, in order. */
    const asked: string[] = []
    const presence = new ServerPresence(
      {
        askReady: async (timeoutMs) => {
          asked.push('?')
          await api.askReady(timeoutMs)
          asked.push('ready')
        },
        closeIdle: () => api.connection.closeIdle(),
      },
      { clock: systemClock, random: Math.random },
    )
    const recorded: ReflectorApi = {
      ...{ server: api.server, presence },
      listPage: (type, options, token) => api.listPage(type, options, token),
      open: (method, path, body, options) => {
        asked.push('watch')
        return api.open(method, path, body, options)
      },
    }
    const names = new Map<string, string>()
    const phases: string[] = []
    let replacements = 0
    const follow = (namespace: string | null): Reflector<{ name: string; value: string }> => {
      const settings = { api: recorded, type: MAPS, namespace, clock: systemClock, log: silentLog }
      const reflector = new Reflector<{ name: string; value: string }>(settings, {
        convert: ({ metadata, ...object }) => ({
          name: metadata.namespace === ns ? metadata.name : 'of others',
          value: (object['data'] as { value?: string } | undefined)?.value ?? '',
        }),
        onReplaced: (items) => {
          replacements++
          if (namespace !== ns) return
          names.clear()
          for (const { name, value } of items) names.set(name, value)
        },
        onPut: ({ name, value }) => namespace === ns && names.set(name, value),
        onDeleted: ({ name }) => namespace === ns && names.delete(name),
        onState: ({ phase }) => phases.push(phase),
      })
      t.after(() => reflector.stop())
      reflector.start()
      return reflector
    }
    const reflectors = [follow(ns), follow(null), follow('default')]
    const all = (phase: ReflectorPhase): boolean => reflectors.every(({ state }) => state.phase === phase)
    await until(() => names.get('a') === '1' && all('watching'))
    await api.create(map('b', '1', ns), MAPS)
    await until(() => names.get('b') === '1')

    asked.length = 0
    await cluster.stopComponent('control-plane/kube-apiserver', 'SIGKILL')
    await until(() => all('failing'))
    assert.equal(names.size >= 2, true, 'the last state stays')
    await until(() => asked.filter((one) => one === '?').length >= 3)
    await cluster.startComponent('control-plane/kube-apiserver')
    await cluster.serves()
    await api.delete(MAPS, ns, 'a')
    await api.apply(map('b', '2', ns), MAPS)
    await until(() => !names.has('a') && names.get('b') === '2' && all('watching'))
    t.diagnostic(`${replacements} lists; phases: ${phases.join(' ')}; asked: ${asked.join(' ')}`)
    // While it was away they asked together, and for nothing else.
    const ready = asked.indexOf('ready')
    const early = asked.slice(asked.indexOf('?'), ready).filter((one) => one === 'watch')
    assert.ok(early.length < reflectors.length, asked.join(' '))
    assert.deepEqual(asked.slice(ready + 1, ready + 1 + reflectors.length), ['watch', 'watch', 'watch'])
  })

  test('a server whose usual address leads nowhere is found at its own, and proves itself there', async (t) => {
    const text = await cluster.kubectl(['config', 'view', '--raw', '--flatten', '-o', 'json'])
    const config = JSON.parse(text) as { clusters: { cluster: { server: string } }[] }
    const { hostname, port } = new URL(config.clusters[0]!.cluster.server)
    // Nobody listens there.
    for (const entry of config.clusters) entry.cluster.server = 'https://127.7.7.7:1'
    const lost = await KubernetesApi.open({ kubeconfig: await fileWith(t, JSON.stringify(config)) })
    t.after(() => lost.close())
    await assert.rejects(lost.list(MAPS), (error) => error instanceof KubernetesError && error.isUnreachable)
    lost.connection.direct.learn([{ address: hostname, port: Number(port) }])
    await lost.presence.returned(new AbortController().signal)
    assert.deepEqual((await lost.list(MAPS)).length, (await api.list(MAPS)).length)
  })

  test('a place that the server has forgotten leads to one new list', async (t) => {
    const ns = await namespace(t)
    await api.create(map('a', '1', ns), MAPS)
    let lists = 0
    let hasAsked = false
    const names = new Set<string>()
    // The watch begins at a place of long ago, once.
    const forgetful: Pick<KubernetesApi, 'open' | 'listPage' | 'server' | 'presence'> = {
      presence: api.presence,
      server: api.server,
      listPage: (type, options, token) => api.listPage(type, options, token),
      open: (method, path, body, options) => {
        const query = hasAsked ? options?.query : { ...options?.query, resourceVersion: 1 }
        hasAsked = true
        return api.open(method, path, body, { ...options, query: query ?? {} })
      },
    }
    const settings = { api: forgetful, type: MAPS, namespace: ns, clock: systemClock, log: silentLog }
    const reflector = new Reflector<string>(settings, {
      convert: ({ metadata }) => metadata.name,
      onReplaced: (items) => {
        lists++
        for (const name of items) names.add(name)
      },
      onPut: (name) => names.add(name),
      onDeleted: (name) => names.delete(name),
      onState: () => undefined,
    })
    t.after(() => reflector.stop())
    reflector.start()
    await until(() => lists === 2)
    await api.create(map('b', '1', ns), MAPS)
    await until(() => names.has('b'))
    assert.equal(lists, 2)
  })

  // --- the source ---

  test('the source starts without CRDs, takes them when they come, and follows their objects', async (t) => {
    const ns = await namespace(t)
    const followed = await source(t)
    assert.equal(followed.kind('VirtualService').length, 0)
    await cluster.apply(RULES_CRD)
    t.after(() => cluster.kubectl(['delete', 'crd', RULES_CRD.metadata.name]))
    await cluster.kubectl(['wait', '--for=condition=established', `crd/${RULES_CRD.metadata.name}`, '--timeout=30s'])
    await cluster.applySoon(rule(ns, 'a', 'first'))
    await followed.until(() => followed.hostsOf(ns, 'a') === 'first')
    await cluster.apply(rule(ns, 'a', 'second'))
    await followed.until(() => followed.hostsOf(ns, 'a') === 'second')
    await cluster.kubectl(['delete', 'virtualservice', 'a', '-n', ns])
    await followed.until(() => followed.hostsOf(ns, 'a') === null)
    assert.deepEqual(followed.source.messages, [])
  })

  test('what controllers and kubelets write again and again is no change', async (t) => {
    const ns = await namespace(t)
    await cluster.apply(
      { apiVersion: 'v1', kind: 'Service', metadata: { name: 's', namespace: ns }, spec: { ports: [{ port: 80 }] } },
      { apiVersion: 'v1', kind: 'Node', metadata: { name: `node-${ns}` } },
    )
    t.after(() => cluster.kubectl(['delete', 'node', `node-${ns}`]))
    const followed = await source(t)
    const node = followed.source.objects.find(({ kind, name }) => kind === 'Node' && name === `node-${ns}`)
    const nodes: ResourceType = { group: '', version: 'v1', plural: 'nodes', isNamespaced: false }
    const current = (await api.get(nodes, null, `node-${ns}`))!
    const conditions = [{ type: 'Ready', status: 'True', lastHeartbeatTime: new Date().toISOString() }]
    await api.replaceStatus({ ...current, status: { conditions } }, nodes)
    await cluster.kubectl(['label', 'namespace', ns, 'seen=yes'])
    await followed.until(() =>
      followed.kind('Namespace').some(({ name, labels }) => name === ns && labels['seen'] === 'yes'),
    )
    assert.equal(
      followed.source.objects.find(({ kind, name }) => kind === 'Node' && name === `node-${ns}`),
      node,
    )
  })

  test('a missing permission is named with its user and verb, and granting it is enough', async (t) => {
    const ns = await namespace(t)
    await cluster.kubectl(['create', 'serviceaccount', 'reader', '-n', ns])
    const role = {
      apiVersion: 'rbac.authorization.k8s.io/v1',
      kind: 'ClusterRole',
      metadata: { name: ns },
      rules: [{ apiGroups: ['*'], resources: ['namespaces', 'nodes', 'services', 'endpointslices'], verbs: ['*'] }],
    }
    const binding = {
      apiVersion: 'rbac.authorization.k8s.io/v1',
      kind: 'ClusterRoleBinding',
      metadata: { name: ns },
      roleRef: { apiGroup: 'rbac.authorization.k8s.io', kind: 'ClusterRole', name: ns },
      subjects: [{ kind: 'ServiceAccount', name: 'reader', namespace: ns }],
    }
    await cluster.apply(role, binding)
    t.after(() => cluster.kubectl(['delete', 'clusterrole,clusterrolebinding', ns]))
    const token = (await cluster.kubectl(['create', 'token', 'reader', '-n', ns])).trim()
    const reader = await KubernetesApi.open({ kubeconfig: await kubeconfigWith(t, token) })
    t.after(() => reader.close())
    await assert.rejects(
      reader.list(PODS),
      new RegExp(`system:serviceaccount:${ns}:reader.*cannot list resource "pods".*grant it`, 's'),
    )

    const settings = { api: reader, type: PODS, clock: systemClock, log: silentLog, random: () => 0 }
    const states: string[] = []
    const reflector = new Reflector<string>(settings, {
      convert: ({ metadata }) => metadata.name,
      onReplaced: () => undefined,
      onPut: () => undefined,
      onDeleted: () => undefined,
      onState: ({ phase, problem }) => states.push(`${phase} ${problem}`),
    })
    t.after(() => reflector.stop())
    reflector.start()
    await until(() => states.length > 0)
    assert.match(
      states[0]!,
      /^forbidden pods cannot be listed and watched: .*Grant the verbs get, list and watch on pods/,
    )
  })

  test('a change that is applied reaches an agent', async (t) => {
    const ns = await namespace(t, { 'weft.dev/mesh': 'enabled' })
    await cluster.apply(
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: 'web', namespace: ns },
        spec: { selector: { app: 'web' }, ports: [{ name: 'http', port: 80 }] },
      },
      podObject(ns, 'web-1', 'made-up'),
    )
    const pod = (await api.get(PODS, ns, 'web-1'))!
    const status = { phase: 'Running', podIP: '10.9.9.9', podIPs: [{ ip: '10.9.9.9' }] }
    await api.replaceStatus({ ...pod, status }, PODS)

    const config = {
      source: { kind: 'kubernetes', kubeconfig: cluster.kubeconfig, context: null },
      givenRoot: await makeRootFiles(t),
    } as const
    const mesh = await TestController.start(t, {}, { config })
    const link = await mesh.link(t, 'made-up')
    const agent = new TestAgent(t, { connect: () => link.connect(), node: 'made-up' })
    const first = await agent.start()
    assert.ok(first.workloads.some(({ name }) => name === 'web-1'))

    for (const name of ['web-2', 'web-3']) {
      const startedAt = performance.now()
      await cluster.apply(podObject(ns, name, 'made-up'))
      await agent.deltas.until((delta) => delta.pods.some(({ uid }) => uid.endsWith(`/${name}`)))
      t.diagnostic(`from kubectl apply to an agent: ${Math.round(performance.now() - startedAt)} ms`)
    }
    const answer = await fetch(`http://127.0.0.1:${mesh.running.adminPort}/healthz/ready`)
    assert.equal(answer.status, 200)
  })

  async function fileWith(t: TestContext, text: string): Promise<string> {
    const directory = await mkdtemp(join(tmpdir(), 'weft-kubeconfig-'))
    t.after(() => rm(directory, { recursive: true }))
    const file = join(directory, 'config')
    await writeFile(file, text)
    return file
  }

  /** The administrator's kubeconfig with a token instead of the certificate. */
  async function kubeconfigWith(t: TestContext, token: string): Promise<string> {
    const text = await cluster.kubectl(['config', 'view', '--raw', '--flatten', '-o', 'json'])
    const config = JSON.parse(text) as { users: { user: unknown }[] }
    for (const entry of config.users) entry.user = { token }
    return await fileWith(t, JSON.stringify(config))
  }
})

/** A source, and promises of its changes. */
class Followed {
  readonly source: KubernetesSource
  private readonly waiting = new Set<() => void>()

  constructor(api: KubernetesApi, log: Logger) {
    const onChange = (): void => {
      for (const resolve of this.waiting) resolve()
      this.waiting.clear()
    }
    this.source = new KubernetesSource({ api, clock: systemClock, log, onChange })
  }

  kind(kind: string): readonly MeshObject[] {
    return this.source.objects.filter((object) => object.kind === kind)
  }

  hostsOf(namespace: string, name: string): string | null {
    const object = this.kind('VirtualService').find((one) => one.namespace === namespace && one.name === name)
    return object === undefined ? null : (object.spec as { hosts: string[] }).hosts.join(' ')
  }

  /** Resolves when `test` holds, at once or after a change. */
  async until(test: () => boolean): Promise<void> {
    while (!test()) await new Promise<void>((resolve) => this.waiting.add(resolve))
  }
}

async function until(test: () => boolean): Promise<void> {
  while (!test()) await delay(20)
}

function statusOf(error: unknown): number {
  return error instanceof KubernetesError ? error.status : -1
}

function rule(namespace: string, name: string, host: string): object {
  return {
    apiVersion: 'networking.istio.io/v1beta1',
    kind: 'VirtualService',
    metadata: { name, namespace },
    spec: { hosts: [host], http: [{ route: [{ destination: { host } }] }] },
  }
}

function podObject(namespace: string, name: string, nodeName: string): object {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace, labels: { app: 'web' } },
    spec: { nodeName, containers: [{ name: 'c', image: 'none', ports: [{ containerPort: 80 }] }] },
  }
}
