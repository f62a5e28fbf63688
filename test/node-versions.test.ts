/**
 * The transports and the HTTP engines on the oldest and the newest Node.js that package.json allows; everything else
 * here runs on the one that it brings along. deploy/setup.sh installs them.
 */
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, globSync } from 'node:fs'
import { join } from 'node:path'
import { describe, test } from 'node:test'

const root = join(import.meta.dirname, '..')

/** Only the addon differs under the sanitizers, and it is the same file for every Node.js. */
const files = globSync(['test/transport/*.test.ts', 'test/http/**/*.test.ts'], { cwd: root }).filter(
  (file) => !file.includes('sanitizers'),
)

describe('the transports and the engines', { timeout: 800_000, concurrency: 1 }, () => {
  test('have tests', () => assert.ok(files.length > 20, files.join(' ')))

  for (const major of [22, 26]) {
    const program = join(root, `node_modules/.cache/weft-nodes/${major}/node_modules/.bin/node`)
    const skip =
      existsSync(program) || process.env['CI'] === 'true' ? false : `needs ${program}: run \`sh deploy/setup.sh test\``

    test(`pass on Node.js ${major}, none left out`, { skip }, async (t) => {
      assert.match(execFileSync(program, ['--version'], { encoding: 'utf8' }), new RegExp(`^v${major}\\.`))
      const { NODE_TEST_CONTEXT: _, ...env } = process.env
      const args = ['--test', '--test-reporter=tap', '--test-timeout=300000', '--test-concurrency=2', ...files]
      const child = spawn(program, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe'] })
      t.after(() => child.kill('SIGKILL'))
      const counts = new Map<string, number>()
      let failures = ''
      let rest = ''
      child.stdout.on('data', (chunk: Buffer) => {
        const lines = (rest + chunk).split('\n')
        rest = lines.pop()!
        for (const line of lines) {
          const match = /^# (pass|fail|cancelled|skipped) ([0-9]+)$/.exec(line)
          if (match !== null) counts.set(match[1]!, Number(match[2]))
          else if (/^\s*not ok|^\s*error:/.test(line)) failures += `${line.trim()}\n`
        }
      })
      child.stderr.resume()
      const [code] = await once(child, 'close')
      assert.equal(code, 0, failures)
      assert.deepEqual([counts.get('fail'), counts.get('cancelled'), counts.get('skipped')], [0, 0, 0])
      assert.ok(counts.get('pass')! > 500, `${counts.get('pass')} tests passed`)
    })
  }
})
