/** A server whose usual address leads nowhere, found at its own. */
import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { describe, test } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import { KubernetesApi, KubernetesError, type ResourceType } from '../../src/kubernetes/api.ts'
import { DirectAddresses } from '../../src/kubernetes/direct-address.ts'
import { FakeApiServer, kubeconfigFor } from '../support/fake-api-server.ts'
import { FakeClock } from '../support/fake-clock.ts'

const PODS: ResourceType = { group: '', version: 'v1', plural: 'pods', isNamespaced: true }
const NEVER = new AbortController().signal

describe('addresses of the API server itself', () => {
  test('are known until others are, and not forgotten when the server says that it is nowhere', () => {
    const addresses = new DirectAddresses()
    assert.deepEqual(addresses.candidates, [])
    const [a, b] = [
      { address: 'a', port: 1 },
      { address: 'b', port: 2 },
    ]
    addresses.learn([a, b])
    addresses.learn([])
    assert.deepEqual(addresses.candidates, [a, b])
    addresses.learn([b])
    assert.deepEqual(addresses.candidates, [b])
    addresses.learn(Array.from({ length: 100 }, () => a))
    assert.equal(addresses.candidates.length, 5)
  })

  test('are used for five minutes, or until the usual one is chosen', () => {
    const addresses = new DirectAddresses()
    const a = { address: 'a', port: 1 }
    assert.equal(addresses.at(0), null)
    addresses.choose(a, 1_000)
    assert.equal(addresses.at(300_999), a)
    assert.equal(addresses.at(301_000), null)
    addresses.choose(a, 1_000)
    addresses.choose(null, 1_000)
    assert.equal(addresses.at(1_000), null)
  })

  test('are tried when the usual one does not answer, and requests go there from then on', async (t) => {
    const server = await FakeApiServer.start()
    t.after(() => server.stop())
    server.addType(PODS, 'Pod')
    const { port } = new URL(server.url)
    // The server listens at one address of the machine's own network, and nobody at this one.
    const file = `${server.kubeconfig}.elsewhere`
    await writeFile(file, kubeconfigFor(`http://127.7.7.7:${port}`, 'secret-token'))
    const clock = new FakeClock()
    const api = await KubernetesApi.open({ kubeconfig: file }, systemClock, { clock, random: () => 0 })
    t.after(() => api.close())
    const isAway = (error: unknown): boolean => error instanceof KubernetesError && error.isUnreachable
    await assert.rejects(api.list(PODS), isAway)
    api.connection.direct.learn([
      { address: '127.7.7.8', port: Number(port) },
      { address: '127.0.0.1', port: Number(port) },
    ])
    await assert.rejects(api.list(PODS), isAway)
    const returned = api.presence.returned(NEVER)
    clock.advance(250)
    await returned
    assert.deepEqual(await api.list(PODS), [])
    const seen = server.requests.at(-1)!
    assert.equal(seen.headers.host, `127.7.7.7:${port}`)
    assert.equal(seen.headers.authorization, 'Bearer secret-token')
    // The next loss begins with the usual address.
    await server.goAway()
    const stop = new AbortController()
    const waiting = api.presence.returned(stop.signal)
    clock.advance(250)
    while (clock.nextDelayMs !== 500) await new Promise(setImmediate)
    assert.equal(api.connection.direct.at(Date.now()), null)
    stop.abort()
    await waiting
    await server.listenAgain()
  })
})
