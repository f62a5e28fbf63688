/** Whose tokens are believed. The API server is scripted: what it says of a token is what a test says. */
import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import { silentLog } from '../../src/base/log.ts'
import { NodeTokens } from '../../src/controller/node-tokens.ts'
import { KubernetesApi, type ResourceType } from '../../src/kubernetes/api.ts'
import {
  CallError,
  STATUS_PERMISSION_DENIED,
  STATUS_RESOURCE_EXHAUSTED,
  STATUS_UNAUTHENTICATED,
  STATUS_UNAVAILABLE,
} from '../../src/wire/channel.ts'
import { answerJson, answerStatus, FakeApiServer } from '../support/fake-api-server.ts'
import { FakeClock } from '../support/fake-clock.ts'

const PODS: ResourceType = { group: '', version: 'v1', plural: 'pods', isNamespaced: true }
const AGENT = 'system:serviceaccount:weft-system:weft-agent'
const REVIEWS = '/apis/authentication.k8s.io/v1/tokenreviews'

let server: FakeApiServer
let api: KubernetesApi
let tokens: NodeTokens
let clock: FakeClock
/** What the API server answers to a review; changed by tests. */
let status: Record<string, unknown>

function reviewed(changes: Record<string, unknown> = {}, extra: Record<string, unknown> = {}) {
  return {
    authenticated: true,
    audiences: ['weft-ca'],
    user: {
      username: AGENT,
      extra: {
        'authentication.kubernetes.io/pod-name': ['weft-agent-x'],
        'authentication.kubernetes.io/pod-uid': ['uid-1'],
        'authentication.kubernetes.io/node-name': ['node1'],
        ...extra,
      },
    },
    ...changes,
  }
}

function putPod(spec: Record<string, unknown> = {}, uid = 'uid-1', phase = 'Running'): void {
  const metadata = { name: 'weft-agent-x', namespace: 'weft-system', uid } as { name: string }
  server.put(PODS, {
    metadata,
    spec: { nodeName: 'node1', serviceAccountName: 'weft-agent', ...spec },
    status: { phase },
  })
}

function tokenWith(claims: Record<string, unknown> = {}): string {
  const body = { aud: ['weft-ca'], sub: AGENT, exp: Math.round(clock.now() / 1000) + 600, ...claims }
  return `e30.${Buffer.from(JSON.stringify(body)).toString('base64url')}.sig`
}

beforeEach(async () => {
  server = await FakeApiServer.start()
  server.addType(PODS, 'Pod')
  server.answer = (request, response) => {
    if (request.path !== REVIEWS) return false
    answerJson(response, 201, { ...JSON.parse(request.body), status })
    return true
  }
  api = await KubernetesApi.open({ kubeconfig: server.kubeconfig })
  clock = new FakeClock()
  tokens = new NodeTokens({ api, namespace: 'weft-system', serviceAccount: 'weft-agent', clock, log: silentLog })
  status = reviewed()
  putPod()
})

afterEach(async () => {
  api.close()
  await server.stop()
})

async function assertRefused(token: string, code: number, pattern: RegExp): Promise<void> {
  await assert.rejects(tokens.nodeOf(token), (error: unknown) => {
    assert.ok(error instanceof CallError, String(error))
    assert.match(error.message, pattern)
    assert.equal(error.status, code)
    return true
  })
}

function reviewCount(): number {
  return server.requests.filter(({ path }) => path === REVIEWS).length
}

test('the token of an agent is good for the node of its pod, reviewed for our audience', async () => {
  const token = tokenWith()
  assert.equal(await tokens.nodeOf(token), 'node1')
  const body = JSON.parse(server.requests[0]!.body)
  assert.deepEqual(body.spec, { token, audiences: ['weft-ca'] })
})

test('where the cluster does not name the node in tokens, the pod says it', async () => {
  status = reviewed({}, { 'authentication.kubernetes.io/node-name': undefined })
  putPod({ nodeName: 'node7' })
  assert.equal(await tokens.nodeOf(tokenWith()), 'node7')
})

const REFUSED: readonly [string, () => void, number, RegExp][] = [
  [
    'one that the API server does not know',
    () => (status = { authenticated: false }),
    STATUS_UNAUTHENTICATED,
    /does not accept/,
  ],
  [
    'one that has expired for the API server',
    () => (status = { error: 'service account token has expired' }),
    STATUS_UNAUTHENTICATED,
    /does not accept the token: service account token has expired/,
  ],
  ['one of which nothing is said', () => (status = {}), STATUS_UNAUTHENTICATED, /does not accept/],
  [
    'one whose audience the API server did not look at',
    () => (status = reviewed({ audiences: undefined })),
    STATUS_UNAUTHENTICATED,
    /not for the audience weft-ca/,
  ],
  [
    'one for another audience',
    () => (status = reviewed({ audiences: ['https://kubernetes.default.svc'] })),
    STATUS_UNAUTHENTICATED,
    /not for the audience weft-ca/,
  ],
  [
    'one of another ServiceAccount',
    () => (status = reviewed({ user: { username: 'system:serviceaccount:shop:weft-agent' } })),
    STATUS_PERMISSION_DENIED,
    /is of system:serviceaccount:shop:weft-agent, not of system:serviceaccount:weft-system:weft-agent/,
  ],
  [
    'one of a person',
    () => (status = reviewed({ user: { username: 'admin' } })),
    STATUS_PERMISSION_DENIED,
    /is of admin/,
  ],
  [
    'one that is bound to no pod',
    () => (status = reviewed({}, { 'authentication.kubernetes.io/pod-uid': undefined })),
    STATUS_PERMISSION_DENIED,
    /not bound to a pod/,
  ],
  [
    'one that is bound to two',
    () => (status = reviewed({}, { 'authentication.kubernetes.io/pod-name': ['a', 'b'] })),
    STATUS_PERMISSION_DENIED,
    /not bound to a pod/,
  ],
  [
    'one of a pod that is gone',
    () => server.remove(PODS, 'weft-system', 'weft-agent-x'),
    STATUS_PERMISSION_DENIED,
    /is gone/,
  ],
  ['one of a pod that came back as another', () => putPod({}, 'uid-2'), STATUS_PERMISSION_DENIED, /is gone/],
  ['one of a pod that has ended', () => putPod({}, 'uid-1', 'Failed'), STATUS_PERMISSION_DENIED, /has ended/],
  [
    'one of a pod of another ServiceAccount',
    () => putPod({ serviceAccountName: 'default' }),
    STATUS_PERMISSION_DENIED,
    /not of ServiceAccount weft-agent/,
  ],
  ['one of a pod on no node', () => putPod({ nodeName: undefined }), STATUS_PERMISSION_DENIED, /on no node/],
  [
    'one made for another node than the pod is on',
    () => putPod({ nodeName: 'node2' }),
    STATUS_PERMISSION_DENIED,
    /is on node node2, the token was made for node1/,
  ],
]

for (const [what, arrange, code, pattern] of REFUSED) {
  test(`${what} is refused`, async () => {
    arrange()
    await assertRefused(tokenWith(), code, pattern)
    assert.deepEqual(tokens.counts(), { reviewed: 1, refused: 1, failed: 0 })
  })
}

const EARLY: readonly [string, (() => string) | string, number, RegExp][] = [
  ['no JWT', 'abc', STATUS_UNAUTHENTICATED, /not one of a ServiceAccount/],
  ['a JWT without claims', 'a.bm8.c', STATUS_UNAUTHENTICATED, /not one of a ServiceAccount/],
  ['for another audience', () => tokenWith({ aud: ['vault'] }), STATUS_UNAUTHENTICATED, /audience weft-ca/],
  ['for no audience', () => tokenWith({ aud: undefined }), STATUS_UNAUTHENTICATED, /audience weft-ca/],
  ['expired', () => tokenWith({ exp: clock.now() / 1000 - 1 }), STATUS_UNAUTHENTICATED, /has expired/],
  ['without an end', () => tokenWith({ exp: undefined }), STATUS_UNAUTHENTICATED, /has expired/],
  [
    'of somebody else',
    () => tokenWith({ sub: 'system:serviceaccount:shop:x' }),
    STATUS_PERMISSION_DENIED,
    /is of .*shop:x/,
  ],
]

for (const [what, token, code, pattern] of EARLY) {
  test(`a token that says itself that it is ${what} is refused without asking the API server`, async () => {
    await assertRefused(typeof token === 'string' ? token : token(), code, pattern)
    assert.equal(server.requests.length, 0)
  })
}

test('a review counts for ten seconds; the pod is looked at every time', async () => {
  const token = tokenWith()
  await tokens.nodeOf(token)
  clock.advance(9_999)
  await tokens.nodeOf(token)
  assert.equal(reviewCount(), 1)
  server.remove(PODS, 'weft-system', 'weft-agent-x')
  await assertRefused(token, STATUS_PERMISSION_DENIED, /is gone/)
  putPod()
  clock.advance(1)
  await tokens.nodeOf(token)
  assert.equal(reviewCount(), 2)
})

test('a refusal is not remembered: the next review may say otherwise', async () => {
  status = { authenticated: false }
  await assertRefused(tokenWith(), STATUS_UNAUTHENTICATED, /does not accept/)
  status = reviewed()
  assert.equal(await tokens.nodeOf(tokenWith()), 'node1')
})

test('an API server that is away, or does not let us ask, refuses nobody: the agent is told to come again', async () => {
  server.answer = (_request, response) => {
    answerStatus(response, 403, 'Forbidden', 'tokenreviews is forbidden')
    return true
  }
  await assertRefused(tokenWith(), STATUS_UNAVAILABLE, /cannot be asked about the token now/)
  await server.goAway()
  await assertRefused(tokenWith(), STATUS_UNAVAILABLE, /cannot be asked about the token now/)
  assert.deepEqual(tokens.counts(), { reviewed: 2, refused: 0, failed: 2 })
  await server.listenAgain()
})

test('more than 32 tokens are not reviewed at one time', async () => {
  let release: () => void = () => {}
  const released = new Promise<void>((resolve) => {
    release = resolve
  })
  server.answer = (request, response) => {
    if (request.path !== REVIEWS) return false
    void released.then(() => answerJson(response, 201, { status }))
    return true
  }
  const all = Array.from({ length: 33 }, (_, i) => tokens.nodeOf(tokenWith({ jti: i })))
  await assert.rejects(all[32]!, (error: CallError) => error.status === STATUS_RESOURCE_EXHAUSTED)
  release()
  assert.deepEqual(new Set(await Promise.all(all.slice(0, 32))), new Set(['node1']))
})
