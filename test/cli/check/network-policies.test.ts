import assert from 'node:assert/strict'
import { test } from 'node:test'
import { blockedTunnels, type NetworkPolicy, type PolicyPod } from '../../../src/cli/check/network-policies.ts'

function pod(name: string, labels: Record<string, string> = { app: name }, namespace = 'shop'): PolicyPod {
  return { namespace, name, labels, namespaceLabels: { name: namespace }, addresses: [`10.0.0.${name.length}`] }
}

function policy(spec: NonNullable<NetworkPolicy['spec']>, name = 'p', namespace = 'shop'): NetworkPolicy {
  return { metadata: { name, namespace }, spec }
}

const WEB = pod('web')
const CART = pod('cart')
const APP_PORT = [{ protocol: 'TCP', port: 8080 }]
const BOTH_PORTS = [...APP_PORT, { protocol: 'TCP', port: 15_008 }]

function names(policies: readonly NetworkPolicy[], pods: readonly PolicyPod[] = [WEB, CART]): readonly string[] {
  return blockedTunnels(policies, pods).map((one) => `${one.direction} ${one.policy}: ${one.pods.join(' ')}`)
}

test('a policy that lets only the port of the app in stops the tunnel to those pods', () => {
  const spec = { podSelector: { matchLabels: { app: 'cart' } }, ingress: [{ ports: APP_PORT }] }
  const [found] = blockedTunnels([policy(spec)], [WEB, CART])
  assert.deepEqual(found, { policy: 'shop/p', direction: 'ingress', pods: ['shop/cart'], peer: 'shop/web' })
})

test('with the port of the tunnel, with a range around it, and without ports nothing is stopped', () => {
  for (const ports of [BOTH_PORTS, [{ port: 15_000, endPort: 15_100 }], [{ protocol: 'TCP' }], [], undefined]) {
    const rule = ports === undefined ? {} : { ports }
    assert.deepEqual(names([policy({ podSelector: {}, ingress: [rule] })]), [], JSON.stringify(ports))
  }
})

test('UDP ports, named ports and ranges elsewhere do not let the tunnel in', () => {
  for (const port of [{ protocol: 'UDP', port: 15_008 }, { port: 'http' }, { port: 1, endPort: 15_007 }]) {
    assert.equal(names([policy({ podSelector: {}, ingress: [{ ports: [port] }] })]).length, 1, JSON.stringify(port))
  }
})

test('another policy of the same pods may let the tunnel in', () => {
  const app = policy({ podSelector: {}, ingress: [{ ports: APP_PORT }] }, 'app')
  const mesh = policy({ podSelector: {}, ingress: [{ ports: [{ port: 15_008 }] }] }, 'mesh')
  assert.deepEqual(names([app, mesh]), [])
})

test('whom no policy lets in at all is meant to be kept out', () => {
  assert.deepEqual(names([policy({ podSelector: {}, ingress: [] })]), [])
  const strangers = {
    podSelector: {},
    ingress: [{ from: [{ podSelector: { matchLabels: { app: 'nobody' } } }], ports: APP_PORT }],
  }
  assert.deepEqual(names([policy(strangers)]), [])
})

test('peers are found by their own labels, by their namespace, and by address', () => {
  const other = pod('web', { app: 'web' }, 'blog')
  const from = (peer: object): NetworkPolicy =>
    policy({ podSelector: { matchLabels: { app: 'cart' } }, ingress: [{ from: [peer], ports: APP_PORT }] })
  const stopped = (peer: object): boolean => names([from(peer)], [other, CART]).length > 0
  // Without a namespaceSelector only pods of the policy's own namespace are meant.
  assert.equal(stopped({ podSelector: { matchLabels: { app: 'web' } } }), false)
  assert.equal(stopped({ namespaceSelector: { matchLabels: { name: 'blog' } } }), true)
  assert.equal(stopped({ namespaceSelector: {}, podSelector: { matchLabels: { app: 'web' } } }), true)
  assert.equal(stopped({ ipBlock: { cidr: '10.0.0.0/24' } }), true)
  assert.equal(stopped({ ipBlock: { cidr: '10.0.0.0/24', except: ['10.0.0.0/28'] } }), false)
  assert.equal(stopped({ ipBlock: { cidr: 'fd00::/8' } }), false)
})

test('expressions of selectors mean what the API says', () => {
  const selects = (expression: { key: string; operator: string; values?: string[] }): boolean =>
    names([policy({ podSelector: { matchExpressions: [expression] }, ingress: [{ ports: APP_PORT }] })], [CART])
      .length > 0
  assert.equal(selects({ key: 'app', operator: 'In', values: ['cart', 'x'] }), true)
  assert.equal(selects({ key: 'app', operator: 'NotIn', values: ['cart'] }), false)
  assert.equal(selects({ key: 'none', operator: 'NotIn', values: ['cart'] }), true)
  assert.equal(selects({ key: 'app', operator: 'Exists' }), true)
  assert.equal(selects({ key: 'app', operator: 'DoesNotExist' }), false)
})

test('a policy of egress stops the tunnel from its pods', () => {
  const spec = { podSelector: { matchLabels: { app: 'web' } }, policyTypes: ['Egress'], egress: [{ ports: APP_PORT }] }
  assert.deepEqual(names([policy(spec)]), ['egress shop/p: shop/web'])
  // Its ingress, about which it says nothing, is open.
  assert.deepEqual(names([policy({ ...spec, policyTypes: ['Ingress'] })]), [])
})

test('pods that differ only by what their controllers write are named once', () => {
  const twins = [0, 1, 2].map((n) => pod(`cart-${n}`, { app: 'cart', 'pod-template-hash': `${n}` }))
  assert.deepEqual(names([policy({ podSelector: {}, ingress: [{ ports: APP_PORT }] })], twins), [
    'ingress shop/p: shop/cart-0',
  ])
})
