/**
 * Services and pods as Kubernetes' own controllers write them down, compiled: what the API server and the EndpointSlice
 * controller really say is what the mesh makes of them.
 */
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { type CompileResult, compile } from '../../src/compiler/compile.ts'
import { KubernetesSource } from '../../src/controller/kubernetes-source.ts'
import { MeshAnswers } from '../../src/dns/mesh-answers.ts'
import { KubernetesApi } from '../../src/kubernetes/api.ts'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import { usableEndpoints } from '../../src/model/endpoints.ts'
import type { Service } from '../../src/model/service.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { ENDPOINT_DRAINING, TUNNEL_HBONE } from '../../src/model/workload.ts'
import { SETTINGS } from '../compiler/builders.ts'
import { needsRoot } from '../support/netns.ts'
import { type Cluster, startControlPlane } from './support/cluster.ts'

const NAMESPACE = 'shop'

describe('services of a real cluster', needsRoot, () => {
  let cluster: Cluster
  let api: KubernetesApi
  let source: KubernetesSource
  let result: CompileResult
  let changed: () => void = () => {}

  before(async () => {
    cluster = await startControlPlane()
    api = await KubernetesApi.open({ kubeconfig: cluster.kubeconfig })
    source = new KubernetesSource({ api, clock: systemClock, log: silentLog, onChange: () => update() })
    await source.start()
    update()
    await cluster.apply(
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: NAMESPACE, labels: { 'weft.dev/mesh': 'enabled' } } },
      node('node1', 'west'),
      node('node2', 'east'),
    )
  })
  after(async () => {
    await source?.stop()
    api?.close()
    await cluster?.stop()
  })

  function update(): void {
    result = compile(source.objects, SETTINGS)
    changed()
  }

  /** Resolves when what is compiled is as wanted. */
  async function until(isWanted: () => boolean): Promise<void> {
    while (!isWanted()) {
      await new Promise<void>((resolve) => {
        changed = resolve
      })
    }
  }

  function node(name: string, zone: string): object {
    return { apiVersion: 'v1', kind: 'Node', metadata: { name, labels: { 'topology.kubernetes.io/zone': zone } } }
  }

  /** Makes a pod that nobody runs, on a node that is none. */
  async function addPod(name: string, app: string, spec: object = {}, metadata: object = {}): Promise<void> {
    await cluster.apply({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name, namespace: NAMESPACE, labels: { app }, ...metadata },
      spec: {
        nodeName: 'node1',
        containers: [{ name: 'a', image: 'none', ports: [{ name: 'web', containerPort: 8080 }] }],
        ...spec,
      },
    })
  }

  /** What its kubelet would say. */
  async function setStatus(name: string, address: string, isReady: boolean): Promise<void> {
    const podIPs = [{ ip: address }, { ip: `fd78:0:0:11::${address.split('.').at(-1)}` }]
    const conditions = [{ type: 'Ready', status: isReady ? 'True' : 'False' }]
    const status = { phase: 'Running', podIP: address, podIPs, conditions }
    const patch = JSON.stringify({ status })
    await cluster.kubectl(['patch', 'pod', name, '-n', NAMESPACE, '--subresource=status', '--type=merge', '-p', patch])
  }

  async function addService(name: string, spec: object): Promise<void> {
    await cluster.apply({ apiVersion: 'v1', kind: 'Service', metadata: { name, namespace: NAMESPACE }, spec })
  }

  function serviceOf(name: string): Service | undefined {
    return result.state.services.find((one) => one.name === name && one.namespace === NAMESPACE)
  }

  /** Names of the endpoints that clients of a node would use. */
  function usable(name: string, place = { node: 'node1', zone: 'west' }): string {
    const service = serviceOf(name)
    if (service === undefined) return 'none'
    const members = result.state.workloads.filter(({ services }) => services.some((one) => one.service === service.key))
    return usableEndpoints(service.key, service, members, place)
      .map((workload) => workload.name)
      .join()
  }

  test('a pod is told to its node’s agent before it has an address, with the uid of the API server', async () => {
    await addPod('early', 'early')
    await until(() => result.state.pods.some(({ pod }) => pod.uid.endsWith('/early')))
    const found = result.state.pods.find(({ pod }) => pod.uid.endsWith('/early'))!
    const { metadata } = await cluster.get<{ metadata: { uid: string } }>('pod', 'early', '-n', NAMESPACE)
    assert.deepEqual([found.node, found.pod.podUid], ['node1', metadata.uid])
    const workload = result.state.workloads.find(({ name }) => name === 'early')!
    assert.deepEqual([workload.addresses, workload.isHealthy, workload.tunnelProtocol], [[], false, TUNNEL_HBONE])
    assert.equal(workload.locality.zone, 'west')
  })

  test('endpoints become usable when they are ready, drain while they are deleted, and are gone then', async () => {
    await addService('web', { selector: { app: 'web' }, ports: [{ name: 'http', port: 80, targetPort: 'web' }] })
    await addPod('web-1', 'web')
    await setStatus('web-1', '198.18.17.1', false)
    await until(() => result.state.workloads.some(({ name, services }) => name === 'web-1' && services.length === 1))
    assert.equal(usable('web'), '')
    await setStatus('web-1', '198.18.17.1', true)
    await until(() => usable('web') === 'web-1')
    const [membership] = result.state.workloads.find(({ name }) => name === 'web-1')!.services
    assert.deepEqual(membership!.ports, [{ servicePort: 80, targetPort: 8080 }])
    await addPod('web-2', 'web')
    await setStatus('web-2', '198.18.17.2', true)
    await until(() => usable('web') === 'web-1,web-2')
    await cluster.kubectl(['delete', 'pod', 'web-1', '-n', NAMESPACE, '--wait=false'])
    await until(() => usable('web') === 'web-2')
    assert.equal(result.state.workloads.find(({ name }) => name === 'web-1')!.services[0]!.readiness, ENDPOINT_DRAINING)
    await cluster.kubectl(['delete', 'pod', 'web-2', '-n', NAMESPACE, '--wait=false'])
    await until(() => usable('web') === 'web-1,web-2')
    const gone = ['delete', 'pod', 'web-1', 'web-2', '-n', NAMESPACE, '--force', '--grace-period=0', '--wait=false']
    await cluster.kubectl(gone)
    await until(() => usable('web') === '')
  })

  test('a headless service has its pods’ names, those that are not ready too if it publishes them', async () => {
    const spec = { clusterIP: 'None', selector: { app: 'db' }, ports: [{ name: 'tcp', port: 5432 }] }
    await addService('db', spec)
    await addService('db-all', { ...spec, publishNotReadyAddresses: true })
    await addPod('db-0', 'db', { hostname: 'db-0', subdomain: 'db' })
    await setStatus('db-0', '198.18.17.10', true)
    await addPod('db-1', 'db', { hostname: 'db-1', subdomain: 'db', nodeName: 'node2' })
    await setStatus('db-1', '198.18.17.11', false)
    await until(() => usable('db') === 'db-0' && usable('db-all') === 'db-0,db-1')
    const answers = new MeshAnswers()
    const { workloads, services } = result.state
    answers.update(Snapshot.empty.apply({ ...EMPTY_DELTA, workloads, services }))
    const addressesOf = (name: string) => answers.find(`${name}.${NAMESPACE}.svc.cluster.local`, NAMESPACE)?.addresses
    assert.deepEqual(addressesOf('db'), ['198.18.17.10', 'fd78:0:0:11::10'])
    assert.deepEqual(addressesOf('db-0.db'), ['198.18.17.10', 'fd78:0:0:11::10'])
    assert.equal(addressesOf('db-1.db'), undefined)
    assert.equal(addressesOf('db-all')!.length, 4)
  })

  test('what a service asks of its clients is understood as the API server writes it', async () => {
    const ports = [{ name: 'http', port: 80 }]
    await addService('sticky', { selector: { app: 'x' }, ports, sessionAffinity: 'ClientIP' })
    await addService('local', { selector: { app: 'x' }, ports, internalTrafficPolicy: 'Local' })
    await addService('both', { selector: { app: 'x' }, ports, ipFamilyPolicy: 'PreferDualStack' })
    await addService('out', { type: 'ExternalName', externalName: 'example.com' })
    await addService('outer', { type: 'NodePort', selector: { app: 'x' }, ports })
    await until(() => ['sticky', 'local', 'both', 'out', 'outer'].every((name) => serviceOf(name) !== undefined))
    assert.equal(serviceOf('sticky')!.affinityMs, 10_800_000)
    assert.equal(serviceOf('local')!.isNodeLocal, true)
    assert.equal(serviceOf('both')!.addresses.length, 2)
    assert.equal(serviceOf('out')!.alias, 'example.com')
    assert.equal(serviceOf('outer')!.addresses.length, 1)
    assert.deepEqual(
      result.messages.filter(({ object }) => object.startsWith('Service/')),
      [],
    )
  })

  test('endpoints that somebody wrote by hand are workloads outside the mesh', async () => {
    await addService('legacy', { ports: [{ name: 'http', port: 80 }] })
    await cluster.apply({
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { name: 'legacy-1', namespace: NAMESPACE, labels: { 'kubernetes.io/service-name': 'legacy' } },
      addressType: 'IPv4',
      endpoints: [{ addresses: ['198.18.99.1'], conditions: { ready: true } }],
      ports: [{ name: 'http', port: 8080, protocol: 'TCP' }],
    })
    await until(() => usable('legacy') === 'legacy-1')
    const workload = result.state.workloads.find(({ name }) => name === 'legacy-1')!
    assert.deepEqual(workload.addresses, ['198.18.99.1'])
    assert.notEqual(workload.tunnelProtocol, TUNNEL_HBONE)
  })

  test('hints for zones lead clients to endpoints of their zone', async () => {
    const ports = [{ name: 'http', port: 80 }]
    await addService('near', { selector: { app: 'near' }, ports, trafficDistribution: 'PreferClose' })
    await addPod('near-west', 'near')
    await addPod('near-east', 'near', { nodeName: 'node2' })
    await setStatus('near-west', '198.18.17.21', true)
    await setStatus('near-east', '198.18.17.22', true)
    const east = { node: 'node2', zone: 'east' }
    await until(() => usable('near') === 'near-west' && usable('near', east) === 'near-east')
    assert.equal(usable('near', { node: 'node3', zone: 'north' }), 'near-east,near-west')
  })

  test('a pod that has completed is none, and labels of namespace and pod take effect at once', async () => {
    await addPod('job', 'job')
    await setStatus('job', '198.18.17.30', true)
    const isOurs = (): boolean => result.state.pods.some(({ pod }) => pod.uid.endsWith('/job'))
    await until(isOurs)
    await cluster.kubectl(['label', 'pod', 'job', '-n', NAMESPACE, 'weft.dev/mesh=disabled'])
    await until(() => !isOurs())
    await cluster.kubectl(['label', 'pod', 'job', '-n', NAMESPACE, 'weft.dev/mesh-', '--overwrite'])
    await until(isOurs)
    await cluster.kubectl(['label', 'namespace', NAMESPACE, 'weft.dev/mesh-'])
    await until(() => result.state.pods.length === 0)
    await cluster.kubectl(['label', 'namespace', NAMESPACE, 'weft.dev/mesh=enabled'])
    await until(isOurs)
    const done = JSON.stringify({ status: { phase: 'Succeeded' } })
    await cluster.kubectl(['patch', 'pod', 'job', '-n', NAMESPACE, '--subresource=status', '--type=merge', '-p', done])
    await until(() => !result.state.workloads.some(({ name }) => name === 'job'))
  })
})
