import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, test } from 'node:test'
import { Child } from '../../src/cli/demo/children.ts'

const logs = mkdtempSync(join(tmpdir(), 'weft-test-'))
after(() => rmSync(logs, { recursive: true }))

function start(
  name: string,
  script: string,
  onOutput: ConstructorParameters<typeof Child>[0]['onOutput'] = null,
): Child {
  const command = [process.execPath, '-e', script] as const
  const enclosure = { kind: 'none' } as const
  return new Child({ name, enclosure, cgroup: null, command: [...command], environment: {}, onOutput }, logs)
}

test('a process that ends unasked is reported with its last lines', async () => {
  const child = start('unlucky', 'console.error("no such file"); process.exit(3)')
  const error = await new Promise<Error>((resolve) => child.whenLost(resolve))
  assert.match(error.message, /process unlucky has ended \(exit code 3\)\. Its last lines:\nno such file/)
  assert.equal(child.isRunning, false)
})

test('a process that was asked to end is not reported', async () => {
  const child = start('quiet', 'setInterval(() => {}, 1000)')
  let lost: Error | null = null
  child.whenLost((error) => {
    lost = error
  })
  await child.end()
  assert.equal(await child.ended, 'signal SIGTERM')
  assert.equal(lost, null)
})

test('a program that does not exist is reported', async () => {
  const enclosure = { kind: 'none' } as const
  const command = ['/nonexistent/program'] as const
  const child = new Child(
    { name: 'ghost', enclosure, cgroup: null, command: [...command], environment: {}, onOutput: null },
    logs,
  )
  const error = await new Promise<Error>((resolve) => child.whenLost(resolve))
  assert.match(error.message, /ENOENT/)
})

test('output goes to the log, or to who asked for it', async () => {
  await start('logged', 'console.log("one"); console.error("two")').ended
  let output = ''
  const child = start('piped', 'console.log("three")', (stream) => {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text
    })
  })
  await child.ended
  assert.equal(output, 'three\n')
  assert.equal(readFileSync(join(logs, 'piped.log'), 'utf8'), '')
  assert.equal(readFileSync(join(logs, 'logged.log'), 'utf8').split('\n').sort().join(), ',one,two')
})

test('a tethered process ends with the one that started it', async () => {
  const url = (path: string) => new URL(`../../${path}`, import.meta.url).href
  // The parent starts a tethered child, tells its pid, and is killed.
  const parent = spawn(
    process.execPath,
    [
      '--input-type=module',
      '-e',
      `import { Child } from '${url('src/cli/demo/children.ts')}'
       const command = [process.execPath, '--import', '${url('deploy/demo/tether.ts')}', '-e', 'console.log(process.pid); setInterval(() => {}, 1000)']
       new Child({ name: 'tethered', enclosure: { kind: 'none' }, cgroup: null, command, environment: {}, onOutput: (o) => o.pipe(process.stdout) }, '${logs}')`,
    ],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const [text] = (await once(parent.stdout!, 'data')) as [Buffer]
  const pid = Number(text.toString())
  assert.ok(pid > 0)
  parent.kill('SIGKILL')
  for (let isAlive = true; isAlive; await new Promise((resolve) => setTimeout(resolve, 10))) {
    try {
      process.kill(pid, 0)
    } catch {
      isAlive = false
    }
  }
})
