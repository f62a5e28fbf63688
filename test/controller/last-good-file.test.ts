import assert from 'node:assert/strict'
import { stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { silentLog } from '../../src/base/log.ts'
import { startController } from '../../src/controller/app.ts'
import { parseControllerConfig } from '../../src/controller/config.ts'
import { readLastGood } from '../../src/controller/last-good-file.ts'
import { temporaryDirectory } from '../support/control-plane.ts'

const POLICY = `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: { name: closed, namespace: shop }
spec: { action: DENY, rules: [{ to: [{ operation: { ports: ["80"] } }] }] }
`

async function policiesAfter(t: Parameters<typeof temporaryDirectory>[0], broken: string): Promise<string[]> {
  const [source, state] = [await temporaryDirectory(t), await temporaryDirectory(t)]
  const flags = ['--source-directory', source, '--state', state, '--listen', '127.0.0.1:0', '--admin', '127.0.0.1:0']
  const config = parseControllerConfig(flags, {})
  const file = join(source, 'policy.yaml')
  await writeFile(file, POLICY)
  const first = await startController(config, silentLog)
  await first.stop()
  assert.equal((await stat(join(state, 'last-good.json'))).mode & 0o777, 0o600)
  await writeFile(file, broken)
  const second = await startController(config, silentLog)
  assert.ok(second.messages().some(({ severity }) => severity === 'error'))
  await second.stop()
  return (await readLastGood(join(state, 'last-good.json'), silentLog)).map(({ key }) => key)
}

const KEY = 'AuthorizationPolicy.security.istio.io/shop/closed'

test('a policy whose file is no YAML when the controller starts again stays in force', async (t) => {
  assert.deepEqual(await policiesAfter(t, `${POLICY}  : [`), [KEY])
})

test('a policy that is not valid when the controller starts again stays in force as it was', async (t) => {
  assert.deepEqual(await policiesAfter(t, POLICY.replace('operation', 'operations')), [KEY])
})

test('a policy whose file is gone when the controller starts again is gone', async (t) => {
  const [source, state] = [await temporaryDirectory(t), await temporaryDirectory(t)]
  await writeFile(join(state, 'last-good.json'), '{"format":1,"objects":[{"file":"/gone.yaml","raw":{}}]}')
  const flags = ['--source-directory', source, '--state', state, '--listen', '127.0.0.1:0', '--admin', '127.0.0.1:0']
  const controller = await startController(parseControllerConfig(flags, {}), silentLog)
  await controller.stop()
  assert.deepEqual(await readLastGood(join(state, 'last-good.json'), silentLog), [])
})
