/** A disk that takes no more, as the authority is about to write its root: every file may have no byte. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { text } from 'node:stream/consumers'
import test from 'node:test'
import { fileURLToPath } from 'node:url'
import { temporaryDirectory } from '../support/control-plane.ts'

const WEFT = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))

async function issue(limit: string, state: string, out: string): Promise<{ status: number | null; error: string }> {
  const args = [WEFT, 'controller', 'issue', '--state', state, '--node', 'node1', '--out', out]
  // Ignored, as Node.js would find it anywhere: the write fails instead.
  const script = `trap '' XFSZ; ulimit -f ${limit}; exec "$@"`
  const child = spawn('sh', ['-c', script, 'sh', process.execPath, ...args], { stdio: ['ignore', 'ignore', 'pipe'] })
  const error = await text(child.stderr)
  const status = child.exitCode ?? (await new Promise<number | null>((resolve) => child.on('exit', resolve)))
  return { status, error }
}

test('a root that cannot be written is not there, and is made when it can', async (t) => {
  const directory = await temporaryDirectory(t)
  const [state, out] = [join(directory, 'state'), join(directory, 'out')]
  const refused = await issue('0', state, out)
  assert.equal(refused.status, 1)
  assert.match(refused.error, /^weft: .*key\.pem.* cannot be written: EFBIG/)
  assert.deepEqual(await readdir(state), [])
  assert.equal(existsSync(out), false)
  assert.equal((await issue('unlimited', state, out)).status, 0)
  assert.deepEqual(await readdir(state), ['ca'])
})
