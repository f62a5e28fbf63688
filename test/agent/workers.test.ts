/**
 * Data workers that die. They are the real ones, threads with a proxy in them: Node tells this process of every thread
 * that it starts (the `worker` event), and so the test can end one from outside, as a bug in it would from inside.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import { after, afterEach, before, beforeEach, describe, it } from 'node:test'
import type { Worker } from 'node:worker_threads'
import { type CapturedPod, ROLE_INBOUND } from '../../src/agent/capture.ts'
import { VitalSigns } from '../../src/agent/vital-signs.ts'
import { Workers } from '../../src/agent/workers.ts'
import { silentLog } from '../../src/base/log.ts'
import { type Delta, EMPTY_DELTA } from '../../src/model/delta.ts'
import { formatIdentity } from '../../src/model/identity.ts'
import { FAILURE_BY_POLICY, TUNNEL_HBONE, type Workload } from '../../src/model/workload.ts'
import { TestAuthority } from '../support/certificates.ts'

/** Only a failing test waits so long. */
const PATIENCE_MS = 10_000

const IDENTITY = formatIdentity('cluster.local', 'default', 'app')
const UID = 'Kubernetes//Pod/default/app'
/** The pod's address, and where its app listens. */
const POD_ADDRESS = `127.${1 + (process.pid % 200)}.${(process.pid >> 8) % 250}.2`
const APP_ADDRESS = POD_ADDRESS.replace(/2$/, '3')
const OTHER_ADDRESS = POD_ADDRESS.replace(/2$/, '4')

describe('data workers', () => {
  let app: Server
  let port: number
  let workers: Workers
  let threads: Worker[]
  let crashed: number[]
  let serving: number[][]
  const sockets: Socket[] = []
  const onWorker = (worker: Worker): void => {
    threads.push(worker)
  }

  before(async () => {
    app = createServer((socket) => {
      socket.on('error', () => {})
      socket.pipe(socket)
    })
    app.listen(0, APP_ADDRESS)
    await once(app, 'listening')
    port = (app.address() as AddressInfo).port
  })

  after(() => {
    app.close()
  })

  beforeEach(async () => {
    threads = []
    crashed = []
    serving = []
    process.on('worker', onWorker)
    workers = new Workers({
      count: 2,
      start: {
        node: 'node1',
        trustDomain: 'cluster.local',
        isLogging: false,
        transport: 'node',
        heartbeatMapFd: -1,
        threadMapFd: -1,
        slotBase: 0,
        vitals: new VitalSigns().buffer,
        alarmFd: -1,
      },
      logLevel: 'error',
      log: silentLog,
      wholeState: () => state,
      duplicate: (fd) => fd,
      closeFd: () => {},
      onAccessLog: () => {},
      onLogLine: () => {},
      onCrash: (id) => crashed.push(id),
      onServing: (indexes) => serving.push([...indexes]),
    })
    await workers.start()
    workers.applyDelta(state)
    workers.setCredential(new TestAuthority().leafFor(IDENTITY))
    await workers.addPod(podOf(port), IDENTITY)
  })

  afterEach(async () => {
    for (const socket of sockets.splice(0)) socket.destroy()
    await workers.end()
    process.off('worker', onWorker)
  })

  /** A connection to the pod that is answered by its app. */
  async function talk(): Promise<Socket> {
    const socket = connect(port, POD_ADDRESS)
    sockets.push(socket)
    socket.on('error', () => {})
    await say(socket)
    return socket
  }

  async function say(socket: Socket): Promise<void> {
    socket.write('x')
    await Promise.race([once(socket, 'data'), once(socket, 'close').then(() => assert.fail('closed'))])
  }

  /** Connections of each worker, by its id. */
  async function loads(): Promise<Map<number, number>> {
    const reports = await workers.reports(0)
    return new Map([...reports].map(([id, report]) => [id, report.connectionCount]))
  }

  it('share the connections of a pod', async () => {
    for (let i = 0; i < 64; i++) await talk()
    const counts = [...(await loads()).values()]
    assert.equal(counts.length, 2)
    assert.equal(counts[0]! + counts[1]!, 64)
    assert.ok(Math.min(...counts) > 8, String(counts))
  })

  it('are replaced when they die: their connections are reset, those of others go on, new ones are served', async () => {
    const open = await Promise.all(Array.from({ length: 64 }, talk))
    const before = await loads()
    const closed: Socket[] = []
    for (const socket of open) socket.on('close', () => closed.push(socket))

    await threads[0]!.terminate()
    await eventually(() => crashed.length === 1 && threads.length === 3)
    await eventually(async () => (await loads()).size === 2)
    const now = await loads()
    const [dead] = [...before.keys()].filter((id) => !now.has(id))
    assert.deepEqual(crashed, [dead])
    await eventually(() => closed.length === before.get(dead!))
    for (const socket of open) if (!closed.includes(socket)) await say(socket)

    // The successor serves: with the state, the credential and the pod that its predecessor had.
    await eventually(async () => {
      await Promise.all(Array.from({ length: 16 }, talk))
      return [...(await loads())].some(([id, count]) => !before.has(id) && count > 0)
    })
  })

  it('are ended when they are stuck; the capture hears who takes connections, and that is never nobody', async () => {
    assert.deepEqual(serving, [[0, 1]])
    workers.onStuck(0)
    await eventually(() => crashed.length === 1)
    assert.deepEqual(serving.at(-1), [1])
    await talk()
    await eventually(() => serving.at(-1)!.length === 2)
    assert.deepEqual(serving, [[0, 1], [1], [0, 1]])

    await Promise.all(threads.slice(1).map((thread) => thread.terminate()))
    await eventually(() => crashed.length === 3)
    await eventually(async () => (await loads()).size === 2)
    assert.ok(serving.every((indexes) => indexes.length > 0))
  })

  it('come back when all of them die at once', async () => {
    await Promise.all(threads.map((thread) => thread.terminate()))
    await eventually(() => threads.length === 4)
    await eventually(async () => (await loads()).size === 2)
    // A successor answers before it listens: without descriptors of the main thread nobody does meanwhile.
    await eventually(async () => !(await isRefused(POD_ADDRESS, port)))
    await eventually(async () => {
      await Promise.all(Array.from({ length: 16 }, talk))
      return [...(await loads()).values()].every((count) => count > 0)
    })
  })

  it('listen for a pod all together, or none of them does', async () => {
    // The second address is of no interface.
    const listeners = [
      { role: ROLE_INBOUND, fds: null, address: OTHER_ADDRESS, port },
      { role: ROLE_INBOUND, fds: null, address: '198.18.255.255', port },
    ] as const
    await assert.rejects(workers.addPod({ ...podOf(port), uid: 'other', listeners }, IDENTITY), {
      code: 'WEFT_SYSCALL',
      message: /cannot listen for pod other: .*198\.18\.255\.255/,
    })
    await eventually(() => isRefused(OTHER_ADDRESS, port))
  })

  it('do not listen for a removed pod any more, nor do their successors', async () => {
    workers.removePod(UID)
    await eventually(() => isRefused(POD_ADDRESS, port))
    await Promise.all(threads.map((thread) => thread.terminate()))
    await eventually(async () => threads.length === 4 && (await loads()).size === 2)
    assert.equal(await isRefused(POD_ADDRESS, port), true)
  })

  it('that are told to end are not replaced', async () => {
    await talk()
    await workers.end()
    assert.deepEqual(crashed, [])
    assert.equal(threads.length, 2)
  })
})

const WORKLOAD: Workload = {
  uid: UID,
  name: 'app',
  namespace: 'default',
  addresses: [POD_ADDRESS],
  node: 'node1',
  trustDomain: 'cluster.local',
  serviceAccount: 'app',
  tunnelProtocol: TUNNEL_HBONE,
  isHealthy: true,
  services: [],
  policies: [],
  clusterId: 'Kubernetes',
  locality: { region: '', zone: '', subzone: '' },
  workloadName: 'app',
  workloadType: 'deployment',
  canonicalName: 'app',
  canonicalRevision: 'v1',
  capacity: 1,
}

const state: Delta = {
  ...EMPTY_DELTA,
  workloads: [WORKLOAD],
  pods: [{ uid: UID, netns: `loopback:${APP_ADDRESS}`, scope: 'all', failureMode: FAILURE_BY_POLICY }],
}

function podOf(port: number): CapturedPod {
  return {
    uid: UID,
    listeners: [{ role: ROLE_INBOUND, fds: null, address: POD_ADDRESS, port }],
    dialing: { netnsFd: -1, exemptMapFd: -1, netnsCookie: 0n, localAddress: POD_ADDRESS, appAddress: APP_ADDRESS },
  }
}

function isRefused(address: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, address)
    socket.on('connect', () => {
      socket.destroy()
      resolve(false)
    })
    socket.on('error', () => resolve(true))
  })
}

async function eventually(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadlineMs = performance.now() + PATIENCE_MS
  while (!(await condition())) {
    if (performance.now() > deadlineMs) assert.fail('it did not come about in time')
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}
