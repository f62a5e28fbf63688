/** A machine that lacks something for a cluster is told what, and what to do. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { needsRoot } from '../support/netns.ts'

const MAIN = join(import.meta.dirname, 'main.ts')
const REQUIREMENTS = join(import.meta.dirname, 'support/requirements.ts')

describe('requirements', needsRoot, () => {
  const directory = mkdtempSync(join(tmpdir(), 'weft-requirements-'))
  after(() => rmSync(directory, { recursive: true }))

  /** Runs with no program in the path but these, and with nothing built yet. */
  const run = (programs: readonly string[], args: readonly string[]) => {
    const path = mkdtempSync(join(directory, 'path-'))
    for (const name of programs) symlinkSync(`/usr/bin/${name}`, join(path, name))
    const env = { PATH: path, WEFT_CLUSTER_CACHE: join(directory, 'cache') }
    return spawnSync(process.execPath, [...args], { encoding: 'utf8', env })
  }

  test('say that Go is missing where nothing is built yet, and nothing is left of the attempt', () => {
    const name = `lacking-${process.pid}`
    const { status, stderr } = run(
      ['nsenter', 'unshare', 'openssl', 'setpriv'],
      [MAIN, 'up', '--level', 'control-plane', '--name', name],
    )
    assert.equal(status, 1)
    assert.match(stderr, /there is no program "go"\. Install Go/)
    assert.match(run([], [MAIN, 'down', '--name', name]).stderr, /there is no cluster/)
  })

  test('name the Debian packages of missing programs, and the command that installs them', () => {
    const { status, stderr } = run(['nsenter', 'unshare'], [MAIN, 'up', '--name', `lacking-${process.pid}`])
    assert.equal(status, 1)
    assert.match(stderr, /packages that are not installed: openssl\. Run: sh deploy\/setup\.sh cluster/)
  })

  test('skip a test with the reason, but let it run, and so fail, in CI', () => {
    const code = `import { needsControlPlane } from '${REQUIREMENTS}'; console.log(JSON.stringify(needsControlPlane()))`
    const { stdout } = run([], ['--input-type=module', '-e', code])
    assert.match((JSON.parse(stdout) as { skip: string }).skip, /not installed/)
    const inCi = run([], ['--input-type=module', '-e', `process.env.CI = 'true'; ${code}`])
    assert.deepEqual(JSON.parse(inCi.stdout), { skip: false })
  })

  test('of the command line are told with the usage', () => {
    for (const [args, complaint] of [
      [['up', '--level', 'nod'], /--level must be one of control-plane, node/],
      [['up', '--nodes', '16'], /--nodes must be a number from 1 to 15/],
      [['up', '--name', 'A'], /cannot name a cluster/],
      [['upp'], /there is no command "upp"/],
      [['up', '--bogus'], /bogus/],
    ] as const) {
      const { status, stderr } = spawnSync(process.execPath, [MAIN, ...args], { encoding: 'utf8' })
      assert.equal(status, 2, args.join(' '))
      assert.match(stderr, complaint)
    }
  })
})
