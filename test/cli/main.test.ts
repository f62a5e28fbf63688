import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { EXIT_FAILED, EXIT_OK, EXIT_USAGE } from '../../src/cli/command.ts'
import { runWeft as weft } from '../support/run-weft.ts'

const COMMANDS = [
  'demo',
  'check',
  'install',
  'upgrade',
  'uninstall',
  'render',
  'status',
  'get',
  'proxy-config',
  'logs',
  'tap',
  'controller',
  'agent',
  'version',
]

test('without a command, and with --help, the commands are listed', async () => {
  for (const args of [[], ['--help'], ['-h'], ['help']]) {
    const { code, out, err } = await weft(...args)
    assert.equal(code, args.length === 0 ? EXIT_USAGE : EXIT_OK)
    for (const name of COMMANDS) assert.match(out, new RegExp(`^  ${name} `, 'm'))
    assert.match(out, /Examples:/)
    assert.equal(err, '')
  }
})

test('every command has help with usage, flags and examples', async () => {
  for (const name of COMMANDS) {
    for (const flag of ['--help', '-h']) {
      const { code, out } = await weft(name, flag)
      assert.equal(code, EXIT_OK)
      assert.match(out, new RegExp(`Usage: weft ${name}`))
      assert.match(out, /\nFlags:\n {2}/)
      assert.match(out, /\nExamples:\n {2}/)
    }
  }
})

test('help of a command is the same in either order of words', async () => {
  for (const name of COMMANDS) assert.deepEqual(await weft('help', name), await weft(name, '--help'))
  const { code, err } = await weft('help', 'demmo')
  assert.equal(code, EXIT_USAGE)
  assert.match(err, /unknown command "demmo". Did you mean demo\?/)
})

test('help wins over mistakes beside it', async () => {
  assert.equal((await weft('demo', '--nonsense', '--help')).code, EXIT_OK)
})

test('mistakes name what is wrong, suggest what is near, and exit with 2', async () => {
  const mistakes: readonly (readonly [args: readonly string[], message: RegExp])[] = [
    [['dmeo'], /^weft: unknown command "dmeo"\. Did you mean demo\?\nRun: weft --help\n$/],
    [['constructor'], /unknown command "constructor"/],
    [
      ['demo', '--capture', 'epbf'],
      /^weft: flag --capture: "epbf" is not valid.*Did you mean ebpf\?\nRun: weft demo --help\n$/,
    ],
    [['demo', '--duration', '20'], /flag --duration: "20" is not valid/],
    [['demo', '--duration', '1s'], /between 5s and 24h/],
    [['demo', '-o', 'json'], /-o json needs --duration/],
    [['check', '--outptu', 'json'], /unknown flag --outptu\. Did you mean --output\?/],
    [['version', 'now'], /unexpected argument "now"/],
    [['agent', '--node', 'a'], /flag --controller .*is required/],
    [['agent', '--workers', '0'], /flag --workers: "0" is not valid/],
    [['controller'], /flag --source-directory .*is required/],
    [['controller', 'isue'], /unknown command "controller isue"\. Did you mean issue\?/],
    [['controller', 'issue'], /flag --node is required/],
    [['controller', 'issue', '--node', 'a'], /flag --out is required/],
    [['controller', 'issue', '--nod', 'a'], /unknown flag --nod\. Did you mean --node\?/],
  ]
  for (const [args, message] of mistakes) {
    const { code, out, err } = await weft(...args)
    assert.match(err, message)
    assert.equal(code, EXIT_USAGE, args.join(' '))
    assert.equal(out, '')
  }
})

test('the version is that of the package, as text and as JSON', async () => {
  assert.match((await weft('version')).out, /^weft 0\.\d+\.\d+ \(Node\.js /)
  const versions = JSON.parse((await weft('version', '-o', 'json')).out) as Record<string, string>
  assert.deepEqual(Object.keys(versions), ['weft', 'node', 'openssl'])
})

test('check --node tells where nothing is captured, and fails', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'weft-check-'))
  try {
    const flags = ['--state', directory, '--pin-directory', join(directory, 'pins'), '--admin', '127.0.0.1:1']
    const text = await weft('check', '--node', ...flags)
    assert.equal(text.code, EXIT_FAILED)
    assert.match(text.out, /^wrong +agent +no agent serves \(none has served since the node was booted\)/m)
    assert.match(text.out, /^wrong +programs +nothing is pinned in /m)
    assert.match(text.out, /^wrong +configuration +nobody knows which pods are to be captured/m)
    const json = await weft('check', '--node', '-o', 'json', ...flags)
    assert.equal(json.code, EXIT_FAILED)
    const report = JSON.parse(json.out)
    assert.deepEqual([report.ok, report.agent.state, report.agent.main, report.pods], [false, 'never', 'absent', []])
  } finally {
    rmSync(directory, { recursive: true })
  }
})

test('check prints a line each, and JSON, and fails when something required is missing', async () => {
  // Holds one of the agent's ports, if nobody else does already.
  const holder = createServer()
  await new Promise<void>((resolve) => {
    holder.once('error', () => resolve())
    holder.listen(15_021, '0.0.0.0', resolve)
  })
  try {
    const text = await weft('check')
    assert.equal(text.code, EXIT_FAILED)
    for (const line of text.out.trimEnd().split('\n')) assert.match(line, /^(ok|missing|absent) /)
    assert.match(text.out, /^missing +port 15021 +EADDRINUSE: end what listens there/m)
    const json = await weft('check', '-o', 'json')
    assert.equal(json.code, EXIT_FAILED)
    const report = JSON.parse(json.out) as { ok: boolean; requirements: { name: string; isMet: boolean }[] }
    assert.equal(report.ok, false)
    assert.equal(report.requirements.find(({ name }) => name === 'port 15021')!.isMet, false)
    assert.equal(report.requirements.length, text.out.trimEnd().split('\n').length)
  } finally {
    holder.close()
  }
})

test('the program itself exits with the code of its command', async () => {
  const script = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))
  const exitCode = (...args: readonly string[]) =>
    new Promise((resolve) => execFile(process.execPath, [script, ...args], (error) => resolve(error?.code ?? 0)))
  assert.deepEqual(await Promise.all([exitCode('version'), exitCode('versoin')]), [EXIT_OK, EXIT_USAGE])
})
