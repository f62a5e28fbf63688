import assert from 'node:assert/strict'
import test from 'node:test'
import { LastGood } from '../../src/controller/last-good.ts'
import { readYamlFile } from '../../src/controller/yaml-file.ts'
import { SHOP } from '../support/control-plane.ts'

const SETTINGS = {
  trustDomain: 'cluster.local',
  clusterDomain: 'cluster.local',
  rootNamespace: 'istio-system',
  clusterId: 'Kubernetes',
  revision: '',
  isReadingIstioLabels: false,
  virtualIpBlocks: { ipv4: '198.19.240.0/20', ipv6: 'fd00:240::/48' },
}

function policy(name: string, rules: string): string {
  return `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: ${name}, namespace: shop }
spec: { action: DENY, rules: ${rules} }
`
}

const GOOD = '[{ from: [{ source: { namespaces: [outside] } }] }]'
const BAD = '[{ from: [{ source: { namespaces: outside } }] }]'

function objectsOf(...texts: string[]) {
  const { objects, messages } = readYamlFile([SHOP, ...texts].join('\n---\n'), 'mesh.yaml')
  assert.deepEqual(messages, [])
  return objects
}

test('an object with an error is replaced by its last good version, and reported as it is now', () => {
  const lastGood = new LastGood(SETTINGS)
  const before = lastGood.compile(objectsOf(policy('deny', GOOD)))
  const after = lastGood.compile(objectsOf(policy('deny', BAD)))
  assert.equal(before.state.policies.length, 1)
  assert.deepEqual(after.state, before.state)
  assert.ok(after.messages.some(({ severity, object }) => severity === 'error' && object.endsWith('shop/deny')))
})

test('it stays through many broken versions, until a good one comes', () => {
  const lastGood = new LastGood(SETTINGS)
  const before = lastGood.compile(objectsOf(policy('deny', GOOD)))
  for (let i = 0; i < 3; i++) {
    assert.deepEqual(lastGood.compile(objectsOf(policy('deny', BAD))).state, before.state)
  }
  const better = lastGood.compile(objectsOf(policy('deny', '[{}]')))
  assert.notDeepEqual(better.state.policies, before.state.policies)
  assert.ok(better.messages.every(({ severity }) => severity !== 'error'))
})

test('an object that was never good is left out; a deleted one is forgotten', () => {
  const lastGood = new LastGood(SETTINGS)
  assert.deepEqual(lastGood.compile(objectsOf(policy('deny', BAD))).state.policies, [])
  lastGood.compile(objectsOf(policy('deny', GOOD)))
  lastGood.compile(objectsOf())
  assert.deepEqual(lastGood.compile(objectsOf(policy('deny', BAD))).state.policies, [])
})

test('a policy that fails closed is in force as it is: the older version would deny less', () => {
  const lastGood = new LastGood(SETTINGS)
  lastGood.compile(objectsOf(policy('deny', GOOD)))
  const custom = policy('deny', '[{}]').replace('DENY', 'CUSTOM').replace('rules:', 'provider: { name: x }, rules:')
  const after = lastGood.compile(objectsOf(custom))
  assert.ok(after.messages.some(({ code }) => code === 'WEFT0304'))
  const fresh = new LastGood(SETTINGS).compile(objectsOf(custom))
  assert.deepEqual(after.state, fresh.state)
})

test('which version of an object is in force is told by its generation', () => {
  const lastGood = new LastGood(SETTINGS)
  const written = (generation: number, rules: string) =>
    objectsOf(policy('deny', rules).replace('namespace: shop', `namespace: shop, generation: ${generation}`))
  const inForce = (objects: ReturnType<typeof objectsOf>): string => {
    lastGood.compile(objects)
    // The status of an object may have changed meanwhile: it is another object then, of the same generation.
    return lastGood.versionInForce({ ...objects.find(({ name }) => name === 'deny')! })
  }
  assert.equal(inForce(written(1, BAD)), 'none')
  assert.equal(inForce(written(2, GOOD)), 'written')
  assert.equal(inForce(written(3, BAD)), 'earlier')
  assert.equal(inForce(written(4, '[{}]')), 'written')
})
