/**
 * A data worker: one thread, one event loop, one MeshProxy. It takes what the main thread sends and answers for nothing
 * else; control work (gRPC, certificates, scrapes) never runs here, so that it cannot delay a request.
 */
import { performance } from 'node:perf_hooks'
import { parentPort, workerData } from 'node:worker_threads'
import { describeError } from '../base/errors.ts'
import { Logger } from '../base/log.ts'
import { loadAddon } from '../kernel/addon.ts'
import { HEARTBEAT_INTERVAL_MS } from '../kernel/layout.generated.ts'
import { giveLifeSign } from '../kernel/life-sign.ts'
import { HeartbeatMap, KernelMap } from '../kernel/maps.ts'
import { METRICS_FLUSH_MS, MeshProxy } from '../proxy/mesh-proxy.ts'
import { AccessLog } from '../telemetry/access-log.ts'
import { WorkerRecorder } from '../telemetry/worker-recorder.ts'
import { ROLE_DNS } from './capture.ts'
import { DnsService } from './dns-service.ts'
import { Heartbeat } from './heartbeat.ts'
import { MAIN_SILENT_MS, MainWatch } from './main-watch.ts'
import { PodSocketTable } from './pod-sockets.ts'
import { VitalSigns } from './vital-signs.ts'
import type { FromWorker, ToWorker, WorkerDrain, WorkerStart } from './worker-protocol.ts'
import { openTransport } from './worker-transport.ts'

/** Pools and clusters that nothing uses are dropped this often. */
const SWEEP_MS = 60_000

/** Poll for the last connection while draining. */
const DRAIN_POLL_MS = 50

const start = workerData as WorkerStart
const port = parentPort!
const send = (message: FromWorker): void => port.postMessage(message)

const log = new Logger(`worker-${start.index}`, start.logLevel, (line) => send({ kind: 'log', line }))
const accessLog = start.isLogging ? new AccessLog((lines) => send({ kind: 'access-log', lines })) : null
const recorder = new WorkerRecorder(accessLog)
const transport = openTransport(start.transport)
const sockets = new PodSocketTable(loadAddon)
const dns = openDns()
const proxy = new MeshProxy({
  node: start.node,
  trustDomain: start.trustDomain,
  transport,
  recorder,
  log,
  sockets,
  ...(dns === null ? {} : { nameServer: dns }),
  // Monotonic, and yet milliseconds since the epoch, as the access log wants them.
  nowMs: () => performance.timeOrigin + performance.now(),
  random: Math.random,
  workerCount: start.workerCount,
})

const heartbeatMap =
  start.heartbeatMapFd < 0 ? null : new HeartbeatMap(new KernelMap(loadAddon(), start.heartbeatMapFd))
const slot = start.slotBase + start.index
const vitals = new VitalSigns(start.vitals)
const heartbeat = new Heartbeat(new Int32Array(start.beats), start.index, heartbeatMap, slot, vitals)
const mainWatch = new MainWatch(vitals, reportMain)

showThread()
heartbeat.beat()
setInterval(() => {
  heartbeat.beat()
  mainWatch.check()
}, HEARTBEAT_INTERVAL_MS).unref()
setInterval(() => proxy.flushMetrics(), METRICS_FLUSH_MS).unref()
setInterval(() => proxy.sweep(), SWEEP_MS).unref()

port.on('message', (message: ToWorker) => {
  switch (message.kind) {
    case 'delta':
      proxy.applyDelta(message.delta)
      dns?.applySnapshot(proxy.snapshot)
      break
    case 'credential':
      proxy.setCredential(transport.tlsContext(message.material))
      break
    case 'carried':
      proxy.setCarried(message.changes)
      break
    case 'drop-credential':
      proxy.dropCredential(message.identity)
      break
    case 'add-pod':
      void addPod(message)
      break
    case 'remove-pod':
      proxy.removePod(message.uid)
      dns?.removePod(message.uid)
      sockets.remove(message.uid)
      break
    case 'report':
      report(message.request, message.connectionsMax)
      break
    case 'drain':
      drain(message)
      break
    case 'stop':
      proxy.close()
      dns?.close()
      accessLog?.flush()
      setImmediate(() => process.exit(0))
      break
  }
})
send({ kind: 'ready' })

/** Without it the kernel learns of this thread's death by the heartbeats that do not come. */
function showThread(): void {
  if (start.threadMapFd < 0) return
  try {
    giveLifeSign(loadAddon(), start.threadMapFd, slot)
  } catch (error) {
    log.warn('the death of this data worker will be noticed late', { error: describeError(error) })
  }
}

/** Past the main thread, through which every other line goes. */
function reportMain(): void {
  if (start.alarmFd < 0) return
  const alarm = new Logger(log.component, start.logLevel, (line) => {
    loadAddon().writeNow(start.alarmFd, Buffer.from(`${line}\n`))
  })
  alarm.error('the main thread does not respond; data workers go on with the configuration they have', {
    silentMs: MAIN_SILENT_MS,
  })
}

/** Null where the transport has no datagrams, or nothing is captured in the kernel: then no pod has a DNS socket. */
function openDns(): DnsService | null {
  const { datagrams } = transport
  if (datagrams === undefined || start.heartbeatMapFd < 0) return null
  const addon = loadAddon()
  return new DnsService({ transport, datagrams, addon, sockets, counts: recorder.dns, log: log.child('dns') })
}

/** Never rejects: the outcome is the answer. */
async function addPod(message: Extract<ToWorker, { kind: 'add-pod' }>): Promise<void> {
  const { pod, identity, request } = message
  sockets.add(pod)
  try {
    const listeners = pod.listeners.flatMap(({ role, fds, address, port: number }) => {
      if (role === ROLE_DNS) return []
      return [{ role, target: fds === null ? { address, port: number, isShared: true } : { fd: fds[0]! } }]
    })
    dns?.addPod(pod)
    await proxy.addPod({ uid: pod.uid, identity }, listeners)
    send({ kind: 'pod-added', request, error: null })
  } catch (error) {
    sockets.remove(pod.uid)
    dns?.removePod(pod.uid)
    send({ kind: 'pod-added', request, error: describeError(error) })
  }
}

function report(request: number, connectionsMax: number): void {
  proxy.flushMetrics()
  dns?.countDrops()
  send({
    kind: 'report',
    request,
    report: {
      metrics: recorder.collect(),
      connectionCount: proxy.connectionCount,
      connectionsByPod: new Map(proxy.connectionsByPod),
      connections: connectionsMax === 0 ? [] : proxy.describeConnections(connectionsMax),
      snapshotVersion: proxy.snapshot.version,
    },
  })
}

function drain({ lingerMs, idleMs }: WorkerDrain): void {
  proxy.retire(idleMs)
  setTimeout(() => {
    proxy.closeListeners()
    heartbeat.leaveKernel()
    if (start.threadMapFd >= 0) loadAddon().withdrawLifeSign()
    const timer = setInterval(() => {
      if (dns !== null && dns.openCount > 0) return
      if (!proxy.endIfIdle()) return
      clearInterval(timer)
      send({ kind: 'drained' })
    }, DRAIN_POLL_MS)
  }, lingerMs)
}
