/** Every test of the reactor once more, with the build that has AddressSanitizer and UndefinedBehaviorSanitizer. */
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync } from 'node:fs'
import { describe, test } from 'node:test'
import { NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'

const build = `${NATIVE_BUILD_DIRECTORY}asan/reactor.node`
const skip =
  existsSync(build) || process.env['CI'] === 'true' ? false : 'needs native/build/asan: run `make -C native tests`'

/** Those of the reactor, this one excepted. */
const files = readdirSync(import.meta.dirname).filter((file) =>
  /^reactor(-(?!sanitizers)[a-z]+)?\.test\.ts$/.test(file),
)

describe('under the sanitizers', { timeout: 800_000, skip, concurrency: 1 }, () => {
  test('there are tests to run', () => assert.ok(files.length >= 10, files.join(' ')))

  for (const file of files) {
    test(`${file} passes`, async (t) => {
      const library = execFileSync('g++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim()
      const { NODE_TEST_CONTEXT: _, ...environment } = process.env
      const child = spawn(process.execPath, [`${import.meta.dirname}/${file}`], {
        env: {
          ...environment,
          LD_PRELOAD: library,
          // Node itself never frees what it needs until its end: leaks are not looked for.
          ASAN_OPTIONS: 'detect_leaks=0',
          UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
          WEFT_TEST_REACTOR: build,
        },
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      t.after(() => child.kill('SIGKILL'))
      let output = ''
      for (const stream of [child.stdout, child.stderr]) {
        stream.on('data', (chunk) => {
          output += chunk
        })
      }
      const [code] = await once(child, 'close')
      assert.equal(code, 0, output.slice(-8_000))
      assert.match(output, /\bpass [1-9]/)
    })
  }
})
