/** Controller and subscription together, over real gRPC with mutual TLS on loopback. */
import assert from 'node:assert/strict'
import test, { type TestContext } from 'node:test'
import { createKey, createSigningRequest } from '../../src/security/csr.ts'
import { linkTo, pod, SHOP, TestAgent, TestController } from '../support/control-plane.ts'

const WEB_1 = 'Kubernetes//Pod/shop/web-1'
const WEB_2 = 'Kubernetes//Pod/shop/web-2'
const WEB_3 = 'Kubernetes//Pod/shop/web-3'

const ROUTES = `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: { name: web, namespace: shop }
spec:
  hosts: [web]
  http: [{ route: [{ destination: { host: web } }], timeout: 3s }]
`

const DENY = `
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: deny, namespace: shop }
spec:
  action: DENY
  rules: [{ from: [{ source: { namespaces: [outside] } }] }]
`

async function agentOf(t: TestContext, mesh: TestController, node: string): Promise<TestAgent> {
  const link = await mesh.link(t, node)
  return new TestAgent(t, { connect: () => link.connect(), node })
}

test('an agent gets all workloads and services, all policies, and only its own pods', async (t) => {
  const mesh = await TestController.start(t, { 'shop.yaml': SHOP, 'deny.yaml': DENY })
  const agent = await agentOf(t, mesh, 'node1')
  const delta = await agent.start()
  assert.deepEqual(delta.workloads.map((workload) => workload.uid).sort(), [
    'Kubernetes//Pod/outside/stranger',
    WEB_1,
    WEB_2,
  ])
  assert.deepEqual(
    delta.services.map((service) => service.key),
    ['shop/web.shop.svc.cluster.local'],
  )
  assert.deepEqual(
    delta.policies.map((policy) => policy.key),
    ['shop/deny'],
  )
  assert.deepEqual(
    delta.pods.map((one) => [one.uid, one.netns]),
    [[WEB_1, '/var/run/netns/web-1']],
  )
  assert.equal(agent.subscription.status().isConnected, true)
})

test('an agent without pods gets no traffic rules; one with pods gets those of their scopes', async (t) => {
  const mesh = await TestController.start(t, { 'shop.yaml': SHOP, 'routes.yaml': ROUTES })
  const idle = await (await agentOf(t, mesh, 'node9')).start()
  assert.equal(idle.traffic.length, 0)
  assert.equal(idle.workloads.length, 3)
  const busy = await (await agentOf(t, mesh, 'node1')).start()
  assert.equal(busy.traffic.length, 1)
  assert.equal(busy.traffic[0]!.scope, busy.pods[0]!.scope)
  assert.equal(busy.traffic[0]!.routes[0]!.timeoutMs, 3000)
})

test('a changed file reaches the agents as the difference, in one delta', async (t) => {
  const mesh = await TestController.start(t, { 'shop.yaml': SHOP })
  const agent = await agentOf(t, mesh, 'node1')
  await agent.start()
  const received = agent.subscription.status().receivedCount
  await mesh.write('more.yaml', `${pod('shop', 'web-3', 'node1', '10.0.1.3', 'web')}\n---\n${ROUTES}`)
  const delta = await agent.deltas.next()
  assert.deepEqual(
    delta.workloads.map((workload) => workload.uid),
    [WEB_3],
  )
  assert.deepEqual(
    delta.pods.map((one) => one.uid),
    [WEB_3],
  )
  assert.equal(delta.traffic.length, 1)
  assert.equal(agent.subscription.status().receivedCount - received, 3)
})

test('a deleted file takes its objects out of the agents', async (t) => {
  const mesh = await TestController.start(t, {
    'shop.yaml': SHOP,
    'more.yaml': pod('shop', 'web-3', 'node1', '10.0.1.3', 'web'),
    'deny.yaml': DENY,
  })
  const agent = await agentOf(t, mesh, 'node1')
  await agent.start()
  await mesh.remove('more.yaml')
  await mesh.remove('deny.yaml')
  const removed = new Set<string>()
  while (removed.size < 3) {
    const delta = await agent.deltas.next()
    for (const name of [...delta.removedWorkloads, ...delta.removedPods.map((uid) => `pod ${uid}`)]) removed.add(name)
    for (const name of delta.removedPolicies) removed.add(name)
  }
  assert.deepEqual([...removed].sort(), [WEB_3, `pod ${WEB_3}`, 'shop/deny'])
})

test('a policy that comes to need HTTP changes its type on the wire, not its existence', async (t) => {
  const mesh = await TestController.start(t, { 'shop.yaml': SHOP, 'deny.yaml': DENY })
  const agent = await agentOf(t, mesh, 'node1')
  await agent.start()
  await mesh.write('deny.yaml', DENY.replace('rules: [{ ', 'rules: [{ to: [{ operation: { methods: [POST] } }], '))
  const delta = await agent.deltas.next()
  assert.deepEqual(delta.removedPolicies, [])
  assert.deepEqual(
    delta.policies.map((policy) => policy.key),
    ['shop/deny'],
  )
})

test('an agent that comes back is told only what changed meanwhile', async (t) => {
  const mesh = await TestController.start(t, { 'shop.yaml': SHOP })
  const agent = await agentOf(t, mesh, 'node1')
  const other = await agentOf(t, mesh, 'node2')
  await agent.start()
  await other.start()
  const before = agent.subscription.status().receivedCount

  const port = mesh.running.port
  await mesh.stop()
  await mesh.write('more.yaml', pod('shop', 'web-3', 'node1', '10.0.1.3', 'web'))
  await mesh.startAgain(port)
  agent.subscription.reconnect()

  const delta = await agent.deltas.next()
  assert.deepEqual(
    delta.workloads.map((workload) => workload.uid),
    [WEB_3],
  )
  // The workload and the pod of node1; nothing of what it had.
  assert.equal(agent.subscription.status().receivedCount - before, 2)
  const session = mesh.status().agents.find(({ node }) => node === 'node1')
  assert.equal(session?.resourcesSent, 2)
})

test('an agent that comes back learns what was removed meanwhile', async (t) => {
  const mesh = await TestController.start(t, {
    'shop.yaml': SHOP,
    'more.yaml': pod('shop', 'web-3', 'node2', '10.0.2.3', 'web'),
  })
  const agent = await agentOf(t, mesh, 'node1')
  await agent.start()
  const port = mesh.running.port
  await mesh.stop()
  await mesh.remove('more.yaml')
  await mesh.startAgain(port)
  agent.subscription.reconnect()
  const delta = await agent.deltas.next()
  assert.deepEqual(delta.removedWorkloads, [WEB_3])
  assert.deepEqual(delta.workloads, [])
})

test('an object with an error keeps its last good version in force, and the error is reported with its place', async (t) => {
  const mesh = await TestController.start(t, { 'shop.yaml': SHOP, 'routes.yaml': ROUTES })
  const agent = await agentOf(t, mesh, 'node1')
  const first = await agent.start()
  await mesh.write('routes.yaml', ROUTES.replace('timeout: 3s', 'timeout: soon'))
  // A second, good change shows that the first one has been dealt with.
  await mesh.write('more.yaml', pod('shop', 'web-3', 'node2', '10.0.2.3', 'web'))
  const delta = await agent.deltas.until(({ workloads }) => workloads.some(({ uid }) => uid === WEB_3))
  assert.deepEqual(delta.removedTraffic, [])
  assert.deepEqual(delta.traffic, [])
  assert.equal(first.traffic.length, 1)
  const message = mesh.running.messages().find(({ severity }) => severity === 'error')
  assert.equal(message?.object, 'VirtualService.networking.istio.io/shop/web')
  assert.ok(message?.position?.file.endsWith('routes.yaml'))
  assert.equal(message?.position?.line, 7)
})

test('a workload certificate opens no stream: only nodes are agents', async (t) => {
  const mesh = await TestController.start(t, { 'shop.yaml': SHOP })
  const link = await mesh.link(t, 'node1')
  const key = createKey()
  const identity = 'spiffe://cluster.local/ns/shop/sa/web-1'
  const chain = await link.requestCertificate(createSigningRequest(key, identity), identity, 0)
  const stolen = linkTo(t, mesh.address, {
    certificateChain: chain.slice(0, -1).join(''),
    key: key.export({ format: 'pem', type: 'pkcs8' }).toString(),
    bundle: chain.at(-1)!,
  })
  const client = stolen.connect()
  t.after(() => client.close())
  const error = await new Promise<Error>((resolve) => {
    client.openDiscovery({ onResponse: () => resolve(new Error('answered')), onEnd: resolve })
  })
  assert.match(error.message, /PERMISSION_DENIED/)
  assert.match(String(error.cause), /ns\/shop\/sa\/web-1 is no node/)
})
