/** Commands that need a cluster, and are not told of one: what is wrong, where, what to do, and an exit code of failure. */
import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { EXIT_OK } from '../../src/cli/command.ts'
import { kubeconfigFor } from '../support/fake-api-server.ts'
import { runWeft } from '../support/run-weft.ts'

const COMMANDS: readonly (readonly string[])[] = [
  ['install'],
  ['uninstall'],
  ['status'],
  ['check', '--cluster'],
  ['get', 'pods'],
]

describe('a kubeconfig that is of no use', () => {
  let directory: string
  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'weft-kubeconfig-'))
    await writeFile(join(directory, 'good'), kubeconfigFor('http://127.0.0.1:1', 'token'))
    await writeFile(join(directory, 'broken'), 'clusters: [}')
  })
  after(() => rm(directory, { recursive: true }))

  async function complaint(args: readonly string[]): Promise<string> {
    const { code, out, err } = await runWeft(...args)
    assert.notEqual(code, EXIT_OK, args.join(' '))
    return `${err}${out}`
  }

  const controller = (): readonly string[] => [
    ...['controller', '--source', 'kubernetes', '--state', join(directory, 'state')],
    ...['--listen', '127.0.0.1:0', '--admin', '127.0.0.1:0', '--webhook-listen', '127.0.0.1:0'],
  ]

  test('because it is not there is named by its path, with what to do', async () => {
    const missing = join(directory, 'missing')
    for (const command of [...COMMANDS, controller()]) {
      const text = await complaint([...command, '--kubeconfig', missing])
      assert.ok(text.includes(`the kubeconfig ${missing} cannot be read: ENOENT`), text)
      assert.match(text, /see --kubeconfig/)
    }
  })

  test('because it cannot be read as one is named by its path', async () => {
    const broken = join(directory, 'broken')
    for (const command of [...COMMANDS, controller()]) {
      const text = await complaint([...command, '--kubeconfig', broken])
      assert.ok(text.includes(`the kubeconfig ${broken} cannot be read: `), text)
    }
  })

  test('because it lacks the context is said with the contexts that it has', async () => {
    const good = join(directory, 'good')
    for (const command of [...COMMANDS, controller()]) {
      const text = await complaint([...command, '--kubeconfig', good, '--context', 'nowhere'])
      assert.ok(text.includes(`the kubeconfig ${good} has no context "nowhere": it has test, other`), text)
    }
  })
})
