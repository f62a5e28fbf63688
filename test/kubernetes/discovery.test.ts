import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import { KubernetesApi, KubernetesError } from '../../src/kubernetes/api.ts'
import { discover } from '../../src/kubernetes/discovery.ts'
import { answerStatus, FakeApiServer } from '../support/fake-api-server.ts'

let server: FakeApiServer
let api: KubernetesApi

beforeEach(async () => {
  server = await FakeApiServer.start()
  api = await KubernetesApi.open({ kubeconfig: server.kubeconfig })
  server.addType({ group: '', version: 'v1', plural: 'pods', isNamespaced: true }, 'Pod')
  server.addType({ group: '', version: 'v1', plural: 'nodes', isNamespaced: false }, 'Node')
  for (const version of ['v1', 'v1beta1']) {
    server.addType({ group: 'example.io', version, plural: 'things', isNamespaced: true }, 'Thing')
  }
  server.addType({ group: 'other.io', version: 'v1', plural: 'others', isNamespaced: true }, 'Other')
})

afterEach(async () => {
  api.close()
  await server.stop()
})

const EXPECTED = [
  { group: '', version: 'v1', plural: 'pods', kind: 'Pod', isNamespaced: true },
  { group: '', version: 'v1', plural: 'nodes', kind: 'Node', isNamespaced: false },
  { group: 'example.io', version: 'v1', plural: 'things', kind: 'Thing', isNamespaced: true },
  { group: 'example.io', version: 'v1beta1', plural: 'things', kind: 'Thing', isNamespaced: true },
]

test('finds the resources of the groups that are asked for, in every version', async () => {
  assert.deepEqual(await discover(api, new Set(['', 'example.io', 'absent.io'])), EXPECTED)
  assert.deepEqual(
    server.requests.map(({ path }) => path),
    ['/readyz', '/api/v1', '/apis'],
  )
})

test('finds the same on a server without aggregated discovery, and no subresources', async () => {
  server.isOld = true
  assert.deepEqual(await discover(api, new Set(['', 'example.io'])), EXPECTED)
})

test('believes nothing while the server is not ready', async () => {
  server.isReady = false
  await assert.rejects(
    discover(api, new Set([''])),
    (error) => error instanceof KubernetesError && error.status === 500,
  )
  assert.equal(server.requests.length, 1)
})

test('a server that does not tell whether it is ready is believed', async () => {
  server.answer = ({ path }, response) => {
    if (path !== '/readyz') return false
    answerStatus(response, 403, 'Forbidden', 'no')
    return true
  }
  assert.equal((await discover(api, new Set(['']))).length, 2)
})
