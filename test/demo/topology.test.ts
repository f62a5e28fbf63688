/** The demo's namespaces, cgroup and mounts: made, usable, and gone without a trace. Needs root. */
import assert from 'node:assert/strict'
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, before, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Child } from '../../src/cli/demo/children.ts'
import { Hands } from '../../src/cli/demo/hands.ts'
import { type DemoLock, takeLock } from '../../src/cli/demo/lock.ts'
import { DEMO_NAME, demoPlan, podNamed } from '../../src/cli/demo/plan.ts'
import { run } from '../../src/cli/demo/shell.ts'
import { createTopology, type DemoPlaces, mountsOf, processesOf, removeTopology } from '../../src/cli/demo/topology.ts'
import { needsRoot } from '../support/netns.ts'

const plan = demoPlan('ebpf')
const runDirectory = `/run/${DEMO_NAME}`
const tether = new URL('../../deploy/demo/tether.ts', import.meta.url).href

let logs = ''
let lock: DemoLock | null = null

before(async () => {
  if (needsRoot.skip !== false) return
  logs = mkdtempSync(join(tmpdir(), 'weft-test-'))
  lock = await takeLock(DEMO_NAME)
  await removeTopology(runDirectory)
})

afterEach(async () => {
  if (lock !== null) await removeTopology(runDirectory)
})

after(async () => {
  if (lock === null) return
  await lock.release()
  rmSync(logs, { recursive: true })
})

/** Everything on the machine that bears the demo's name. */
function traces(): readonly string[] {
  const namesIn = (directory: string) =>
    (existsSync(directory) ? readdirSync(directory) : []).filter((name) => name.startsWith(DEMO_NAME))
  return [
    ...namesIn('/run/netns'),
    ...namesIn('/etc/netns'),
    ...namesIn('/run'),
    ...mountsOf('cgroup2').flatMap(namesIn),
    ...mountsOf('bpf').filter((mount) => mount.includes(DEMO_NAME)),
  ]
}

function startHands(name: string, places: DemoPlaces): { hands: Hands; child: Child } {
  const pod = podNamed(plan, name)
  const script = fileURLToPath(new URL('../../deploy/demo/hands.ts', import.meta.url))
  let child: Child | null = null
  const hands = new Hands(name, (onOutput) => {
    child = new Child(
      {
        name: `hands-${name}`,
        enclosure: { kind: 'pod', netns: pod.netns! },
        cgroup: places.cgroup,
        command: [process.execPath, '--import', tether, script],
        environment: { HOSTNAME: name },
        onOutput,
      },
      logs,
    )
    return child
  })
  return { hands, child: child! }
}

function startProgram(name: string, places: DemoPlaces): Child {
  const pod = podNamed(plan, name)
  const script = fileURLToPath(new URL(`../../deploy/demo/${pod.program}.ts`, import.meta.url))
  return new Child(
    {
      name,
      enclosure: { kind: 'pod', netns: pod.netns! },
      cgroup: places.cgroup,
      command: [process.execPath, '--import', tether, script],
      environment: { ...pod.environment, HOSTNAME: name },
      onOutput: null,
    },
    logs,
  )
}

test('what is made can be used, and nothing of it is left', needsRoot, async () => {
  const places = await createTopology(plan, runDirectory)
  assert.deepEqual(traces().filter((name) => name.startsWith(`${DEMO_NAME}-`)).length, 2 * plan.pods.length + 2)

  const program = startProgram('details', places)
  const { hands, child } = startHands('client', places)
  const { hands: far } = startHands('productpage', places)
  const details = podNamed(plan, 'details')
  const order = { port: 9080, path: '/details/0', timeoutMs: 2000 }
  // The program needs a moment until it listens.
  let answer = await hands.get({ ...order, host: details.addresses[0]! })
  for (let i = 0; i < 100 && answer.status !== 200; i++) {
    await delay(100)
    answer = await hands.get({ ...order, host: details.addresses[0]! })
  }
  assert.equal(answer.status, 200, `${answer.error} ${program.lastLines()}`)
  for (const host of details.addresses) {
    assert.equal((await hands.get({ ...order, host })).status, 200, `within a node, ${host}`)
    assert.equal((await far.get({ ...order, host })).status, 200, `between nodes, ${host}`)
  }
  assert.match((await far.get({ ...order, host: 'details' })).error ?? '', /ECONNREFUSED/, 'only the mesh serves names')

  assert.ok(processesOf(places.cgroup).includes(child.pid))
  assert.deepEqual(await removeTopology(runDirectory), [])
  assert.deepEqual(traces(), [])
  assert.match(await child.ended, /SIGKILL/)
  assert.match(await program.ended, /SIGKILL/)
})

test('the gateway of pods stays where it is when pods come and go', needsRoot, async () => {
  await createTopology(plan, runDirectory)
  const node = ['-n', plan.nodes[0]!.netns!] as const
  const address = async () => /link\/ether (\S+)/.exec(await run('ip', [...node, 'link', 'show', 'pods']))![1]!
  const before = await address()
  // A bridge without an address of its own takes the lowest of its ports.
  const ends = ['newcomer', 'address', '02:00:00:00:00:01', 'type', 'veth', 'peer', 'name', 'other']
  await run('ip', [...node, 'link', 'add', ...ends])
  await run('ip', [...node, 'link', 'set', 'newcomer', 'master', 'pods', 'up'])
  assert.equal(await address(), before)
  await run('ip', [...node, 'link', 'del', 'newcomer'])
  assert.equal(await address(), before)
  assert.deepEqual(await removeTopology(runDirectory), [])
})

test('what a killed demo left is removed, also when only half of it was made', needsRoot, async () => {
  await createTopology(plan, runDirectory)
  await run('ip', ['netns', 'del', `${DEMO_NAME}-client`])
  await run('umount', [join(runDirectory, 'bpf')])
  assert.deepEqual(await removeTopology(runDirectory), [])
  assert.deepEqual(traces(), [])
})

test('removing nothing is no error', needsRoot, async () => {
  assert.deepEqual(await removeTopology(runDirectory), [])
})

test('nothing changes in the machine’s own network', needsRoot, async () => {
  const state = async () => [
    await run('ip', ['-o', 'addr']),
    await run('ip', ['rule']),
    await run('ip', ['route', 'show', 'table', 'all']),
    readFileSync('/proc/sys/net/ipv4/ip_forward', 'utf8'),
  ]
  const before = await state()
  await createTopology(plan, runDirectory)
  const during = await state()
  await removeTopology(runDirectory)
  assert.deepEqual(during, before)
})
