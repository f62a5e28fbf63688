/**
 * `npm run bench -- controller`: the controller on a real API server with a large mesh: memory, event loop, time to agents.
 *
 * A control plane of its own is filled with pods, services and rules (some minutes); `--cluster NAME` takes one that runs
 * and fills it only when it is empty. Nothing runs the pods: they are objects that look as if somebody did.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { request as httpsRequest } from 'node:https'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { ControllerLink } from '../../src/agent/controller-link.ts'
import { Subscription } from '../../src/agent/subscription.ts'
import { systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { readCrds } from '../../src/cli/install/crds.ts'
import { CertificateAuthority } from '../../src/controller/authority.ts'
import { issueNodeCredential } from '../../src/controller/node-credential.ts'
import { KubernetesApi, type KubernetesObject } from '../../src/kubernetes/api.ts'
import type { Delta } from '../../src/model/delta.ts'
import { readCredentialFiles } from '../../src/security/credential-files.ts'
import { askSupervisor, type Cluster, startControlPlane } from '../../test/cluster/support/cluster.ts'
import { ClusterFiles } from '../../test/cluster/support/cluster-files.ts'
import {
  type BenchObject,
  meshObjects,
  NODES,
  namespaceOf,
  PODS_PER_SERVICE,
  podObject,
  sliceObject,
  TYPES,
} from '../controller/objects.ts'
import { describeCommit, describeMachine } from '../http/machine.ts'

const root = join(import.meta.dirname, '../..')

const { values } = parseArgs({
  options: {
    pods: { type: 'string', default: '10000' },
    cluster: { type: 'string' },
    changes: { type: 'string', default: '20' },
    'limit-mb': { type: 'string', default: '1024' },
    'fill-only': { type: 'boolean', default: false },
    output: { type: 'string', short: 'o', default: 'table' },
  },
})
const PODS = Number(values.pods)
const CHANGES = Number(values.changes)
/** Of the controller's container; by default as in the chart, 0 for none. */
const MEMORY_LIMIT_BYTES = Number(values['limit-mb']) * 1024 ** 2
/** Requests at a time while the cluster is filled. */
const WRITERS = 16
/** Pods that go and come back, and reviews. */
const REPLACEMENTS = 5
const REVIEWS = 10
/** Longer than the controller rests after a change. */
const CHANGE_PAUSE_MS = 1_000
/** Pods whose status is written while the controller is watched, and how many a second. */
const CHURN_PODS = 500
const CHURN_PER_S = 50

const TRUST_DOMAIN = 'cluster.local'

const say = (line: string): void => console.error(line)

// --- filling ---

async function fill(): Promise<void> {
  const last = podObject(PODS - 1).object.metadata
  if ((await api.get(TYPES.Pod, last.namespace!, last.name).catch(() => null)) !== null) return
  const crds = {
    group: 'apiextensions.k8s.io',
    version: 'v1',
    plural: 'customresourcedefinitions',
    isNamespaced: false,
  }
  for (const crd of readCrds()) await api.apply(crd, crds)
  const startedAt = performance.now()
  let count = 0
  // What others stand in comes first; the rest in any order.
  const all = [...meshObjects(PODS)]
  const steps: readonly (readonly string[])[] = [['Namespace'], ['ServiceAccount', 'Node']]
  const rest = all.filter(({ kind }) => !steps.flat().includes(kind))
  for (const batch of [...steps.map((kinds) => all.filter(({ kind }) => kinds.includes(kind))), rest]) {
    const queue = batch.values()
    await Promise.all(
      Array.from({ length: WRITERS }, async () => {
        for (const one of queue) {
          await write(one)
          if (++count % 2000 === 0) say(`${count} of ${all.length} objects, ${seconds(startedAt)} s`)
        }
      }),
    )
  }
}

async function write({ kind, object, status }: BenchObject): Promise<void> {
  const written = await api.apply(object, TYPES[kind])
  if (status !== null) await api.replaceStatus({ ...written, status }, TYPES[kind])
}

// --- measuring ---

async function measure(): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'weft-bench-controller-'))
  const controller = new MeasuredController(directory)
  try {
    const facts = { suite: 'controller', machine: describeMachine(), commit: describeCommit(root) }
    const result: Record<string, unknown> = { ...facts, pods: PODS, limitMb: MEMORY_LIMIT_BYTES / 1024 ** 2 }
    const startedAt = performance.now()
    await controller.start()
    result['secondsToReady'] = seconds(startedAt)
    result['starting'] = await controller.loop()
    result['rssAfterStartMb'] = controller.rssMb('VmRSS')
    const agents = await Promise.all([0, 1, 2, 3].map((i) => BenchAgent.start(controller, directory, `bench-${i}`)))
    result['connecting'] = await controller.loop()

    const times: number[] = []
    for (let i = 0; i < CHANGES; i++) times.push(await timeOfChange(agents[0]!, i))
    times.sort((a, b) => a - b)
    const at = (share: number): number =>
      Math.round(times[Math.min(times.length - 1, Math.floor(share * times.length))]!)
    result['changeToAgentMs'] = { p50: at(0.5), p90: at(0.9), max: at(1) }
    result['changing'] = await controller.loop()

    const gone: number[] = []
    for (let i = 0; i < REPLACEMENTS; i++) gone.push(await timeOfReplacement(agents[0]!, i))
    result['replacementToAgentMs'] = Math.round(gone.sort((a, b) => a - b)[Math.floor(gone.length / 2)]!)
    result['replacing'] = await controller.loop()

    const reviewed: number[] = []
    for (let i = 0; i < REVIEWS; i++) reviewed.push(await timeOfReview(controller.webhookPort, i))
    reviewed.sort((a, b) => a - b)
    result['reviewMs'] = { p50: Math.round(reviewed[REVIEWS >> 1]!), max: Math.round(reviewed.at(-1)!) }
    result['reviewing'] = await controller.loop()

    result['relabelToAgentMs'] = Math.round(await timeOfRelabel(agents[0]!))
    result['relabelling'] = await controller.loop()

    const cpuBefore = controller.cpuSeconds()
    const churnedAt = performance.now()
    await churn()
    const elapsedS = (performance.now() - churnedAt) / 1000
    result['churn'] = {
      writesPerSecond: Math.round(CHURN_PODS / elapsedS),
      cores: Number(((controller.cpuSeconds() - cpuBefore) / elapsedS).toFixed(2)),
      ...(await controller.loop()),
    }
    result['rssMb'] = controller.rssMb('VmRSS')
    result['rssMaxMb'] = controller.rssMb('VmHWM')
    for (const agent of agents) await agent.stop()
    console.log(JSON.stringify(result, null, 2))
  } finally {
    await controller.stop()
    rmSync(directory, { recursive: true })
  }
}

/** From the API server's answer to a write until an agent has what follows from it. */
async function timeOfChange(agent: BenchAgent, round: number): Promise<number> {
  const { object } = podObject(0)
  const { namespace, name } = object.metadata
  const label = `v-${round}-${Date.now()}`
  // Whoever applies a rule by hand has not applied another just before.
  await delay(CHANGE_PAUSE_MS)
  const arrived = agent.until((delta) => delta.workloads.some(({ canonicalRevision }) => canonicalRevision === label))
  const metadata = { labels: { 'service.istio.io/canonical-revision': label } }
  const startedAt = performance.now()
  await api.mergePatch(TYPES.Pod, namespace!, name, { metadata })
  await arrived
  return performance.now() - startedAt
}

/** A pod goes and comes back, and its EndpointSlice with it: until an agent has it again. */
async function timeOfReplacement(agent: BenchAgent, round: number): Promise<number> {
  const pod = podObject(round * PODS_PER_SERVICE)
  const { namespace, name } = pod.object.metadata
  const slice = sliceObject(round)
  await delay(CHANGE_PAUSE_MS)
  const uid = `Kubernetes//Pod/${namespace}/${name}`
  const left = agent.until((delta) => delta.removedWorkloads.includes(uid))
  const { endpoints } = slice.object as unknown as { endpoints: readonly unknown[] }
  await write({ ...slice, object: { ...slice.object, endpoints: endpoints.slice(1) } as KubernetesObject })
  // There is no kubelet that would say that it has ended.
  await api.delete(TYPES.Pod, namespace!, name, { gracePeriodSeconds: 0 })
  await left
  await delay(CHANGE_PAUSE_MS)
  const arrived = agent.until((delta) => delta.workloads.some((workload) => workload.uid === uid))
  const startedAt = performance.now()
  await write(pod)
  await write(slice)
  await arrived
  return performance.now() - startedAt
}

/** A review of a rule that is right, by the webhook, as the API server asks for it. */
async function timeOfReview(port: number, round: number): Promise<number> {
  const name = `svc-${round * 5}`
  const object = {
    apiVersion: 'networking.istio.io/v1',
    kind: 'VirtualService',
    metadata: { name, namespace: namespaceOf(round * 5) },
    spec: { hosts: [name], http: [{ timeout: '3s', route: [{ destination: { host: name, subset: 'v1' } }] }] },
  }
  const review = { uid: name, operation: 'CREATE', namespace: object.metadata.namespace, object }
  const body = JSON.stringify({ apiVersion: 'admission.k8s.io/v1', kind: 'AdmissionReview', request: review })
  const startedAt = performance.now()
  const call = httpsRequest({ port, host: '127.0.0.1', path: '/validate', method: 'POST', rejectUnauthorized: false })
  call.end(body)
  const [response] = (await once(call, 'response')) as [IncomingMessage]
  response.resume()
  await once(response, 'end')
  if (response.statusCode !== 200) throw new Error(`the webhook answered ${response.statusCode}`)
  return performance.now() - startedAt
}

/** A change that touches everything: nodes are in other zones, and with them all pods; then back. */
async function timeOfRelabel(agent: BenchAgent): Promise<number> {
  const nodes = [...new Array(NODES).keys()]
  const relabel = async (subzone: string | null): Promise<void> => {
    const metadata = { labels: { 'topology.istio.io/subzone': subzone } }
    await Promise.all(nodes.map((i) => api.mergePatch(TYPES.Node, null, `bench-${i}`, { metadata })))
  }
  const [first, last] = [podObject(0), podObject(NODES - 1)].map(({ object }) => object.metadata.name)
  const seen = new Set<string>()
  const arrived = agent.until((delta) => {
    for (const { name, locality } of delta.workloads) if (locality.subzone === 'other') seen.add(name)
    return seen.has(first!) && seen.has(last!)
  })
  const startedAt = performance.now()
  await relabel('other')
  await arrived
  const elapsed = performance.now() - startedAt
  const isBack = agent.until((delta) => delta.workloads.some(({ locality }) => locality.subzone === ''))
  await relabel(null)
  await isBack
  await delay(CHANGE_PAUSE_MS)
  return elapsed
}

/** Pods that become ready and unready, as in a rollout. */
async function churn(): Promise<void> {
  for (let i = 0; i < CHURN_PODS; i++) {
    const due = delay(1000 / CHURN_PER_S)
    const { object, status } = podObject((i * 37) % PODS)
    const { namespace, name } = object.metadata
    const pod = await api.get(TYPES.Pod, namespace!, name)
    // Other than it is, whatever a run before has left.
    const known = (pod?.['status'] as { conditions?: { type: string; status: string }[] } | undefined)?.conditions ?? []
    const isReady = known.some((one) => one.type === 'Ready' && one.status === 'True')
    const conditions = [{ type: 'Ready', status: isReady ? 'False' : 'True' }]
    if (pod !== null) await api.replaceStatus({ ...pod, status: { ...(status as object), conditions } }, TYPES.Pod)
    await due
  }
}

function seconds(sinceMs: number): number {
  return Number(((performance.now() - sinceMs) / 1000).toFixed(1))
}

/** The controller in a process of its own, as it is installed. */
class MeasuredController {
  port = 0
  webhookPort = 0
  readonly stateDirectory: string
  private readonly loopFile: string
  private process: ChildProcess | null = null
  private cgroup = ''

  constructor(directory: string) {
    this.stateDirectory = join(directory, 'state')
    this.loopFile = join(directory, 'loop.json')
  }

  async start(): Promise<void> {
    // A root of our own: agents are to be let in without tokens.
    const { stateDirectory } = this
    await CertificateAuthority.open({ stateDirectory, given: null, trustDomain: TRUST_DOMAIN }, silentLog)
    const ca = ['--ca-root', join(stateDirectory, 'ca/root.pem'), '--ca-key', join(stateDirectory, 'ca/key.pem')]
    const preload = join(root, 'bench/controller/event-loop.ts')
    const flags = ['--source', 'kubernetes', '--kubeconfig', kubeconfig, '--state', stateDirectory, ...ca]
    const places = ['--listen', '--webhook-listen', '--admin'].flatMap((flag) => [flag, '127.0.0.1:0'])
    const program = [process.execPath, '--import', preload, 'src/cli/main.ts', 'controller', ...flags, ...places]
    // The limit of the chart: V8 chooses the sizes of its heap by it.
    const enter = 'echo $$ > "$0/cgroup.procs"; exec "$@"'
    this.process = spawn('sh', ['-c', enter, this.makeCgroup(), ...program], {
      cwd: root,
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, WEFT_BENCH_LOOP_FILE: this.loopFile },
    })
    // Read to the end: a program whose log nobody takes would stop.
    const lines = createInterface({ input: this.process.stderr! })
    this.port = await new Promise<number>((resolve, reject) => {
      lines.on('line', (line) => {
        const { message, port, webhookPort, level } = JSON.parse(line) as {
          message: string
          port?: number
          webhookPort?: number
          level: string
        }
        if (message === 'listening') {
          this.webhookPort = webhookPort!
          resolve(port!)
        }
        if (level === 'error') say(line)
      })
      lines.on('close', () => reject(new Error('the controller ended')))
    })
  }

  async stop(): Promise<void> {
    const { process: child } = this
    if (child !== null && child.exitCode === null && child.signalCode === null) {
      const ended = once(child, 'exit')
      child.kill('SIGTERM')
      await ended
    }
    if (this.cgroup !== '') rmdirSync(this.cgroup)
  }

  private makeCgroup(): string {
    const isUnified = existsSync('/sys/fs/cgroup/cgroup.controllers')
    this.cgroup = `/sys/fs/cgroup/${isUnified ? '' : 'memory/'}weft-bench-${process.pid}`
    mkdirSync(this.cgroup)
    if (MEMORY_LIMIT_BYTES > 0)
      writeFileSync(join(this.cgroup, isUnified ? 'memory.max' : 'memory.limit_in_bytes'), String(MEMORY_LIMIT_BYTES))
    return this.cgroup
  }

  /** Event loop since the last call, and the heap. */
  async loop(): Promise<object> {
    rmSync(this.loopFile, { force: true })
    this.process!.kill('SIGUSR2')
    for (;;) {
      await delay(50)
      try {
        const { p99Ms, maxMs, gcMaxMs, heapUsed } = JSON.parse(readFileSync(this.loopFile, 'utf8')) as Record<
          string,
          number
        >
        return { loopP99Ms: p99Ms, loopMaxMs: maxMs, gcMaxMs, heapMb: Math.round(heapUsed! / 1e6) }
      } catch {
        // Not written yet.
      }
    }
  }

  rssMb(field: 'VmRSS' | 'VmHWM'): number {
    const status = readFileSync(`/proc/${this.process!.pid}/status`, 'utf8')
    return Math.round((Number(new RegExp(`${field}:\\s+(\\d+)`).exec(status)![1]) * 1024) / 1e6)
  }

  /** User and system time. */
  cpuSeconds(): number {
    const fields = readFileSync(`/proc/${this.process!.pid}/stat`, 'utf8').split(') ')[1]!.split(' ')
    return (Number(fields[11]) + Number(fields[12])) / 100
  }
}

/** An agent's subscription. */
class BenchAgent {
  private readonly link: ControllerLink
  private readonly subscription: Subscription
  private readonly waiting = new Set<(delta: Delta) => void>()

  private constructor(link: ControllerLink, node: string) {
    this.link = link
    this.subscription = new Subscription({
      connect: () => link.connect(),
      node,
      snapshotFile: null,
      clock: systemClock,
      log: silentLog,
      onDelta: (delta) => {
        for (const tell of this.waiting) tell(delta)
      },
    })
  }

  static async start(controller: MeasuredController, directory: string, node: string): Promise<BenchAgent> {
    const outDirectory = join(directory, node)
    const { stateDirectory, port } = controller
    const trustDomain = TRUST_DOMAIN
    const lifetimeMs = 3_600_000
    await issueNodeCredential({ stateDirectory, given: null, trustDomain, node, outDirectory, lifetimeMs }, silentLog)
    const credential = await readCredentialFiles(outDirectory)
    const link = new ControllerLink({ address: `127.0.0.1:${port}`, trustDomain, credential: () => credential })
    const agent = new BenchAgent(link, node)
    const first = agent.until(() => true)
    await agent.subscription.start()
    await first
    return agent
  }

  async until(test: (delta: Delta) => boolean): Promise<void> {
    await new Promise<void>((resolve) => {
      const tell = (delta: Delta): void => {
        if (!test(delta)) return
        this.waiting.delete(tell)
        resolve()
      }
      this.waiting.add(tell)
    })
  }

  async stop(): Promise<void> {
    await this.subscription.stop()
    this.link.close()
  }
}

// --- running ---

let cluster: Cluster | null = null
if (values.cluster === undefined) cluster = await startControlPlane({ say })
const kubeconfig = cluster?.kubeconfig ?? new ClusterFiles(values.cluster!).adminKubeconfig
const api = await KubernetesApi.open({ kubeconfig })
try {
  // It would find that the nodes do not live, and tell the pods.
  const name = cluster?.name ?? values.cluster!
  await askSupervisor(name, { verb: 'stop', component: 'control-plane/kube-controller-manager', signal: 'SIGTERM' })
  await fill()
  if (!values['fill-only']) await measure()
} finally {
  api.close()
  await cluster?.stop()
}
