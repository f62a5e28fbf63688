/** An API server that is too old is refused before anything is changed, with both versions named. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { EXIT_OK } from '../../../src/cli/command.ts'
import { answerJson, FakeApiServer } from '../../support/fake-api-server.ts'
import { runWeft } from '../../support/run-weft.ts'

/** A server of this version, which notes whether anything was written. */
async function serverOf(t: { after(end: () => Promise<void>): void }, version: object): Promise<FakeApiServer> {
  const server = await FakeApiServer.start()
  t.after(() => server.stop())
  server.answer = ({ path }, response) => {
    if (path !== '/version') return false
    answerJson(response, 200, version)
    return true
  }
  return server
}

describe('the version of an API server', () => {
  for (const [text, version] of [
    ['v1.29.14', { major: '1', minor: '29', gitVersion: 'v1.29.14' }],
    ['v1.27.3-gke.100', { major: '1', minor: '27+', gitVersion: 'v1.27.3-gke.100' }],
  ] as const) {
    test(`${text} is refused by an installation, which changes nothing`, async (t) => {
      const server = await serverOf(t, version)
      const { code, err, out } = await runWeft('install', '--kubeconfig', server.kubeconfig)
      assert.notEqual(code, EXIT_OK)
      assert.ok(`${err}${out}`.includes(`is of version ${text}; Weft needs Kubernetes 1.30 or newer.`), `${err}${out}`)
      assert.match(`${err}${out}`, /Nothing was changed/)
      assert.deepEqual(
        server.requests.filter(({ method }) => !['GET', 'HEAD'].includes(method)).map(({ path }) => path),
        [],
      )
    })
  }
})
