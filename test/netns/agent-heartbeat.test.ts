/**
 * A whole agent that stands still, or its main thread alone, as the users of its node meet it: real processes, stopped and
 * blocked from outside.
 */
import assert from 'node:assert/strict'
import { after, before, describe, it } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { manifests } from '../../src/cli/demo/manifests.ts'
import { HEARTBEAT_INTERVAL_MS, HEARTBEAT_MS_MAX } from '../../src/kernel/layout.generated.ts'
import { LiveMesh } from '../support/live-mesh.ts'
import { needsRoot } from '../support/netns.ts'

const NODE = 'node1'
const AGENT = `agent-${NODE}`

/** A time after which no beat of before counts. */
const FORGOTTEN_MS = HEARTBEAT_MS_MAX + HEARTBEAT_INTERVAL_MS

/** Longer than data workers wait for the main thread, and for its report to be seen. */
const BLOCK_MS = 8000

const ABSENCE = 'the node was without its agent'
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

  it('only in its main thread serves on, is not ready, and its data workers say so', async () => {
    const program = fileURLToPath(new URL('../support/live-debugger.ts', import.meta.url))
    const command = [process.execPath, program, String(mesh.pid(AGENT)), 'block-main', String(BLOCK_MS)] as const
    assert.equal(await mesh.onNode(NODE, [...command]), 'done\n')
    const absences = events(ABSENCE).length
    await mesh.eventually('a data worker says so', () => events(SILENT_MAIN).length === 1)
    for (let i = 0; i < 5; i++) for (const host of ['near', 'vault']) assert.equal(await get('client', host), '200')
    await assert.rejects(
      mesh.onNode(NODE, ['curl', '-sS', '--max-time', '0.5', 'http://127.0.0.1:15021/healthz/ready']),
    )
    await mesh.eventually('it runs again', () => events('the main thread responds again').length === 1)
    assert.equal(await mesh.metric(NODE, 'weft_main_thread_stalls_total'), 1)
    assert.ok((await mesh.metric(NODE, 'weft_main_thread_stalled_seconds_total')) > 5)
    assert.equal(events(ABSENCE).length, absences, 'everybody was served')
    assert.equal(await mesh.get(NODE, 15_021, '/healthz/ready'), 'ready\n')
  })
})
