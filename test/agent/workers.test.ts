import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { afterEach, test } from 'node:test'
import { type CapturedPod, ROLE_OUTBOUND } from '../../src/agent/capture.ts'
import { Workers } from '../../src/agent/workers.ts'
import { silentLog } from '../../src/base/log.ts'
import { type Delta, EMPTY_DELTA } from '../../src/model/delta.ts'
import { workloadOf } from '../support/proxy-objects.ts'

const TEST = { timeout: 30_000 }
const A = workloadOf('a')
const IDENTITY = 'spiffe://cluster.local/ns/shop/sa/reviews'
/** One address per test process: tests of other files run at the same time. */
const ADDRESS = `127.${200 + (process.pid % 50)}.${(process.pid >> 6) % 256}.1`
const PORT = 8080
const STATE: Delta = { ...EMPTY_DELTA, workloads: [A], pods: [{ uid: A.uid, netns: '', scope: 'shop' }] }

const POD: CapturedPod = {
  uid: A.uid,
  listeners: [{ role: ROLE_OUTBOUND, fds: null, address: ADDRESS, port: PORT }],
  dialing: { netnsFd: -1, exemptMapFd: -1, localAddress: ADDRESS, appAddress: ADDRESS },
}

const crashed: number[] = []
let workers: Workers | null = null

afterEach(async () => {
  await workers?.stop(0)
  workers = null
  crashed.length = 0
})

async function start(count: number): Promise<Workers> {
  workers = new Workers({
    count,
    start: { node: 'node1', trustDomain: 'cluster.local', isLogging: false, transport: 'node' },
    logLevel: 'error',
    log: silentLog,
    wholeState: () => STATE,
    duplicate: (fd) => fd,
    closeFd: () => {},
    onAccessLog: () => {},
    onLogLine: () => {},
    onCrash: (id) => crashed.push(id),
  })
  await workers.start()
  return workers
}

/** Kills every worker: a credential that is none cannot be survived. It is dropped at once, so successors live. */
function crash(all: Workers): void {
  const material = { identity: IDENTITY, trustDomain: 'cluster.local', key: '', chain: '', bundle: '' }
  all.setCredential(material as never)
  all.dropCredential(IDENTITY)
}

function isListening(): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: ADDRESS, port: PORT })
    socket.on('connect', () => {
      socket.destroy()
      resolve(true)
    })
    socket.on('error', () => resolve(false))
  })
}

async function until(condition: () => Promise<boolean>): Promise<void> {
  // The workers are threads: there is no event here for what happens in them.
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 20))
}

test('every worker reports, each under a number of its own', TEST, async () => {
  const all = await start(2)
  all.applyDelta(STATE)
  const reports = await all.reports(10)
  assert.equal(reports.size, 2)
  for (const report of reports.values()) {
    assert.equal(report.snapshotVersion, 1)
    assert.equal(report.connectionCount, 0)
    assert.deepEqual(report.connections, [])
  }
})

test('a worker that crashes is replaced and brought to the same state', TEST, async () => {
  const all = await start(1)
  all.applyDelta(STATE)
  await all.addPod(POD, IDENTITY)
  assert.equal(await isListening(), true)
  const [first] = [...(await all.reports(0)).keys()]
  crash(all)
  await until(async () => crashed.length > 0)
  assert.deepEqual(crashed, [first])
  await until(isListening)
  const [[second, report] = []] = await all.reports(0)
  assert.notEqual(second, first)
  assert.equal(report?.snapshotVersion, 1)
})

test('a report that is asked for while a worker dies leaves it out', TEST, async () => {
  const all = await start(1)
  crash(all)
  assert.equal((await all.reports(0)).size, 0)
})

test('a pod that one worker cannot listen for is refused, and nobody listens for it', TEST, async () => {
  const all = await start(2)
  all.applyDelta(STATE)
  const elsewhere = { role: ROLE_OUTBOUND, fds: null, address: '198.18.255.255', port: PORT } as const
  const pod = { ...POD, listeners: [...POD.listeners, elsewhere] }
  await assert.rejects(all.addPod(pod, IDENTITY), { code: 'WEFT_SYSCALL', message: /cannot listen for pod .*\/a/ })
  await until(async () => !(await isListening()))
})

test('a pod that is removed is not listened for any more, by successors either', TEST, async () => {
  const all = await start(1)
  all.applyDelta(STATE)
  await all.addPod(POD, IDENTITY)
  all.removePod(POD.uid)
  await until(async () => !(await isListening()))
  crash(all)
  await until(async () => crashed.length > 0)
  await until(async () => (await all.reports(0)).size === 1)
  assert.equal(await isListening(), false)
})

test('the end of idle workers does not wait for the time-out', TEST, async () => {
  const all = await start(2)
  await all.stop(3_600_000)
  workers = null
  assert.deepEqual(crashed, [])
})
