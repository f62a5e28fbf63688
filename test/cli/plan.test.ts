import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseAllDocuments } from 'yaml'
import { canonicalAddress } from '../../src/base/address.ts'
import { manifests } from '../../src/cli/demo/manifests.ts'
import { type CaptureKind, demoPlan, hostNames, podNamed } from '../../src/cli/demo/plan.ts'

const KINDS: readonly CaptureKind[] = ['ebpf', 'loopback']

interface KubernetesObject {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: {
    readonly name: string
    readonly namespace?: string
    readonly annotations?: Record<string, string>
  }
  readonly spec?: { readonly nodeName?: string; readonly clusterIPs?: readonly string[] }
  readonly status?: { readonly podIP?: string }
}

function objects(kind: CaptureKind): readonly KubernetesObject[] {
  return [...manifests(demoPlan(kind)).values()].flatMap((text) =>
    parseAllDocuments(text).map((document) => {
      assert.deepEqual('errors' in document ? document.errors : [], [])
      return document.toJS() as KubernetesObject
    }),
  )
}

test('all addresses of a plan are canonical and belong to one thing only', () => {
  for (const kind of KINDS) {
    const plan = demoPlan(kind)
    const addresses = [
      ...plan.nodes.map(({ address }) => address),
      ...plan.pods.flatMap((pod) => (pod.appAddress === null ? pod.addresses : [...pod.addresses, pod.appAddress])),
      ...plan.services.flatMap((service) => service.addresses),
    ]
    assert.equal(new Set(addresses).size, addresses.length)
    for (const address of addresses) assert.equal(canonicalAddress(address), address)
  }
})

test('both plans have the same pods, and every service has a pod', () => {
  const [ebpf, loopback] = KINDS.map(demoPlan)
  assert.deepEqual(
    ebpf!.pods.map(({ name, node }) => [name, node]),
    loopback!.pods.map(({ name, node }) => [name, node]),
  )
  for (const { name, namespace, selector } of ebpf!.services) {
    const pods = ebpf!.pods.filter((pod) => pod.namespace === namespace && pod.labels['app'] === selector['app'])
    assert.ok(pods.length > 0, name)
  }
})

test('there are edges on one node and between nodes, for HTTP and for TCP', () => {
  const plan = demoPlan('ebpf')
  const isCrossing = (a: string, b: string) => podNamed(plan, a).node !== podNamed(plan, b).node
  assert.equal(isCrossing('productpage', 'details'), true)
  assert.equal(isCrossing('productpage', 'reviews-v1'), false)
  assert.equal(isCrossing('client', 'greeter'), true)
  assert.equal(isCrossing('client', 'tcp-echo'), false)
})

test('names of namespaces fit the kernel’s limit for interface names', () => {
  for (const { name } of demoPlan('ebpf').pods) assert.ok(name.length <= 15, name)
})

test('a pod on loopback addresses resolves services to those of its own node', () => {
  const plan = demoPlan('loopback')
  assert.match(hostNames(plan, 'node1').get('reviews')!, /^127\.30\.1\./)
  assert.match(hostNames(plan, 'node2').get('reviews.default.svc.cluster.local')!, /^127\.30\.2\./)
  assert.equal(hostNames(demoPlan('ebpf'), 'node2').get('tcp-echo.vault'), demoPlan('ebpf').services[4]!.addresses[0])
})

test('the YAML holds every object of the plan, where the controller looks for it', () => {
  for (const kind of KINDS) {
    const plan = demoPlan(kind)
    const all = objects(kind)
    const count = (wanted: string) => all.filter((object) => object.kind === wanted).length
    assert.equal(count('Namespace'), plan.namespaces.length)
    assert.equal(count('Pod'), plan.pods.length)
    assert.equal(count('Service'), plan.services.length)
    const productpage = all.find((object) => object.kind === 'Pod' && object.metadata.name === 'productpage')!
    const pod = podNamed(plan, 'productpage')
    assert.equal(productpage.status!.podIP, pod.addresses[0])
    assert.equal(productpage.spec!.nodeName, pod.node)
    const netns = productpage.metadata.annotations!['weft.dev/netns']
    assert.equal(netns, kind === 'ebpf' ? '/var/run/netns/weft-demo-productpage' : `loopback:${pod.appAddress}`)
    const reviews = all.find((object) => object.kind === 'Service' && object.metadata.name === 'reviews')!
    assert.deepEqual(reviews.spec!.clusterIPs, plan.services[2]!.addresses)
  }
})

test('service accounts are those of the public samples', () => {
  const accounts = objects('ebpf')
    .filter(({ kind, metadata }) => kind === 'ServiceAccount' && metadata.namespace === 'default')
    .map(({ metadata }) => metadata.name)
  for (const app of ['productpage', 'details', 'reviews', 'ratings'])
    assert.ok(accounts.includes(`bookinfo-${app}`), app)
  assert.equal(new Set(accounts).size, accounts.length)
})
