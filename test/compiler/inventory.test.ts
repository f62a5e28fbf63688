import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  ENDPOINT_DRAINING,
  ENDPOINT_UNREADY,
  FAILURE_BY_POLICY,
  FAILURE_CLOSED,
  FAILURE_OPEN,
  TUNNEL_HBONE,
  TUNNEL_NONE,
} from '../../src/model/workload.ts'
import {
  assertQuiet,
  authorizationPolicy,
  CART,
  compileTrees,
  destinationRule,
  messagesWith,
  namespace,
  pod,
  SETTINGS,
  service,
  shop,
  type Tree,
  tree,
  uid,
  virtualService,
  workloadOf,
} from './builders.ts'

function slice(name: string, service: string, content: Tree): Tree {
  return {
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: { name, namespace: 'shop', labels: { 'kubernetes.io/service-name': service } },
    addressType: 'IPv4',
    ...content,
  }
}

test('a shop compiles without a word', () => {
  const result = compileTrees(shop())
  assertQuiet(result)
  assert.deepEqual(
    result.state.workloads.map((workload) => workload.uid),
    [uid('cart-v1'), uid('cart-v2'), uid('web-1')],
  )
  assert.deepEqual(
    result.state.services.map((one) => one.key),
    [CART, 'shop/web.shop.svc.cluster.local'],
  )
  assert.deepEqual(result.state.traffic, [])
  assert.deepEqual(
    result.state.pods.map(({ node, pod }) => [node, pod.uid, pod.netns, pod.scope]),
    [
      ['node1', uid('cart-v1'), '', '*'],
      ['node1', uid('cart-v2'), '', '*'],
      ['node1', uid('web-1'), '', '*'],
    ],
  )
})

test('a workload has its identity, place and telemetry names', () => {
  const result = compileTrees([
    namespace('shop'),
    {
      apiVersion: 'v1',
      kind: 'Node',
      metadata: {
        name: 'node1',
        labels: {
          'topology.kubernetes.io/region': 'r',
          'topology.kubernetes.io/zone': 'z',
          'topology.istio.io/subzone': 's',
        },
      },
    },
    pod('cart', { app: 'cart', version: 'v3' }, {}, { serviceAccountName: 'cashier' }, { podIPs: [{ ip: 'FD00::1' }] }),
  ])
  assertQuiet(result)
  const workload = workloadOf(result, 'cart')
  assert.equal(workload.uid, 'Kubernetes//Pod/shop/cart')
  assert.equal(workload.serviceAccount, 'cashier')
  assert.equal(workload.trustDomain, 'cluster.local')
  assert.equal(workload.addresses.length, 2)
  assert.equal(workload.addresses[1], 'fd00::1')
  assert.deepEqual(workload.locality, { region: 'r', zone: 'z', subzone: 's' })
  assert.equal(workload.canonicalName, 'cart')
  assert.equal(workload.canonicalRevision, 'v3')
  assert.equal(workload.isHealthy, true)
})

// --- enrolment ---

for (const [what, namespaceLabels, podLabels, spec, isEnrolled, codes] of [
  ['in a mesh namespace', { 'weft.dev/mesh': 'enabled' }, {}, {}, true, []],
  ['in a namespace without the label', {}, {}, {}, false, []],
  ['in a namespace that opts out', { 'weft.dev/mesh': 'disabled' }, {}, {}, false, []],
  ['in a namespace with a misspelled value', { 'weft.dev/mesh': 'true' }, {}, {}, false, ['WEFT0101']],
  ['that opts out', { 'weft.dev/mesh': 'enabled' }, { 'weft.dev/mesh': 'disabled' }, {}, false, []],
  ['that opts in outside the mesh', {}, { 'weft.dev/mesh': 'enabled' }, {}, true, []],
  [
    'that opts in in a namespace that opts out',
    { 'weft.dev/mesh': 'disabled' },
    { 'weft.dev/mesh': 'enabled' },
    {},
    true,
    [],
  ],
  ['that opts in on the host network', {}, { 'weft.dev/mesh': 'enabled' }, { hostNetwork: true }, false, ['WEFT0102']],
  ['on the host network outside the mesh', {}, {}, { hostNetwork: true }, false, []],
  ["in a namespace with Istio's label, which is not read", { 'istio.io/dataplane-mode': 'ambient' }, {}, {}, false, []],
  ['with a misspelled value', { 'weft.dev/mesh': 'enabled' }, { 'weft.dev/mesh': 'off' }, {}, true, ['WEFT0101']],
  ['on the host network', { 'weft.dev/mesh': 'enabled' }, {}, { hostNetwork: true }, false, ['WEFT0102']],
  ['without a node', { 'weft.dev/mesh': 'enabled' }, {}, { nodeName: null }, false, ['WEFT0102']],
] as const) {
  test(`a pod ${what} is ${isEnrolled ? '' : 'not '}enrolled`, () => {
    const result = compileTrees([namespace('shop', namespaceLabels), pod('a', podLabels, {}, spec)])
    assert.equal(workloadOf(result, 'a').tunnelProtocol, isEnrolled ? TUNNEL_HBONE : TUNNEL_NONE)
    assert.equal(result.state.pods.length, isEnrolled ? 1 : 0)
    assert.deepEqual(
      result.messages.map(({ code }) => code),
      codes,
    )
  })
}

const AMBIENT = 'istio.io/dataplane-mode'

for (const [namespaceLabels, podLabels, isEnrolled, codes] of [
  [{ [AMBIENT]: 'ambient' }, {}, true, []],
  [{ [AMBIENT]: 'none' }, {}, false, []],
  [{}, { [AMBIENT]: 'ambient' }, true, []],
  [{ [AMBIENT]: 'ambient' }, { [AMBIENT]: 'none' }, false, []],
  [{ [AMBIENT]: 'ambient' }, { 'weft.dev/mesh': 'disabled' }, false, []],
  [{ [AMBIENT]: 'ambient', 'weft.dev/mesh': 'disabled' }, {}, false, []],
  [{ 'weft.dev/mesh': 'enabled' }, { [AMBIENT]: 'none' }, false, []],
  [{ [AMBIENT]: 'sidecar' }, {}, false, ['WEFT0101']],
] as const) {
  const labels = `${JSON.stringify(namespaceLabels)} and ${JSON.stringify(podLabels)}`
  test(`where Istio's labels are read, ${labels} ${isEnrolled ? 'enrol' : 'do not enrol'} a pod`, () => {
    const settings = { ...SETTINGS, isReadingIstioLabels: true }
    const result = compileTrees([namespace('shop', namespaceLabels), pod('a', podLabels)], settings)
    assert.equal(workloadOf(result, 'a').tunnelProtocol, isEnrolled ? TUNNEL_HBONE : TUNNEL_NONE)
    assert.deepEqual(
      result.messages.map(({ code }) => code),
      codes,
    )
  })
}

const REVISION = 'weft.dev/rev'

for (const [revision, namespaceLabels, podLabels, isOurs] of [
  ['', {}, {}, true],
  ['', { [REVISION]: 'canary' }, {}, false],
  ['', { [REVISION]: 'canary' }, { [REVISION]: '' }, true],
  ['canary', {}, {}, false],
  ['canary', { [REVISION]: 'canary' }, {}, true],
  ['canary', { [REVISION]: 'stable' }, { [REVISION]: 'canary' }, true],
] as const) {
  const labels = `${JSON.stringify(namespaceLabels)} and ${JSON.stringify(podLabels)}`
  test(`a pod with ${labels} is ${isOurs ? '' : 'not '}for revision "${revision}" to enrol, and in the mesh`, () => {
    const mesh = { 'weft.dev/mesh': 'enabled', ...namespaceLabels }
    const result = compileTrees([namespace('shop', mesh), pod('a', podLabels)], { ...SETTINGS, revision })
    assert.equal(workloadOf(result, 'a').tunnelProtocol, TUNNEL_HBONE)
    assert.equal(result.state.pods.length, isOurs ? 1 : 0)
    assertQuiet(result)
  })
}

test('a rule of another revision is none of ours, one without a revision is', () => {
  const closed = (name: string, labels: Record<string, string>) =>
    authorizationPolicy(name, {}, { labels, namespace: name })
  const rules = [closed('plain', {}), closed('ours', { [REVISION]: 'blue' }), closed('theirs', { [REVISION]: 'green' })]
  const result = compileTrees(rules, { ...SETTINGS, revision: 'blue' })
  assert.deepEqual(
    result.state.policies.map(({ namespace }) => namespace),
    ['ours', 'plain'],
  )
})

test('a pod that is scheduled and has no address yet is told to the agent of its node, and is nobody to dial', () => {
  const result = compileTrees([
    namespace('shop'),
    service('cart'),
    pod('a', { app: 'cart' }, {}, {}, { podIP: '', phase: 'Pending' }),
    pod('b', { app: 'cart' }, {}, {}, { podIP: null }),
  ])
  assertQuiet(result)
  for (const name of ['a', 'b']) {
    const workload = workloadOf(result, name)
    assert.deepEqual(workload.addresses, [])
    assert.equal(workload.isHealthy, false)
    assert.equal(workload.tunnelProtocol, TUNNEL_HBONE)
  }
  assert.deepEqual(
    result.state.pods.map(({ node, pod }) => [node, pod.uid]),
    [
      ['node1', uid('a')],
      ['node1', uid('b')],
    ],
  )
})

test('a pod that is on no node yet is left out, and so is one outside the mesh that has no address yet', () => {
  const nowhere = pod('a', {}, {}, { nodeName: null }, { podIP: '' })
  const outside = pod('b', {}, { namespace: 'other' }, {}, { podIP: '' })
  const result = compileTrees([namespace('shop'), nowhere, outside])
  assert.deepEqual(result.state.workloads, [])
  assert.deepEqual(
    result.messages.map(({ code, object }) => [code, object]),
    [['WEFT0109', 'Pod/shop/a']],
  )
})

test('an agent is told the uid that the API server gave a pod', () => {
  const made = pod('a', {})
  ;(made['metadata'] as Tree)['uid'] = '5c1f'
  const result = compileTrees([namespace('shop'), made, pod('b', {})])
  assert.deepEqual(
    result.state.pods.map(({ pod }) => pod.podUid),
    ['5c1f', undefined],
  )
})

for (const phase of ['Succeeded', 'Failed']) {
  test(`a pod that has ${phase} is dropped`, () => {
    assert.deepEqual(compileTrees([namespace('shop'), pod('a', {}, {}, {}, { phase })]).state.workloads, [])
  })
}

for (const [what, status, isHealthy] of [
  ['ready', { conditions: [{ type: 'Ready', status: 'True' }] }, true],
  ['not ready', { conditions: [{ type: 'Ready', status: 'False' }] }, false],
  ['of unknown readiness', { conditions: [{ type: 'Ready', status: 'Unknown' }] }, false],
  ['without conditions', { conditions: [{ type: 'Initialized', status: 'True' }] }, true],
  ['pending', { phase: 'Pending' }, false],
] as const) {
  test(`a pod that is ${what} is ${isHealthy ? '' : 'not '}healthy`, () => {
    assert.equal(workloadOf(compileTrees([namespace('shop'), pod('a', {}, {}, {}, status)]), 'a').isHealthy, isHealthy)
  })
}

test('a pod that is being deleted is not healthy', () => {
  const dying = pod('a', {})
  ;(dying['metadata'] as Tree)['deletionTimestamp'] = '2026-01-01T00:00:00Z'
  assert.equal(workloadOf(compileTrees([namespace('shop'), dying]), 'a').isHealthy, false)
})

for (const [what, owner, labels, name, type] of [
  [
    'a ReplicaSet of a Deployment',
    { kind: 'ReplicaSet', name: 'cart-7f9' },
    { 'pod-template-hash': '7f9' },
    'cart',
    'deployment',
  ],
  ['a bare ReplicaSet', { kind: 'ReplicaSet', name: 'cart-7f9' }, {}, 'cart-7f9', 'deployment'],
  ['a Job of a CronJob', { kind: 'Job', name: 'bill-28394850' }, {}, 'bill', 'cronjob'],
  ['a Job', { kind: 'Job', name: 'bill-1' }, {}, 'bill-1', 'job'],
  ['a StatefulSet', { kind: 'StatefulSet', name: 'db' }, {}, 'db', 'pod'],
] as const) {
  test(`a pod of ${what} is called ${name}, a ${type}`, () => {
    const owned = pod('x', labels)
    ;(owned['metadata'] as Tree)['ownerReferences'] = [{ ...owner, controller: true }]
    const workload = workloadOf(compileTrees([namespace('shop'), owned]), 'x')
    assert.deepEqual([workload.workloadName, workload.workloadType], [name, type])
    assert.equal(workload.canonicalName, name)
  })
}

for (const [annotation, netns, isReported] of [
  ['/var/run/netns/a', '/var/run/netns/a', false],
  ['loopback:127.0.1.1', 'loopback:127.0.1.1', false],
  ['var/run', '', true],
  ['/var/run/../etc', '', true],
  ['/var/run/a b', '', true],
  ['loopback:here', '', true],
] as const) {
  test(`the annotation weft.dev/netns ${annotation} gives ${netns === '' ? 'nothing' : 'a namespace'}`, () => {
    const result = compileTrees([namespace('shop'), pod('a', {}, { annotations: { 'weft.dev/netns': annotation } })])
    assert.equal(result.state.pods[0]!.pod.netns, netns)
    assert.equal(messagesWith(result, 'WEFT0110').length, isReported ? 1 : 0)
  })
}

const MODE = 'weft.dev/failure-mode'

for (const [ofNamespace, ofPod, mode, reported] of [
  [undefined, undefined, FAILURE_BY_POLICY, []],
  ['open', undefined, FAILURE_OPEN, []],
  ['closed', undefined, FAILURE_CLOSED, []],
  [undefined, 'closed', FAILURE_CLOSED, []],
  ['closed', 'open', FAILURE_OPEN, []],
  ['open', 'closed', FAILURE_CLOSED, []],
  ['Closed', undefined, FAILURE_BY_POLICY, ['Namespace/shop']],
  ['closed', 'ajar', FAILURE_CLOSED, ['Pod/shop/a']],
  ['', '', FAILURE_BY_POLICY, ['Namespace/shop', 'Pod/shop/a']],
] as const) {
  test(`with the failure mode ${ofNamespace} of its namespace and ${ofPod} of its own a pod has ${mode}`, () => {
    const space = namespace('shop')
    if (ofNamespace !== undefined) (space['metadata'] as Tree)['annotations'] = { [MODE]: ofNamespace }
    const metadata = ofPod === undefined ? {} : { annotations: { [MODE]: ofPod } }
    const result = compileTrees([
      space,
      pod('a', {}, metadata),
      namespace('other'),
      pod('b', {}, { namespace: 'other' }),
    ])
    assert.deepEqual(
      result.state.pods.map((one) => one.pod.failureMode),
      [FAILURE_BY_POLICY, mode],
    )
    const messages = messagesWith(result, 'WEFT0111')
    assert.deepEqual(
      messages.map(({ object, field }) => [object, field]),
      reported.map((object) => [object, `metadata.annotations["${MODE}"]`]),
    )
  })
}

const ENCRYPT = 'weft.dev/encrypt-same-node'

for (const [place, ofMesh, ofNamespace, mustEncrypt, reported] of [
  ['annotations', undefined, undefined, undefined, []],
  ['annotations', undefined, 'true', true, []],
  ['labels', undefined, 'true', true, []],
  ['annotations', 'true', undefined, true, []],
  ['labels', 'true', 'false', undefined, []],
  ['annotations', 'false', 'true', true, []],
  ['annotations', undefined, 'yes', undefined, ['Namespace/shop']],
  ['labels', 'True', 'true', true, ['Namespace/istio-system']],
] as const) {
  test(`encryption on one node, by ${place}: ${ofMesh} for the mesh and ${ofNamespace} for the namespace`, () => {
    const [root, space] = [namespace('istio-system'), namespace('shop')]
    for (const [object, value] of [
      [root, ofMesh],
      [space, ofNamespace],
    ] as const) {
      if (value === undefined) continue
      const metadata = object['metadata'] as Tree
      metadata[place] = { ...((metadata[place] as Tree | undefined) ?? {}), [ENCRYPT]: value }
    }
    const result = compileTrees([root, space, pod('a', {})])
    assert.equal(result.state.pods[0]!.pod.mustEncrypt, mustEncrypt)
    assert.deepEqual(
      messagesWith(result, 'WEFT0113').map(({ object, field }) => [object, field]),
      reported.map((object) => [object, `metadata.${place}["${ENCRYPT}"]`]),
    )
  })
}

const DNS = 'weft.dev/dns-capture'

for (const [ofNamespace, ofPod, isExempt, reported] of [
  [undefined, undefined, false, []],
  ['false', undefined, true, []],
  ['true', undefined, false, []],
  [undefined, 'false', true, []],
  ['false', 'true', false, []],
  ['off', undefined, false, ['Namespace/shop']],
  ['false', 'no', true, ['Pod/shop/a']],
] as const) {
  const is = isExempt ? 'not captured' : 'captured'
  test(`with DNS capture ${ofNamespace} of its namespace and ${ofPod} of its own the DNS of a pod is ${is}`, () => {
    const space = namespace('shop')
    if (ofNamespace !== undefined) (space['metadata'] as Tree)['annotations'] = { [DNS]: ofNamespace }
    const metadata = ofPod === undefined ? {} : { annotations: { [DNS]: ofPod } }
    const trees = [space, pod('a', {}, metadata), namespace('other'), pod('b', {}, { namespace: 'other' })]
    const result = compileTrees(trees)
    assert.deepEqual(
      result.state.pods.map((one) => one.pod.isDnsExempt ?? false),
      [false, isExempt],
    )
    assert.deepEqual(
      messagesWith(result, 'WEFT0112').map(({ object, field }) => [object, field]),
      reported.map((object) => [object, `metadata.annotations["${DNS}"]`]),
    )
  })
}

test('of two pods with one address the newer keeps it', () => {
  const status = { podIP: '198.18.9.9' }
  const result = compileTrees([
    namespace('shop'),
    pod('new', {}, { age: 2 }, {}, status),
    pod('old', {}, { age: 1 }, {}, status),
  ])
  assert.deepEqual(
    result.state.workloads.map(({ name }) => name),
    ['new'],
  )
  assert.deepEqual(
    result.messages.map(({ code, object }) => [code, object]),
    [['WEFT0103', 'Pod/shop/old']],
  )
})

test('of two pods with one address and no age the first by name keeps it', () => {
  const status = { podIP: '198.18.9.9' }
  const result = compileTrees([namespace('shop'), pod('b', {}, {}, {}, status), pod('a', {}, {}, {}, status)])
  assert.deepEqual(
    result.state.workloads.map(({ name }) => name),
    ['a'],
  )
})

test('pods on the host network share the address of their node', () => {
  const host = { hostNetwork: true }
  const status = { podIP: '198.18.0.1' }
  const result = compileTrees([pod('a', {}, {}, host, status), pod('b', {}, {}, host, status)])
  assert.equal(result.state.workloads.length, 2)
  assertQuiet(result)
})

test('a bad address is an error with its place, and the pod is left out', () => {
  const result = compileTrees([namespace('shop'), pod('a', {}, {}, {}, { podIP: '10.0.0.300' })])
  assert.deepEqual(result.state.workloads, [])
  assert.deepEqual(
    result.messages.map(({ severity, field }) => [severity, field]),
    [['error', 'status.podIP']],
  )
})

// --- services ---

test('a service has canonical virtual IPs and ports in order', () => {
  const result = compileTrees([
    service(
      'dns',
      [
        { name: 'dns', port: 53, protocol: 'UDP' },
        { name: 'dns-tcp', port: 53, protocol: 'TCP' },
        { name: 'http', port: 8080, targetPort: 'web' },
        { name: 'a', port: 80 },
      ],
      {},
      { clusterIP: '198.19.9.1', clusterIPs: ['198.19.9.1', 'FD00:0::5'] },
    ),
  ])
  assertQuiet(result)
  const [one] = result.state.services
  assert.deepEqual(one!.addresses, ['198.19.9.1', 'fd00::5'])
  assert.equal(one!.hostname, 'dns.shop.svc.cluster.local')
  assert.deepEqual(
    one!.ports.map(({ number, name, targetPort }) => [number, name, targetPort]),
    [
      [53, 'dns-tcp', 53],
      [80, 'a', 80],
      // A named target port is what each pod says it is.
      [8080, 'http', 0],
    ],
  )
})

test('a headless service has no virtual IP', () => {
  const result = compileTrees([service('db', [{ port: 5432 }], {}, { clusterIP: 'None' })])
  assert.deepEqual(result.state.services[0]!.addresses, [])
  assertQuiet(result)
})

test('a service without clusterIP is headless, and says so', () => {
  const result = compileTrees([service('db', [{ port: 5432 }], {}, { clusterIP: null })])
  assert.deepEqual(result.state.services[0]!.addresses, [])
  assert.equal(messagesWith(result, 'WEFT0105').length, 1)
})

test('a service of type ExternalName is another name for a host, and nothing else', () => {
  const external = { type: 'ExternalName', clusterIP: null, externalName: 'DB.example.com.' }
  const result = compileTrees([service('db', [{ port: 80 }], {}, external), pod('a', { app: 'db' })])
  const [one] = result.state.services
  assert.deepEqual([one!.hostname, one!.alias], ['db.shop.svc.cluster.local', 'db.example.com'])
  assert.deepEqual([one!.addresses, one!.ports], [[], []])
  assert.deepEqual(workloadOf(result, 'a').services, [])
  assertQuiet(result)
})

test('an ExternalName that is no host name is an error', () => {
  const result = compileTrees([service('db', [], {}, { type: 'ExternalName', externalName: 'a_b..c' })])
  assert.deepEqual(result.state.services, [])
  assert.deepEqual(
    result.messages.map(({ severity, field }) => [severity, field]),
    [['error', 'spec.externalName']],
  )
})

test('rules for a service of type ExternalName are told that they have no effect', () => {
  const result = compileTrees([
    namespace('shop'),
    service('db', [], {}, { type: 'ExternalName', externalName: 'db.example.com' }),
    virtualService('db', { hosts: ['db'], http: [{ route: [{ destination: { host: 'db' } }] }] }),
    destinationRule('db', { host: 'db' }),
  ])
  assert.deepEqual(
    messagesWith(result, 'WEFT0128').map(({ object, field }) => [object.split('.')[0], field]),
    [
      ['DestinationRule', 'spec.host'],
      ['VirtualService', 'spec.hosts[0]'],
      ['VirtualService', 'spec.http[0].route[0].destination.host'],
    ],
  )
})

test('of two services with one virtual IP the older keeps it', () => {
  const ip = { clusterIP: '198.19.7.7' }
  const result = compileTrees([
    service('a', [{ port: 80 }], { age: 2 }, ip),
    service('b', [{ port: 80 }], { age: 1 }, ip),
  ])
  assert.deepEqual(
    result.state.services.map(({ name }) => name),
    ['b'],
  )
  assert.deepEqual(
    result.messages.map(({ code, object }) => [code, object]),
    [['WEFT0103', 'Service/shop/a']],
  )
})

for (const [what, spec, field] of [
  ['a bad virtual IP', { clusterIP: '1.2.3' }, 'spec.clusterIP'],
  ['a port without a number', { ports: [{ name: 'http' }] }, 'spec.ports[0]'],
  ['a port beyond 65535', { ports: [{ port: 70_000 }] }, 'spec.ports[0].port'],
  ['a port listed twice', { ports: [{ port: 80 }, { port: 80 }] }, 'spec.ports[1]'],
  ['a selector that is no text', { selector: { app: 1 } }, 'spec.selector.app'],
] as const) {
  test(`a service with ${what} is left out, the field is named`, () => {
    const result = compileTrees([service('a', [{ port: 80 }], {}, spec)])
    assert.deepEqual(result.state.services, [])
    assert.deepEqual(
      result.messages.map(({ severity, field }) => [severity, field]),
      [['error', field]],
    )
  })
}

// --- endpoints ---

test('without slices the endpoints are the pods that the selector selects, with named target ports resolved', () => {
  const ports = { containers: [{ ports: [{ name: 'web', containerPort: 8443 }] }] }
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ name: 'http', port: 80, targetPort: 'web' }]),
    pod('a', { app: 'cart' }, {}, ports),
    pod('b', { app: 'cart' }),
    pod('c', { app: 'other' }),
    pod('d', { app: 'cart' }, { namespace: 'elsewhere' }),
  ])
  assert.deepEqual(workloadOf(result, 'a').services, [
    { service: CART, ports: [{ servicePort: 80, targetPort: 8443 }] },
  ])
  assert.deepEqual(workloadOf(result, 'b').services, [{ service: CART, ports: [] }])
  assert.deepEqual(workloadOf(result, 'c').services, [])
  assert.deepEqual(workloadOf(result, 'd').services, [])
  assert.equal(messagesWith(result, 'WEFT0106').length, 1)
})

test('a service without selector and slices has no endpoints', () => {
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ port: 80 }], {}, { selector: null }),
    pod('a', { app: 'cart' }),
  ])
  assert.deepEqual(workloadOf(result, 'a').services, [])
})

test('slices, where there are any, decide about endpoints, ports and readiness', () => {
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ name: 'http', port: 80 }]),
    pod('a', { app: 'cart' }),
    pod('b', { app: 'cart' }),
    pod('c', { app: 'cart' }),
    slice('cart-1', 'cart', {
      endpoints: [
        { addresses: ['198.18.200.1'], targetRef: { kind: 'Pod', name: 'a' } },
        { addresses: ['198.18.200.2'], targetRef: { kind: 'Pod', name: 'b' }, conditions: { ready: false } },
      ],
      ports: [
        { name: 'http', port: 8080 },
        { name: 'other', port: 1 },
      ],
    }),
  ])
  assert.deepEqual(workloadOf(result, 'a').services, [
    { service: CART, ports: [{ servicePort: 80, targetPort: 8080 }] },
  ])
  assert.equal(workloadOf(result, 'a').isHealthy, true)
  assert.equal(workloadOf(result, 'b').isHealthy, false)
  assert.deepEqual(workloadOf(result, 'c').services, [])
})

for (const [conditions, readiness, isHealthy] of [
  [{}, undefined, true],
  [{ ready: true, serving: true, terminating: false }, undefined, true],
  [{ ready: true, serving: true, terminating: true }, undefined, true],
  [{ ready: false, serving: true, terminating: true }, ENDPOINT_DRAINING, false],
  [{ ready: false, serving: false, terminating: true }, ENDPOINT_UNREADY, false],
  [{ ready: false, serving: false, terminating: false }, ENDPOINT_UNREADY, false],
  [{ ready: false }, ENDPOINT_UNREADY, false],
] as const) {
  test(`an endpoint with the conditions ${JSON.stringify(conditions)} is of readiness ${readiness ?? 'ready'}`, () => {
    const result = compileTrees([
      namespace('shop'),
      service('cart', [{ name: 'http', port: 80 }]),
      pod('a', { app: 'cart' }),
      slice('cart-1', 'cart', {
        endpoints: [{ addresses: ['198.18.200.1'], targetRef: { kind: 'Pod', name: 'a' }, conditions }],
        ports: [{ name: 'http', port: 8080 }],
      }),
    ])
    const workload = workloadOf(result, 'a')
    assert.deepEqual([workload.services[0]!.readiness, workload.isHealthy], [readiness, isHealthy])
  })
}

test('a pod that is being deleted drains, also where its slice does not know it yet, and where there is none', () => {
  const dying = (name: string, labels: Record<string, string>): Tree => {
    const one = pod(name, labels)
    ;(one['metadata'] as Tree)['deletionTimestamp'] = '2026-01-01T00:00:00Z'
    return one
  }
  const targetRef = { kind: 'Pod', name: 'a' }
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ name: 'http', port: 80 }]),
    service('all', [{ name: 'http', port: 80 }], {}, { publishNotReadyAddresses: true }),
    service('selected'),
    dying('a', {}),
    dying('b', { app: 'selected' }),
    ...['cart', 'all'].map((name) =>
      slice(name, name, {
        endpoints: [{ addresses: ['198.18.200.1'], targetRef, conditions: { ready: true } }],
        ports: [{ name: 'http', port: 8080 }],
      }),
    ),
  ])
  const readiness = (name: string) =>
    workloadOf(result, name).services.map((one) => [one.service.split('/')[1]!.split('.')[0], one.readiness])
  assert.deepEqual(readiness('a'), [
    ['all', undefined],
    ['cart', ENDPOINT_DRAINING],
  ])
  assert.deepEqual(readiness('b'), [['selected', ENDPOINT_DRAINING]])
})

test('slices say whose clients an endpoint is for, and its name below the service', () => {
  const hints = { forZones: [{ name: 'west' }, { name: 'east' }], forNodes: [{ name: 'node1' }] }
  const result = compileTrees([
    namespace('shop'),
    service('db', [{ name: 'tcp', port: 80 }], {}, { clusterIP: 'None' }),
    pod('db-0', {}),
    slice('db', 'db', {
      endpoints: [
        { addresses: ['198.18.200.1'], targetRef: { kind: 'Pod', name: 'db-0' }, hostname: 'zero', hints },
        { addresses: ['198.18.200.2'], hostname: 'one' },
      ],
      ports: [{ name: 'tcp', port: 8080 }],
    }),
  ])
  assertQuiet(result)
  const members = result.state.workloads.map(({ services }) => services[0]!)
  assert.deepEqual(
    members.map(({ hostname, zones, nodes }) => [hostname, zones, nodes]),
    [
      ['zero', ['west', 'east'], ['node1']],
      ['one', undefined, undefined],
    ],
  )
})

test('without slices a pod has its name below the headless service that its subdomain names', () => {
  const named = (name: string, subdomain: string) => pod(name, { app: 'db' }, {}, { hostname: name, subdomain })
  const headless = service('db', [{ port: 80 }], {}, { clusterIP: 'None' })
  const result = compileTrees([namespace('shop'), headless, named('db-0', 'db'), named('db-1', 'other')])
  assert.deepEqual(
    ['db-0', 'db-1'].map((name) => workloadOf(result, name).services[0]!.hostname),
    ['db-0', undefined],
  )
})

test('an endpoint whose pod is not there, or another one of that name, is not used', () => {
  const made = pod('a', {})
  ;(made['metadata'] as Tree)['uid'] = 'new'
  const endpoint = (name: string, podUid: string) => {
    return { addresses: ['198.18.200.1'], targetRef: { kind: 'Pod', name, uid: podUid } }
  }
  const ports = [{ name: 'http', port: 8080 }]
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ name: 'http', port: 80 }]),
    made,
    slice('cart-1', 'cart', { endpoints: [endpoint('a', 'old'), endpoint('gone', 'x')], ports }),
  ])
  assert.deepEqual(
    result.state.workloads.map(({ name, services }) => [name, services.length]),
    [['a', 0]],
  )
  assert.deepEqual(
    messagesWith(result, 'WEFT0114').map(({ severity, object }) => [severity, object.split('.')[0]]),
    [
      ['info', 'EndpointSlice'],
      ['info', 'EndpointSlice'],
    ],
  )
})

test("who writes slices in another namespace says nothing about a pod's own health", () => {
  const foreign = slice('evil', 'evil', {
    endpoints: [{ addresses: ['198.18.77.1'], conditions: { ready: false } }],
    ports: [{ name: 'http', port: 8080 }],
  })
  ;(foreign['metadata'] as Tree)['namespace'] = 'evil'
  const result = compileTrees([
    namespace('shop'),
    pod('a', {}, {}, {}, { podIP: '198.18.77.1' }),
    service('evil', [{ name: 'http', port: 80 }], { namespace: 'evil' }, { selector: null }),
    foreign,
  ])
  const workload = workloadOf(result, 'a')
  assert.equal(workload.isHealthy, true)
  assert.equal(workload.services[0]!.readiness, ENDPOINT_UNREADY)
})

for (const [spec, expected] of [
  [{ sessionAffinity: 'ClientIP' }, { affinityMs: 10_800_000 }],
  [
    { sessionAffinity: 'ClientIP', sessionAffinityConfig: { clientIP: { timeoutSeconds: 60 } } },
    { affinityMs: 60_000 },
  ],
  [{ sessionAffinity: 'None' }, {}],
  [{ internalTrafficPolicy: 'Local' }, { isNodeLocal: true }],
  [{ internalTrafficPolicy: 'Cluster' }, {}],
  [{ publishNotReadyAddresses: true }, { isPublishingUnready: true }],
  [{ clusterIP: 'None' }, { isHeadless: true }],
  [{ type: 'LoadBalancer', externalTrafficPolicy: 'Local' }, {}],
  [{ type: 'NodePort' }, {}],
] as const) {
  test(`a service with ${JSON.stringify(spec)} is so in the mesh`, () => {
    const result = compileTrees([service('cart', [{ name: 'http', port: 80 }], {}, spec)])
    assertQuiet(result)
    const { affinityMs, isNodeLocal, isPublishingUnready, isHeadless } = result.state.services[0]!
    const said = Object.entries({ affinityMs, isNodeLocal, isPublishingUnready, isHeadless })
    assert.deepEqual(Object.fromEntries(said.filter(([, value]) => value !== undefined)), expected)
  })
}

test('an endpoint that is no pod is a workload outside the mesh', () => {
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ name: 'http', port: 80 }], {}, { selector: null }),
    slice('cart-1', 'cart', {
      endpoints: [{ addresses: ['198.18.200.1'], nodeName: 'n', zone: 'z' }],
      ports: [{ name: 'http', port: 8080 }],
    }),
  ])
  const [workload] = result.state.workloads
  assert.equal(workload!.uid, 'Kubernetes/discovery.k8s.io/EndpointSlice/shop/cart-1/198.18.200.1')
  assert.deepEqual(workload!.addresses, ['198.18.200.1'])
  assert.equal(workload!.tunnelProtocol, TUNNEL_NONE)
  assert.equal(workload!.locality.zone, 'z')
  assert.deepEqual(workload!.services, [{ service: CART, ports: [{ servicePort: 80, targetPort: 8080 }] }])
})

test('a pod in two slices of one service (two address families) is one endpoint', () => {
  const ports = [{ name: 'http', port: 8080 }]
  const targetRef = { kind: 'Pod', name: 'a' }
  const result = compileTrees([
    namespace('shop'),
    service('cart', [{ name: 'http', port: 80 }]),
    pod('a', { app: 'cart' }),
    slice('cart-4', 'cart', { endpoints: [{ addresses: ['198.18.200.1'], targetRef }], ports }),
    slice('cart-6', 'cart', { endpoints: [{ addresses: ['fd00::1'], targetRef }], ports, addressType: 'IPv6' }),
  ])
  assert.deepEqual(workloadOf(result, 'a').services, [
    { service: CART, ports: [{ servicePort: 80, targetPort: 8080 }] },
  ])
  assert.equal(result.state.workloads.length, 1)
})

test('a slice with a bad address is left out, one without a service is reported', () => {
  const bad = slice('bad', 'cart', { endpoints: [{ addresses: ['x'] }], ports: [] })
  const orphan = tree('discovery.k8s.io/v1', 'EndpointSlice', 'orphan', null)
  const result = compileTrees([bad, { ...orphan, endpoints: [], ports: [] }])
  assert.deepEqual(
    result.messages.map(({ object, field }) => [object, field]),
    [
      ['EndpointSlice.discovery.k8s.io/shop/bad', 'endpoints[0].addresses[0]'],
      ['EndpointSlice.discovery.k8s.io/shop/orphan', 'metadata.labels'],
    ],
  )
})
