import assert from 'node:assert/strict'
import { afterEach, beforeEach, mock, test } from 'node:test'
import { CredentialGate } from '../../src/agent/credential-gate.ts'

const A = 'spiffe://cluster.local/ns/shop/sa/a'
const B = 'spiffe://cluster.local/ns/shop/sa/b'
const WAIT_MS = 15_000

beforeEach(() => mock.timers.enable({ apis: ['setTimeout'] }))
afterEach(() => mock.timers.reset())

test('everybody who waits for an identity goes on when its certificate is there, and nobody else', async () => {
  const gate = new CredentialGate()
  const passed: string[] = []
  const waiting = [A, A, B].map((identity) =>
    gate.ready(identity).then(
      () => passed.push(identity),
      () => {},
    ),
  )
  gate.open(A)
  await Promise.all(waiting.slice(0, 2))
  assert.deepEqual(passed, [A, A])
  gate.close()
  await waiting[2]
  assert.deepEqual(passed, [A, A])
})

test('an identity that has its certificate makes nobody wait, until it is removed', async () => {
  const gate = new CredentialGate()
  gate.open(A)
  await gate.ready(A)
  gate.remove(A)
  const refused = assert.rejects(gate.ready(A), { code: 'WEFT_CERTIFICATE' })
  mock.timers.tick(WAIT_MS)
  await refused
})

test('who waits too long is told which certificate is missing and what to look at', async () => {
  const gate = new CredentialGate()
  const refused = assert.rejects(gate.ready(A), { code: 'WEFT_CERTIFICATE', message: /sa\/a after 15 s.*controller/ })
  mock.timers.tick(WAIT_MS)
  await refused
  // Too late for that one, in time for the next.
  gate.open(A)
  await gate.ready(A)
})

test('the end of the agent lets nobody wait', async () => {
  const gate = new CredentialGate()
  const refused = assert.rejects(gate.ready(A), { code: 'WEFT_CLOSED' })
  gate.close()
  await refused
})
