import assert from 'node:assert/strict'
import test from 'node:test'
import { silentLog } from '../../src/base/log.ts'
import { startController } from '../../src/controller/app.ts'
import { SHOP, TestAgent, TestController } from '../support/control-plane.ts'

test('readiness and status are served on loopback; keys are nowhere in them', async (t) => {
  const mesh = await TestController.start(t, { 'shop.yaml': SHOP, 'bad.yaml': 'kind: [' })
  const link = await mesh.link(t, 'node1')
  await new TestAgent(t, { connect: () => link.connect(), node: 'node1' }).start()
  const base = `http://127.0.0.1:${mesh.running.adminPort}`
  const ready = await fetch(`${base}/healthz/ready`)
  assert.deepEqual([ready.status, await ready.text()], [200, 'ready\n'])
  const text = await (await fetch(`${base}/status`)).text()
  const status = JSON.parse(text)
  assert.equal(status.agents[0].node, 'node1')
  assert.equal(status.generation, 1)
  assert.equal(status.messages[0].position.line, 1)
  assert.doesNotMatch(text, /PRIVATE KEY/)
  assert.equal((await fetch(`${base}/other`)).status, 404)
  assert.equal((await fetch(`${base}/status`, { method: 'POST' })).status, 405)
})

test('it says that it lives, and counts what it pushes and how soon agents have it', async (t) => {
  const mesh = await TestController.start(t, { 'shop.yaml': SHOP })
  const base = `http://127.0.0.1:${mesh.running.adminPort}`
  assert.equal(await (await fetch(`${base}/healthz/live`)).text(), 'alive\n')
  const link = await mesh.link(t, 'node1')
  await new TestAgent(t, { connect: () => link.connect(), node: 'node1' }).start()
  const has = async (pattern: RegExp): Promise<boolean> => pattern.test(await (await fetch(`${base}/metrics`)).text())
  // The acknowledgement is under way when the agent has everything.
  while (!(await has(/^pilot_proxy_convergence_time_count [1-9]/m))) await new Promise(setImmediate)
  for (const pattern of [
    /^pilot_xds\{version=""\} 1$/m,
    /^pilot_xds_pushes\{type="wds"\} 1$/m,
    /^pilot_services 1$/m,
  ]) {
    assert.ok(await has(pattern), String(pattern))
  }
  const { headers } = await fetch(`${base}/metrics`)
  assert.match(headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/)
})

test('a controller whose port is taken says so and leaves nothing running', async (t) => {
  const mesh = await TestController.start(t, { 'shop.yaml': SHOP })
  const listen = { address: '127.0.0.1', port: mesh.running.port }
  await assert.rejects(
    startController({ ...mesh.config, listen }, silentLog),
    /cannot listen on 127\.0\.0\.1:\d+: is another controller running/,
  )
})
