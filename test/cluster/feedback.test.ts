/**
 * What the controller tells a real API server: the validating webhook, which the API server dials by the name of a service,
 * the status of rules, and events.
 */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { readCrds } from '../../src/cli/install/crds.ts'
import { compile } from '../../src/compiler/compile.ts'
import { CompileMemo } from '../../src/compiler/compile-memo.ts'
import type { MeshObject } from '../../src/compiler/object.ts'
import { CertificateAuthority } from '../../src/controller/authority.ts'
import { KubernetesSource } from '../../src/controller/kubernetes-source.ts'
import { Feedback } from '../../src/controller/status-feedback.ts'
import { KubernetesApi } from '../../src/kubernetes/api.ts'
import { SETTINGS } from '../compiler/builders.ts'
import { needsRoot } from '../support/netns.ts'
import { type Cluster, startControlPlane } from './support/cluster.ts'

interface RuleStatus {
  readonly metadata: { readonly generation: number; readonly resourceVersion: string }
  readonly status?: {
    readonly observedGeneration: number
    readonly conditions: readonly { readonly type: string; readonly status: string; readonly message: string }[]
  }
}

function rule(name: string, spec: unknown): object {
  return {
    apiVersion: 'networking.istio.io/v1',
    kind: 'VirtualService',
    metadata: { name, namespace: 'default' },
    spec,
  }
}

const SERVICES = { group: '', version: 'v1', plural: 'services', isNamespaced: true }

const ROUTE = { route: [{ destination: { host: 'web' } }] }
const GOOD = rule('web', { hosts: ['web'], http: [ROUTE] })
const BAD = rule('web', { hosts: ['web'], http: [{ ...ROUTE, timout: '5s' }] })

describe('what the controller tells an API server', needsRoot, () => {
  let cluster: Cluster
  let directory: string
  let api: KubernetesApi
  let source: KubernetesSource
  let feedback: Feedback

  before(async () => {
    cluster = await startControlPlane()
    await cluster.apply(...readCrds(), { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'weft-system' } })
    await cluster.kubectl(['wait', '--for=condition=Established', 'crd', '--all', '--timeout=30s'])
    directory = await mkdtemp(join(tmpdir(), 'weft-feedback-'))
    const settings = { stateDirectory: directory, given: null, trustDomain: 'cluster.local' }
    api = await KubernetesApi.open({ kubeconfig: cluster.kubeconfig })
    feedback = new Feedback({
      api,
      authority: await CertificateAuthority.open(settings, silentLog),
      settings: SETTINGS,
      memo: new CompileMemo(),
      dnsNames: ['weft-controller.weft-system.svc'],
      onJudged: () => {},
      instance: 'weft-controller-test',
      clock: systemClock,
      log: silentLog,
    })
    source = new KubernetesSource({ api, clock: systemClock, log: silentLog, onChange: () => update() })
    await source.start()
    update()
    const { ipv4 } = cluster.state.host!
    const port = await feedback.listen({ address: ipv4, port: 0 })
    await cluster.apply(...webhookObjects(ipv4, port))
    feedback.setLeading(true)
    await cluster.apply({
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name: 'web', namespace: 'default' },
      spec: { selector: { app: 'web' }, ports: [{ name: 'http', port: 80 }] },
    })
    // The API server asks as soon as it knows the root.
    while ((await refusal(BAD)) === '') await delay(50)
  })

  after(async () => {
    await source?.stop()
    await feedback?.stop()
    api?.close()
    await cluster?.stop()
    if (directory !== undefined) await rm(directory, { recursive: true })
  })

  function update(): void {
    const { objects } = source
    const { messages } = compile(objects, SETTINGS)
    const bad = new Set(messages.filter(({ severity }) => severity === 'error').map(({ object }) => object))
    feedback.update(objects, messages, ({ key }: MeshObject) => (bad.has(key) ? 'none' : 'written'))
  }

  /** The API server's words to an object that it does not take; empty when it takes it. */
  async function refusal(object: object): Promise<string> {
    try {
      await cluster.kubectl(['apply', '--dry-run=server', '-f', '-'], JSON.stringify(object))
      return ''
    } catch (error) {
      return (error as Error).message
    }
  }

  async function statusOf(name: string, isWanted: (rule: RuleStatus) => boolean): Promise<RuleStatus> {
    for (;;) {
      const found = await cluster.get<RuleStatus>('vs', name)
      if (isWanted(found)) return found
      await delay(50)
    }
  }

  test('an object that is wrong is refused, with everything that is wrong with it', async () => {
    const bad = rule('web', { hosts: ['web'], http: [{ ...ROUTE, timout: '5s', mach: [] }], expotTo: ['.'] })
    const text = await refusal(bad)
    assert.match(text, /The VirtualService "web" is invalid:/)
    assert.match(text, /spec\.http\[0\]\.timout: There is no field "timout" here\. Did you mean timeout\? \(IST0106\)/)
    assert.match(text, /spec\.http\[0\]\.mach: .*Did you mean match\?/)
    assert.match(text, /spec\.expotTo: .*Did you mean exportTo\?/)
  })

  test('an object that is right is taken, and what it lacks is a warning', async () => {
    assert.equal(await refusal(GOOD), '')
    const path = '/apis/networking.istio.io/v1/namespaces/default/virtualservices'
    const lost = rule('lost', { hosts: ['web'], http: [{ route: [{ destination: { host: 'nobody' } }] }] })
    const { message } = await api.open('POST', path, lost, { query: { dryRun: 'All' } })
    message.resume()
    assert.match(
      String(message.headers['warning']),
      /299 - "spec\.http\[0\]\.route\[0\]\.destination\.host: No service/,
    )
  })

  test('what came a moment before the rule that refers to it is not missing', async () => {
    const path = '/apis/networking.istio.io/v1/namespaces/default'
    const subsets = [{ name: 'v1', labels: { version: 'v1' } }]
    const make = async (plural: string, object: unknown): Promise<unknown> => {
      const { message } = await api.open('POST', `${path}/${plural}`, object)
      message.resume()
      return message.headers['warning']
    }
    const before = source.objects.length
    // Ten times, and each faster than the source tells of anything.
    for (let i = 0; i < 10; i++) {
      const host = `sudden-${i}`
      const metadata = { name: host, namespace: 'default' }
      const ports = [{ name: 'http', port: 80 }]
      await api.create({ apiVersion: 'v1', kind: 'Service', metadata, spec: { ports } }, SERVICES)
      const spec = { host, subsets }
      const apiVersion = 'networking.istio.io/v1'
      await make('destinationrules', { apiVersion, kind: 'DestinationRule', metadata, spec })
      const route = [{ destination: { host, subset: 'v1' } }]
      assert.equal(await make('virtualservices', rule(host, { hosts: [host], http: [{ route }] })), undefined)
      await delay(100)
    }
    while (source.objects.length < before + 30) await delay(20)
  })

  test('a rule has a status soon, and once: that it is in force, for its generation', async () => {
    await cluster.apply(GOOD)
    const { metadata, status } = await statusOf('web', (one) => one.status !== undefined)
    assert.equal(status!.observedGeneration, metadata.generation)
    assert.deepEqual(
      status!.conditions.map(({ type, status }) => [type, status]),
      [
        ['weft.dev/Accepted', 'True'],
        ['weft.dev/Programmed', 'True'],
      ],
    )
    await delay(500)
    const later = await cluster.get<RuleStatus>('vs', 'web')
    assert.equal(later.metadata.resourceVersion, metadata.resourceVersion)
    assert.match(await cluster.kubectl(['get', 'vs', 'web']), /ACCEPTED.*\n.*True/)
  })

  test('a rule that got past the webhook has a status that says so, an event, and is repaired', async () => {
    const patch = JSON.stringify([
      { op: 'add', path: '/webhooks/0/objectSelector', value: { matchLabels: { no: 'one' } } },
    ])
    await cluster.kubectl(['patch', 'validatingwebhookconfiguration', 'weft-controller', '--type=json', '-p', patch])
    while ((await refusal(BAD)) !== '') await delay(50)
    await cluster.apply({ ...BAD, metadata: { name: 'past', namespace: 'default' } })
    const { status } = await statusOf('past', (one) => one.status?.conditions[0]?.status === 'False')
    assert.match(status!.conditions[0]!.message, /^spec\.http\[0\]\.timout: /)
    const field = 'involvedObject.name=past'
    let events: { reason: string; message: string }[] = []
    while (events.length === 0) {
      events = (
        await cluster.get<{ items: { reason: string; message: string }[] }>('events', '--field-selector', field)
      ).items
    }
    assert.equal(events[0]!.reason, 'Rejected')
    assert.match(events[0]!.message, /timout/)
    await cluster.apply({ ...GOOD, metadata: { name: 'past', namespace: 'default' } })
    await statusOf('past', (one) => one.status?.conditions[0]?.status === 'True')
  })

  test('a pod on the network of its node that is to be in the mesh has an event that says why it is not', async () => {
    await cluster.apply(
      { apiVersion: 'v1', kind: 'Node', metadata: { name: 'made-up' } },
      {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name: 'host', namespace: 'default', labels: { 'weft.dev/mesh': 'enabled' } },
        spec: { nodeName: 'made-up', hostNetwork: true, containers: [{ name: 'a', image: 'none' }] },
      },
    )
    const fields = 'involvedObject.name=host,reason=NotEnrolled'
    let found: { message: string }[] = []
    while (found.length === 0) {
      found = (await cluster.get<{ items: { message: string }[] }>('events', '--field-selector', fields)).items
    }
    assert.match(found[0]!.message, /it uses the network of its node/)
  })
})

/** The webhook of the installation, and a service that leads the API server to this process. */
function webhookObjects(address: string, port: number): object[] {
  const service = { name: 'weft-controller', namespace: 'weft-system' }
  return [
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: service,
      spec: { ports: [{ name: 'https-webhook', port: 443, targetPort: port }] },
    },
    {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { ...service, labels: { 'kubernetes.io/service-name': service.name } },
      addressType: 'IPv4',
      endpoints: [{ addresses: [address], conditions: { ready: true } }],
      ports: [{ name: 'https-webhook', port, protocol: 'TCP' }],
    },
    {
      apiVersion: 'admissionregistration.k8s.io/v1',
      kind: 'ValidatingWebhookConfiguration',
      metadata: { name: 'weft-controller' },
      webhooks: [
        {
          name: 'validate.weft.dev',
          admissionReviewVersions: ['v1'],
          sideEffects: 'None',
          failurePolicy: 'Ignore',
          timeoutSeconds: 5,
          clientConfig: { service: { ...service, path: '/validate', port: 443 } },
          rules: [
            {
              apiGroups: ['networking.istio.io', 'security.istio.io'],
              apiVersions: ['*'],
              operations: ['CREATE', 'UPDATE'],
              resources: ['*'],
              scope: 'Namespaced',
            },
          ],
        },
      ],
    },
  ]
}
