/** The demo as its users run it: a process of its own, judged by what it prints, its exit code and what it leaves. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { DEMO_NAME } from '../../src/cli/demo/plan.ts'
import { mountsOf, processesOf } from '../../src/cli/demo/topology.ts'
import { finished, needsRoot } from '../support/netns.ts'

const script = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))

interface Verdict {
  readonly ok: boolean
  readonly edges: readonly Record<string, unknown>[]
  readonly checks: readonly { readonly name: string; readonly ok: boolean; readonly detail: string }[]
}

function startDemo(...args: readonly string[]): ChildProcess {
  return spawn(process.execPath, [script, 'demo', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
}

/** Resolves when the demo has said a line with `text`, on standard error unless told otherwise. */
function said(demo: ChildProcess, text: string, stream: 'stdout' | 'stderr' = 'stderr'): Promise<void> {
  return new Promise((resolve, reject) => {
    let all = ''
    demo[stream]!.on('data', (piece) => {
      all += piece
      if (all.includes(text)) resolve()
    })
    demo.on('close', () => reject(new Error(`the demo ended before it said "${text}":\n${all}`)))
  })
}

/** Everything on the machine that bears the demo's name, processes included. */
function traces(): readonly string[] {
  const namesIn = (directory: string) =>
    (existsSync(directory) ? readdirSync(directory) : []).filter((name) => name.startsWith(DEMO_NAME))
  return [
    ...namesIn('/run/netns'),
    ...namesIn('/etc/netns'),
    ...namesIn('/run'),
    ...mountsOf('cgroup2').flatMap(namesIn),
    ...mountsOf('bpf').filter((mount) => mount.includes(DEMO_NAME)),
    ...[join(tmpdir(), `${DEMO_NAME}-${userInfo().uid}`)].filter(existsSync),
  ]
}

function commandOf(pid: number): string {
  return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
}

function assertVerdict(text: string): Verdict {
  assert.equal(text.trim().split('\n').length, 1, `one JSON object and nothing else:\n${text}`)
  const verdict = JSON.parse(text) as Verdict
  assert.deepEqual(
    verdict.checks.filter(({ ok }) => !ok),
    [],
  )
  assert.equal(verdict.ok, true)
  assert.deepEqual(Object.keys(verdict), ['ok', 'edges', 'checks'])
  for (const edge of verdict.edges) {
    assert.deepEqual(Object.keys(edge), [
      'source',
      'destination',
      'protocol',
      'requests',
      'errors',
      'p50Ms',
      'p99Ms',
      'mutualTls',
    ])
  }
  for (const check of verdict.checks) assert.deepEqual(Object.keys(check), ['name', 'ok', 'detail'])
  const pairs = new Set(verdict.edges.map(({ source, destination }) => `${source} -> ${destination}`))
  for (const pair of [
    'client -> productpage',
    'productpage -> details',
    'productpage -> reviews-v1',
    'reviews-v3 -> ratings',
    'client -> tcp-echo',
    'client -> greeter',
  ]) {
    assert.ok(pairs.has(pair), pair)
  }
  return verdict
}

test('on loopback addresses the demo needs no privileges, and all its checks hold', async () => {
  const { status, stdout, stderr } = await finished(
    startDemo('--capture', 'loopback', '--duration', '5s', '-o', 'json'),
  )
  const verdict = assertVerdict(stdout)
  assert.equal(status, 0, stderr)
  assert.match(stderr, /left out with loopback capture: .*only TLS between the nodes/)
  assert.ok(verdict.checks.every(({ name }) => name !== 'only TLS between the nodes'))
  assert.deepEqual(traces(), [])
})

test('with eBPF all checks hold, a second demo is refused meanwhile, and nothing is left', needsRoot, async () => {
  const demo = startDemo('--capture', 'ebpf', '--duration', '5s', '-o', 'json')
  const ending = finished(demo)
  await said(demo, 'check weighted split')
  const second = await finished(startDemo('--duration', '5s', '-o', 'json'))
  assert.equal(second.status, 1)
  assert.match(second.stderr, new RegExp(`a demo is already running \\(process ${demo.pid}\\)`))
  assert.equal((JSON.parse(second.stdout) as Verdict).ok, false)
  const { status, stdout, stderr } = await ending
  const verdict = assertVerdict(stdout)
  assert.equal(status, 0, stderr)
  assert.ok(verdict.checks.some(({ name }) => name === 'only TLS between the nodes'))
  assert.deepEqual(traces(), [])
})

test('stopped at any point of its set-up, the demo leaves nothing', needsRoot, async () => {
  for (const moment of ['namespaces for', 'controller', 'agent of node1', 'programs of the pods', 'first page']) {
    const demo = startDemo('--capture', 'ebpf', '--duration', '60s')
    const ending = finished(demo)
    await said(demo, moment)
    demo.kill('SIGTERM')
    const { status, stdout } = await ending
    assert.equal(status, 1, `${moment}: a run that was cut short proves nothing`)
    assert.match(stdout, /FAILED +demo: it was stopped before its time was over/)
    assert.deepEqual(traces(), [], moment)
  }
})

test('without a duration, Ctrl-C is the ordinary end', needsRoot, async () => {
  const demo = startDemo('--capture', 'ebpf')
  const ending = finished(demo)
  await said(demo, 'EDGE ', 'stdout')
  demo.kill('SIGINT')
  const { status, stdout } = await ending
  assert.equal(status, 0, stdout)
  assert.deepEqual(traces(), [])
})

test('a part that dies ends the demo with its last words, and nothing is left', needsRoot, async () => {
  const demo = startDemo('--capture', 'ebpf', '--duration', '60s', '-o', 'json')
  const ending = finished(demo)
  await said(demo, 'check weighted split')
  const mount = mountsOf('cgroup2').find((path) => existsSync(join(path, DEMO_NAME)))!
  const victim = processesOf(join(mount, DEMO_NAME)).find((pid) => commandOf(pid).includes('ratings'))!
  process.kill(victim, 'SIGKILL')
  const { status, stdout } = await ending
  assert.equal(status, 1)
  const { checks } = JSON.parse(stdout) as Verdict
  assert.match(checks.find(({ name }) => name === 'demo')!.detail, /process ratings has ended \(signal SIGKILL\)/)
  assert.deepEqual(traces(), [])
})

test('after kill -9 no process goes on, and `--clean` removes the rest', needsRoot, async () => {
  const demo = startDemo('--capture', 'ebpf', '--duration', '60s')
  const ending = finished(demo)
  await said(demo, 'check weighted split')
  demo.kill('SIGKILL')
  await ending
  const mount = mountsOf('cgroup2').find((path) => existsSync(join(path, DEMO_NAME)))!
  // The kernel has sent its signals; the processes are gone as soon as they have been scheduled.
  while (processesOf(join(mount, DEMO_NAME)).length > 0) await new Promise((resolve) => setTimeout(resolve, 20))
  assert.notDeepEqual(traces(), [])
  assert.equal((await finished(startDemo('--clean'))).status, 0)
  assert.deepEqual(traces(), [])
})
