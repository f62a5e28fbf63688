/**
 * A whole agent that stands still, or its main thread alone, as the users of its node meet it: real processes, stopped and
 * blocked from outside.
 */
import assert from 'node:assert/strict'
import { closeSync, existsSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { ABSENCE_CHECK_MS } from '../../src/agent/absence-watch.ts'
import { manifests } from '../../src/cli/demo/manifests.ts'
import { loadAddon } from '../../src/kernel/addon.ts'
import {
  HEARTBEAT_INTERVAL_MS,
  HEARTBEAT_MS_MAX,
  WORKER_SLOTS_MAX,
  WORKER_THREAD_DIED,
} from '../../src/kernel/layout.generated.ts'
import { encodeSlot } from '../../src/kernel/maps.ts'
import { LiveMesh } from '../support/live-mesh.ts'
import { needsRoot } from '../support/netns.ts'

const NODE = 'node1'
const AGENT = `agent-${NODE}`

const WEFT = fileURLToPath(new URL('../../src/cli/main.ts', import.meta.url))

/** A time after which no beat of before counts. */
const FORGOTTEN_MS = HEARTBEAT_MS_MAX + HEARTBEAT_INTERVAL_MS

const ABSENCE = 'the node was without its agent'
const REPAIR = 'the capture of a pod was damaged, and is repaired'
const SILENT_MAIN = 'the main thread does not respond; data workers go on with the configuration they have'

describe('an agent that stands still', needsRoot, () => {
  let mesh: LiveMesh

  before(async () => {
    mesh = await LiveMesh.start({
      pods: [
        { name: 'client', node: NODE },
        { name: 'near', node: NODE, programs: ['web'] },
        { name: 'vault', node: NODE, namespace: 'vault', programs: ['web'] },
        { name: 'outsider', node: NODE, namespace: 'outside' },
      ],
      services: ['near', 'vault'],
      workers: 2,
      rules: {
        'peers.yaml': `
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: { name: default, namespace: vault }
spec: { mtls: { mode: STRICT } }
`,
      },
    })
  })

  after(async () => {
    await mesh?.close()
  })

  /** Status code of a GET over a new connection, which is made at once or not at all. */
  const get = (pod: string, host: string): Promise<string> =>
    mesh.code(pod, `http://${host}:8080/`, '--connect-timeout', '5')
  const addressOf = (pod: string): string => mesh.plan.pod(pod).addresses[0]!
  const events = (message: string): Record<string, unknown>[] =>
    mesh
      .log(AGENT)
      .split('\n')
      .filter((line) => line.includes(`"${message}"`))
      .map((line) => JSON.parse(line) as Record<string, unknown>)

  /** What users get of a stopped agent, and then again of the running one. */
  async function stopped(observe: () => Promise<void>): Promise<void> {
    const pid = mesh.pid(AGENT)
    const before = events(ABSENCE).length
    process.kill(pid, 'SIGSTOP')
    try {
      await delay(FORGOTTEN_MS)
      await observe()
    } finally {
      process.kill(pid, 'SIGCONT')
    }
    await mesh.eventually('the absence is told', () => events(ABSENCE).length > before)
    assert.equal(await get('client', 'near'), '200')
    assert.equal(await get('client', 'vault'), '200')
  }

  it('is passed by PERMISSIVE pods, keeps STRICT ones closed, and tells of it when it runs again', async () => {
    await stopped(async () => {
      assert.equal(await get('client', addressOf('near')), '200')
      assert.equal(await get('outsider', addressOf('near')), '200')
      assert.equal(await get('outsider', addressOf('vault')), '000')
    })
    const [event] = events(ABSENCE)
    const { level, cause, seconds, bypassed, refused, pods } = event as {
      level: string
      cause: string
      seconds: number
      bypassed: number
      refused: number
      pods: string[]
    }
    assert.deepEqual([level, cause], ['warn', 'no data worker ran'])
    assert.ok(seconds >= HEARTBEAT_MS_MAX / 1000, String(seconds))
    // One out of the client, one into the near pod from it, one from the outsider; one that the vault refused.
    assert.deepEqual([bypassed, refused], [3, 1])
    assert.deepEqual([...pods].sort(), [
      'default/client: 1 bypassed out',
      'default/near: 2 bypassed in',
      'vault/vault: 1 refused in',
    ])
    assert.equal(await mesh.metric(NODE, 'weft_agent_absences_total'), events(ABSENCE).length)
    assert.ok((await mesh.metric(NODE, 'weft_agent_absence_seconds_total')) >= HEARTBEAT_MS_MAX / 1000)
    assert.equal(await mesh.metric(NODE, 'weft_bypassed_connections_total'), 3)
    assert.equal(await mesh.metric(NODE, 'weft_refused_connections_total'), 1)
  })

  it('lets by and refuses what the failure mode of a namespace says, whatever its mutual TLS', async () => {
    const modes = [
      ['default', 'closed'],
      ['vault', 'open'],
    ] as const
    let namespaces = manifests(mesh.plan).get('namespaces.yaml')!
    for (const [name, mode] of modes) {
      namespaces = namespaces.replace(`name: ${name}\n`, `$&  annotations: { weft.dev/failure-mode: ${mode} }\n`)
    }
    mesh.writeRules('namespaces.yaml', namespaces)
    await mesh.eventually('the agent knows', async () => {
      const { pods } = (await mesh.configDump(NODE)) as { pods: { uid: string; failureMode: number }[] }
      return pods.every(({ uid, failureMode }) => failureMode === (uid.includes('/vault/') ? 1 : 2))
    })
    assert.equal(events('pod enrolled').length, 3, 'nothing was enrolled anew')
    await stopped(async () => {
      assert.equal(await get('client', addressOf('near')), '000')
      assert.equal(await get('outsider', addressOf('near')), '000')
      assert.equal(await get('outsider', addressOf('vault')), '200')
    })
  })

  /** `weft check --node`: its exit code and what it prints. */
  async function checkNode(...flags: readonly string[]): Promise<{ readonly status: number; readonly text: string }> {
    const script = '"$@"; echo "status $?"'
    const output = await mesh.onNode(NODE, [
      ...['sh', '-c', script, 'sh', process.execPath, WEFT, 'check', '--node'],
      ...['--pin-directory', mesh.pinDirectory(NODE), '--state', mesh.stateDirectory(NODE), ...flags],
    ] as [string, ...string[]])
    const [, text, status] = /^(.*)status (\d+)\n$/s.exec(output)!
    return { status: Number(status), text: text! }
  }

  it('passes the check of the node while it runs', async () => {
    const { status, text } = await checkNode()
    assert.equal(status, 0, text)
    assert.match(text, /^ok +agent +serves with 2 data workers$/m)
    for (const pod of ['default/client', 'default/near'])
      assert.match(text, new RegExp(`^ok +pod ${pod} +captured, fails closed$`, 'm'))
    assert.match(text, /^ok +pod vault\/vault +captured, fails open$/m)
    assert.match(text, /^note +namespaces +\d+ are not in the mesh: /m)
    const { outside } = JSON.parse((await checkNode('-o', 'json')).text) as { outside: string[] }
    assert.ok(outside.includes(`/run/netns/${mesh.plan.pod('outsider').netns}`))
    assert.ok(!outside.includes(`/run/netns/${mesh.plan.pod('client').netns}`))
  })

  it('only in its main thread serves on, is not ready, and its data workers say so', async () => {
    const absences = events(ABSENCE).length
    const unblock = await mesh.block(NODE, 'main')
    try {
      await assert.rejects(
        mesh.onNode(NODE, ['curl', '-sS', '--max-time', '0.5', 'http://127.0.0.1:15021/healthz/ready']),
      )
      // Somebody takes the rule of a pod away while nobody looks.
      await mesh.onNode(NODE, ['ip', '-n', mesh.plan.pod('client').netns!, 'rule', 'del', 'pref', '151'])
      for (let i = 0; i < 5; i++) assert.equal(await get('near', 'vault'), '200')
      const { status, text } = await checkNode()
      assert.equal(status, 1)
      assert.match(text, /^wrong +agent +its main thread does not respond/m)
      assert.match(
        text,
        /^wrong +pod default\/client +IPv4 packets are not steered to the agent; .*Restart the agent$/m,
      )
      await mesh.eventually('a data worker says so', () => events(SILENT_MAIN).length === 1)
    } finally {
      unblock()
    }
    await mesh.eventually('it runs again', () => events('the main thread responds again').length === 1)
    assert.equal(await mesh.metric(NODE, 'weft_main_thread_stalls_total'), 1)
    assert.ok((await mesh.metric(NODE, 'weft_main_thread_stalled_seconds_total')) > 5)
    assert.equal(events(ABSENCE).length, absences, 'everybody was served')
    assert.equal(await mesh.get(NODE, 15_021, '/healthz/ready'), 'ready\n')
    await mesh.eventually('the rule is set again', () => events(REPAIR).length === 1)
    assert.equal(events(REPAIR)[0]!['pod'], 'default/client')
    assert.equal(await mesh.metric(NODE, 'weft_capture_repairs_total'), 1)
    assert.equal(await mesh.metric(NODE, 'weft_pods_not_captured'), 0)
    assert.equal((await checkNode()).status, 0)
  })

  it('gives way to a successor, and that is no absence', async () => {
    const [told, absences] = [events(ABSENCE).length, await mesh.metric(NODE, 'weft_agent_absences_total')]
    const old = await mesh.upgradeAgent(NODE)
    assert.equal(await old.ended, 'exit code 0')
    assert.equal(await get('client', 'near'), '200')
    const { status, text } = await checkNode()
    assert.equal(status, 0, text)
    // Both agents have had time to look.
    await delay(3 * ABSENCE_CHECK_MS)
    assert.equal(events(ABSENCE).length, told)
    assert.equal(await mesh.metric(NODE, 'weft_agent_absences_total'), absences)
  })

  /** The threads of data workers that the kernel watches, by slot, with the marks of those that have died. */
  function workerThreads(): number[] {
    const addon = loadAddon()
    const fd = addon.openPinned(join(mesh.pinDirectory(NODE), 'maps', 'worker_threads'))
    const words = Array.from({ length: WORKER_SLOTS_MAX }, (_, slot) =>
      new DataView(addon.mapLookup(fd, encodeSlot(slot))!.buffer).getUint32(0, true),
    )
    closeSync(fd)
    return words
  }

  it('that is killed is known to be dead by each of its data workers’ threads, and its successor to live', async () => {
    const living = (): number[] => {
      const tasks = `/proc/${mesh.pid(AGENT)}/task`
      return workerThreads().flatMap((word, slot) => (word !== 0 && existsSync(join(tasks, `${word}`)) ? [slot] : []))
    }
    const slots = living()
    assert.equal(slots.length, 2)
    await mesh.kill(AGENT)
    const words = workerThreads()
    for (const slot of slots) assert.equal(words[slot], WORKER_THREAD_DIED)
    await mesh.startAgent(NODE)
    assert.equal(living().length, 2)
    assert.equal(await get('client', 'near'), '200')
  })

  it('that is killed is missed by the check of the node, and its successor tells how long and by whom', async () => {
    const before = await mesh.metric(NODE, 'weft_bypassed_connections_total')
    await mesh.kill(AGENT)
    assert.equal(await get('outsider', addressOf('vault')), '200', 'it fails open')
    assert.equal(await get('outsider', addressOf('near')), '000', 'it fails closed')
    await delay(FORGOTTEN_MS)
    const { status, text } = await checkNode()
    assert.equal(status, 1)
    assert.match(text, /^wrong +agent +no agent serves \(for \d+\.\d s\): .*Start the agent$/m)
    assert.match(text, /^ok +configuration +3 pods are to be captured, says .*snapshot\.json$/m)
    assert.match(text, /^ok +pod vault\/vault +captured, and nobody serves; fails open: 1 bypassed in$/m)
    assert.match(text, /^ok +pod default\/near +captured, and nobody serves; fails closed: 1 refused in$/m)
    const { ok, agent, untold } = JSON.parse((await checkNode('-o', 'json')).text)
    assert.deepEqual([ok, agent.state, agent.main], [false, 'silent', 'absent'])
    assert.deepEqual(untold, { bypassed: 1, refused: 1 })

    // A pod that comes now is known to the controller alone.
    await mesh.addPod({ name: 'late', node: NODE })
    const asked = ['--controller', mesh.plan.controller, '--credentials', mesh.credentials(NODE)]
    const late = await checkNode(...asked)
    assert.match(late.text, /^ok +configuration +4 pods are to be captured, says the controller at /m)
    assert.match(late.text, /^wrong +pod default\/late +it is not enrolled: .*\. Start the agent$/m)

    const told = events(ABSENCE).length
    await mesh.startAgent(NODE)
    await mesh.eventually('the absence is told', () => events(ABSENCE).length > told)
    const event = events(ABSENCE).at(-1)!
    assert.equal(event['cause'], 'no agent ran')
    assert.ok(Number(event['seconds']) >= FORGOTTEN_MS / 1000)
    assert.deepEqual([event['bypassed'], event['refused']], [1, 1])
    assert.deepEqual(event['pods'], ['default/near: 1 refused in', 'vault/vault: 1 bypassed in'])
    assert.equal(await mesh.metric(NODE, 'weft_bypassed_connections_total'), before + 1)
    assert.equal((await checkNode(...asked)).status, 0)
  })
})
