/** The ConfigMap of the roots, watched at an API server that plays. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { followRoots } from '../../src/agent/watched-roots.ts'
import { systemClock } from '../../src/base/clock.ts'
import { Logger } from '../../src/base/log.ts'
import { KubernetesApi, type ResourceType } from '../../src/kubernetes/api.ts'
import { Events } from '../support/control-plane.ts'
import { answerStatus, FakeApiServer } from '../support/fake-api-server.ts'

const CONFIG_MAPS: ResourceType = { group: '', version: 'v1', plural: 'configmaps', isNamespaced: true }
const NAME = 'weft-ca-root-cert'

test('roots are told when they are there and whenever they change, by name alone, and not when they are deleted', async (t) => {
  const server = await FakeApiServer.start()
  t.after(() => server.stop())
  server.addType(CONFIG_MAPS, 'ConfigMap')
  const put = (name: string, pem: string): void => {
    server.put(CONFIG_MAPS, { metadata: { name, namespace: 'weft-system' }, data: { 'root-cert.pem': pem } } as never)
  }
  const told = new Events<string>()
  const lines = new Events<string>()
  const api = await KubernetesApi.open({ kubeconfig: server.kubeconfig })
  const log = new Logger('roots', 'info', (line) => lines.push(line))
  const end = followRoots({ api, namespace: async () => 'weft-system', clock: systemClock, log }, (pem) =>
    told.push(pem),
  )
  t.after(end)
  await server.seen(({ query }) => query.get('watch') === 'true')
  put('other', 'somebody else')
  put(NAME, 'first')
  assert.equal(await told.next(), 'first')
  put(NAME, 'second')
  assert.equal(await told.next(), 'second')
  server.remove(CONFIG_MAPS, 'weft-system', NAME)
  put(NAME, 'third')
  assert.equal(await told.next(), 'third')
  for (const { path, query } of server.requests) {
    assert.equal(path, '/api/v1/namespaces/weft-system/configmaps')
    assert.equal(query.get('fieldSelector'), `metadata.name=${NAME}`)
  }
  assert.equal(lines.count, 0)
  end()
  put(NAME, 'fourth')
  assert.equal(told.count, 0)
})

test('who may not read them is told of the rule that lacks, and the agent goes on', async (t) => {
  const server = await FakeApiServer.start()
  t.after(() => server.stop())
  server.answer = (_request, response) => {
    answerStatus(response, 403, 'Forbidden', 'configmaps is forbidden')
    return true
  }
  const lines = new Events<string>()
  const api = await KubernetesApi.open({ kubeconfig: server.kubeconfig })
  const log = new Logger('roots', 'info', (line) => lines.push(line))
  t.after(followRoots({ api, namespace: async () => 'weft-system', clock: systemClock, log }, () => {}))
  assert.match(await lines.next(), /cannot be watched, those in use stay.*configmaps is forbidden/)
})

test('a pod without a ServiceAccount says so once', async (t) => {
  const server = await FakeApiServer.start()
  t.after(() => server.stop())
  const lines = new Events<string>()
  const api = await KubernetesApi.open({ kubeconfig: server.kubeconfig })
  const log = new Logger('roots', 'info', (line) => lines.push(line))
  const namespace = async (): Promise<string> => {
    throw new Error('not mounted')
  }
  t.after(followRoots({ api, namespace, clock: systemClock, log }, () => {}))
  assert.match(await lines.next(), /cannot be asked for the roots of the mesh.*not mounted/)
  assert.equal(server.requests.length, 0)
})
