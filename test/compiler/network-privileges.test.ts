import assert from 'node:assert/strict'
import { test } from 'node:test'
import { networkPrivilegeOf } from '../../src/compiler/network-privileges.ts'
import { compileTrees, namespace, parse, pod, tree } from './builders.ts'

const privilege = (spec: unknown): string | undefined =>
  networkPrivilegeOf(parse(tree('v1', 'Pod', 'web', spec)))?.join('.')

test('a container that may change the network of its pod is found', () => {
  const plain = { name: 'a', securityContext: { capabilities: { add: ['NET_RAW'], drop: ['ALL'] } } }
  const admin = { name: 'b', securityContext: { capabilities: { add: ['NET_ADMIN'] } } }
  assert.equal(privilege({ containers: [plain] }), undefined)
  assert.equal(privilege({ containers: [plain, admin] }), 'spec.containers.1.securityContext.capabilities.add')
  assert.equal(
    privilege({ containers: [plain], initContainers: [admin] }),
    'spec.initContainers.0.securityContext.capabilities.add',
  )
  assert.equal(
    privilege({ containers: [{ securityContext: { privileged: true } }] }),
    'spec.containers.0.securityContext.privileged',
  )
  assert.equal(
    privilege({ containers: [{ securityContext: { capabilities: { add: ['ALL'] } } }] }),
    'spec.containers.0.securityContext.capabilities.add',
  )
  assert.equal(privilege({ containers: 'none', initContainers: [null, { securityContext: 7 }] }), undefined)
})

test('such a pod of the mesh is enrolled, with a warning; outside of it that is nobody’s business', () => {
  const spec = { containers: [{ name: 'vpn', securityContext: { capabilities: { add: ['NET_ADMIN'] } } }] }
  const { state, messages } = compileTrees([
    namespace('shop'),
    namespace('plain', {}),
    pod('vpn', {}, {}, spec),
    pod('stranger', {}, { namespace: 'plain' }, spec),
  ])
  assert.equal(state.pods.length, 1)
  assert.deepEqual(
    messages.filter(({ code }) => code === 'WEFT0129').map(({ object, severity }) => [object, severity]),
    [['Pod/shop/vpn', 'warning']],
  )
})
