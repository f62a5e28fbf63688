import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { WeftError } from '../../src/base/errors.ts'
import { takeLock } from '../../src/cli/demo/lock.ts'

const name = `weft-test-${process.pid}`
const lockModule = new URL('../../src/cli/demo/lock.ts', import.meta.url).href

test('the second taker is told who holds the lock, and gets it when it is free', async () => {
  const first = await takeLock(name)
  await assert.rejects(takeLock(name), (error: unknown) => {
    assert.ok(error instanceof WeftError)
    assert.match(error.message, new RegExp(`already running \\(process ${process.pid}\\)`))
    return true
  })
  await first.release()
  await (await takeLock(name)).release()
})

test('the lock of a killed process is free', async () => {
  const script = `import { takeLock } from '${lockModule}'; await takeLock('${name}-killed'); process.kill(process.pid, 'SIGKILL')`
  await new Promise((resolve) => execFile(process.execPath, ['--input-type=module', '-e', script], resolve))
  await (await takeLock(`${name}-killed`)).release()
})
