/** The connection of a pod, to a server that has a certificate, with files as the kubelet mounts them. */
import assert from 'node:assert/strict'
import { createPublicKey } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type TestContext, test } from 'node:test'
import { KubernetesApi } from '../../src/kubernetes/api.ts'
import { ServiceAccountConnection } from '../../src/kubernetes/service-account.ts'
import { createKey } from '../../src/security/csr.ts'
import { issueLeaf } from '../../src/security/issue.ts'
import { TestAuthority } from '../support/certificates.ts'

const HOUR_MS = 3_600_000

/** A server that answers who asked, and a pod's directory that knows it by `authority`. */
async function site(t: TestContext, authority = new TestAuthority()) {
  const key = createKey()
  const cert = issueLeaf(authority.authority, {
    identity: 'spiffe://cluster.local/ns/kube-system/sa/api',
    dnsNames: ['localhost'],
    publicKey: createPublicKey(key),
    lifetimeMs: HOUR_MS,
    nowMs: Date.now(),
  })
  const server = createServer({ cert, key: key.export({ format: 'pem', type: 'pkcs8' }) }, (request, response) => {
    response.end(JSON.stringify({ metadata: { name: request.headers.authorization ?? '' } }))
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const directory = await mkdtemp(join(tmpdir(), 'weft-account-'))
  const put = (name: string, text: string): Promise<void> => writeFile(join(directory, name), text)
  await put('ca.crt', authority.bundle)
  await put('token', 'first\n')
  await put('namespace', 'weft-system\n')
  const { port } = server.address() as AddressInfo
  const connection = new ServiceAccountConnection({ host: 'localhost', port, directory })
  const api = new KubernetesApi(connection)
  t.after(async () => {
    api.close()
    server.closeAllConnections()
    await new Promise((resolve) => server.close(resolve))
    await rm(directory, { recursive: true })
  })
  return { api, connection, put, server }
}

const ask = async (api: Pick<KubernetesApi, 'request'>): Promise<string> =>
  ((await api.request('GET', '/api')) as { metadata: { name: string } }).metadata.name

test('every request shows the token as it is by then', async (t) => {
  const { api, connection, put } = await site(t)
  assert.equal(await connection.namespace(), 'weft-system')
  assert.equal(await ask(api), 'Bearer first')
  await put('token', 'second')
  assert.equal(await ask(api), 'Bearer second')
})

test('a server that another authority vouches for is refused', async (t) => {
  const { api, put } = await site(t)
  await put('ca.crt', new TestAuthority().bundle)
  await assert.rejects(ask(api), /the API server https:\/\/localhost:[0-9]+ cannot be reached/)
})

test('a file that is not there is named', async (t) => {
  const { connection } = await site(t)
  const missing = new ServiceAccountConnection({ host: 'localhost', port: 1, directory: '/nowhere' })
  await assert.rejects(missing.namespace(), /\/nowhere\/namespace cannot be read; mount the pod's ServiceAccount there/)
  await assert.rejects(missing.requestOptions(), /\/nowhere\/(token|ca\.crt) cannot be read/)
  connection.close()
})
