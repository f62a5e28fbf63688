import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FAILURE_BY_POLICY, FAILURE_CLOSED, FAILURE_OPEN, TUNNEL_HBONE, TUNNEL_NONE } from '../../src/model/workload.ts'
import {
  assertQuiet,
  authorizationPolicy,
  CART,
  compileTrees,
  messagesWith,
  namespace,
  pod,
  SETTINGS,
  service,
  shop,
  type Tree,
  uid,
  workloadOf,
} from './builders.ts'

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
