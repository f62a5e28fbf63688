/**
 * Answers the CNI plugin of this node (native/cni). A new pod of a meshed namespace is captured before the plugin's ADD
 * ends, and with it before its first container starts: there is no moment in which it is not in the mesh.
 *
 *      ASK     of a namespace that is not of the mesh, as far as is known: the controller is asked whose the pod is
 *      ADD     the plugin tells netns and addresses, which no API has yet
 *              the controller tells of the pod as soon as it is scheduled here      -> enrolled in that netns
 *              both known, and captured                                             -> ok
 *              the pod is known, and none of ours                                   -> ok
 *              neither within ADD_MS                                                -> as the pod's failure mode says
 *      DEL     the pod is withdrawn, so that nothing of it holds its netns
 *
 * The socket is for root alone. Requests are bounded in number, size and time.
 */
import { closeSync, fstatSync, renameSync, rmSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { Addon } from '../kernel/addon.ts'
import { POD_MESHED, POD_OUTSIDE, type PodMembership, type StartingPod } from '../model/pod-membership.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { LocalPod, Workload } from '../model/workload.ts'
import { type CniNamespacesFile, closedTest, type MeshNamespaces, meshNamespaces } from './cni-namespaces.ts'
import {
  CNI_ASK,
  CNI_NOT_CAPTURED,
  CNI_OK,
  CNI_OURS_CLOSED,
  CNI_OURS_OPEN,
  CNI_TRY_AGAIN,
  type CniRequest,
  CniRequestReader,
  encodeAnswer,
} from './cni-protocol.ts'
import { isSamePod, type KubernetesPods } from './kubernetes-pods.ts'
import { isStrict, type Pods } from './pods.ts'

/**
 * Longest wait for a pod to be captured. The controller tells of it within a fraction of a second and a certificate takes
 * as long; whoever waits longer waits for something that is broken. The plugin waits twice as long for the answer.
 */
const ADD_MS = 5000

/**
 * Longest wait for the controller to say whose a pod is. It has the answer at hand, or asks the API server once. The plugin
 * waits a second longer, and with it a pod that nobody has labelled, when both hang.
 */
const ASK_MS = 3000

/** Requests at one time: more pods than any node starts at once. */
const CONNECTIONS_MAX = 256

/** Longest time for a request to arrive; it is written at once. */
const REQUEST_MS_MAX = 2000

/** What became of requests, for metrics. */
export type CniResult = 'captured' | 'expected' | 'unmeshed' | 'let_by' | 'refused' | 'deleted' | 'bad_request'

export interface CniServerOptions {
  /** Path of the socket. */
  readonly path: string
  readonly addon: Pick<Addon, 'openNetns'>
  readonly networks: Pick<KubernetesPods, 'attach' | 'detach' | 'prune'>
  readonly pods: Pick<Pods, 'isActive' | 'netnsOf' | 'networkMade' | 'networkGone' | 'watch'>
  readonly file: CniNamespacesFile
  readonly snapshot: () => Snapshot
  /** Asks the controller; null when nobody can tell within that time. Never rejects. */
  readonly membershipOf: (pod: StartingPod, timeoutMs: number) => Promise<PodMembership | null>
  /** False while no configuration is in force. */
  readonly isReady: () => boolean
  readonly log: Logger
  readonly addMs?: number
}

interface Answer {
  readonly code: number
  readonly message: string
  readonly result: CniResult
}

const DONE: Answer = { code: CNI_OK, message: '', result: 'unmeshed' }
const STOPPED: Answer = { code: CNI_TRY_AGAIN, message: 'the weft agent of this node has stopped', result: 'refused' }

/** See the head of the file. */
export class CniServer {
  /** Requests since start. */
  readonly counts = new Map<CniResult, number>()
  private readonly options: CniServerOptions
  private readonly sockets = new Set<Socket>()
  /** Who waits for the configuration to change, or for a pod. */
  private readonly waiting = new Set<() => void>()
  /** Pods (`namespace/name`) that somebody waits for, with how many do. */
  private readonly askedFor = new Map<string, number>()
  private server: Server | null = null
  private namespaces: MeshNamespaces

  constructor(options: CniServerOptions) {
    this.options = options
    this.namespaces = options.file.read()
  }

  /** Takes the place of whoever listened there. Rejects with WEFT_SYSCALL. */
  async start(): Promise<void> {
    if (this.server !== null) return
    const { path } = this.options
    const own = `${path}.${process.pid}`
    const server = createServer((socket) => this.onConnection(socket))
    server.maxConnections = CONNECTIONS_MAX
    this.server = server
    rmSync(own, { force: true })
    await new Promise<void>((resolve, reject) => {
      server.once('error', (error) => {
        this.server = null
        reject(new WeftError('WEFT_SYSCALL', `the socket ${path} for the CNI plugin cannot be made`, error))
      })
      // Never open to others, not even for the moment until its mode is set.
      const umask = process.umask(0o177)
      try {
        server.listen(own, resolve)
      } finally {
        process.umask(umask)
      }
    })
    renameSync(own, path)
    server.unref()
  }

  /** Whoever asks now, or has no answer yet, asks again, and finds the next agent. */
  stop(): void {
    this.server?.close()
    this.server = null
    for (const socket of this.sockets) socket.destroy()
    for (const wake of this.waiting) wake()
  }

  /** The configuration has changed. To be called when the pods have been told. */
  update(snapshot: Snapshot): void {
    const { file, log, networks } = this.options
    this.namespaces = meshNamespaces(snapshot)
    const names = new Set<string>()
    for (const { namespace, name } of snapshot.workloads.values()) names.add(`${namespace}/${name}`)
    networks.prune((key) => names.has(key) || this.askedFor.has(key))
    for (const wake of this.waiting) wake()
    try {
      file.write(this.namespaces)
    } catch (error) {
      log.error('the namespaces of the mesh cannot be written down for the CNI plugin', {
        path: file.path,
        error: describeError(error),
      })
    }
  }

  // --- requests ---

  private onConnection(socket: Socket): void {
    const reader = new CniRequestReader()
    let isAnswered = false
    this.sockets.add(socket)
    socket.setTimeout(REQUEST_MS_MAX, () => {
      if (!isAnswered) socket.destroy()
    })
    socket.on('error', () => {})
    socket.on('close', () => this.sockets.delete(socket))
    socket.on('data', (piece) => {
      let request: CniRequest | null
      try {
        request = isAnswered ? null : reader.push(piece)
      } catch (error) {
        this.count('bad_request')
        this.options.log.warn('a request at the CNI socket is not answered', { error: describeError(error) })
        socket.destroy()
        return
      }
      if (request === null) return
      isAnswered = true
      socket.setTimeout(0)
      void this.answer(request).then(({ code, message, result }) => {
        this.count(result)
        // Nobody reads what was asked on a socket that `stop` has closed.
        socket.end(encodeAnswer(code, message))
      })
    })
  }

  private count(result: CniResult): void {
    this.counts.set(result, (this.counts.get(result) ?? 0) + 1)
  }

  /** Never rejects. */
  private async answer(request: CniRequest): Promise<Answer> {
    const { log } = this.options
    const fields = { command: request.command, pod: `${request.podNamespace}/${request.podName}` }
    try {
      if (request.podNamespace === '' || request.podName === '') return DONE
      if (request.command === CNI_ASK) return await this.whose(request)
      if (request.command === 'ADD') return await this.add(request)
      if (request.command === 'DEL') return await this.remove(request)
      if (request.command === 'CHECK') return this.check(request)
      return DONE
    } catch (error) {
      log.error('a request of the CNI plugin failed', { ...fields, error: describeError(error) })
      return { code: CNI_TRY_AGAIN, message: `weft: ${describeError(error)}`, result: 'refused' }
    }
  }

  /**
   * Its object may be newer than what has been published: a label on a pod, or on a namespace, counts from the first pod
   * on. Of closed namespaces nobody asks: they are written down, and ADD comes at once.
   */
  private async whose(request: CniRequest): Promise<Answer> {
    const told = await this.ask(request)
    if (told?.state === POD_MESHED) {
      const isClosed = closedTest(this.options.snapshot())(request.podNamespace, told.failureMode)
      return { code: isClosed ? CNI_OURS_CLOSED : CNI_OURS_OPEN, message: '', result: 'expected' }
    }
    if (told !== null) return DONE
    if (this.server === null) return STOPPED
    this.options.log.warn('a pod starts, and the controller does not say whether it is in the mesh', {
      pod: `${request.podNamespace}/${request.podName}`,
    })
    return { code: CNI_OK, message: '', result: 'let_by' }
  }

  private async ask({
    podNamespace: namespace,
    podName: name,
    podUid: uid,
  }: CniRequest): Promise<PodMembership | null> {
    return await this.options.membershipOf({ namespace, name, uid }, ASK_MS)
  }

  private async add(request: CniRequest): Promise<Answer> {
    const { podNamespace, podName } = request
    const key = `${podNamespace}/${podName}`
    this.askedFor.set(key, (this.askedFor.get(key) ?? 0) + 1)
    try {
      const netns = await this.attach(request)
      const told = this.localPod(request) === null ? await this.ask(request) : null
      if (told?.state === POD_OUTSIDE) return DONE
      const verdict = await this.verdict(request, netns, told?.state === POD_MESHED)
      if (verdict === 'captured') return { code: CNI_OK, message: '', result: 'captured' }
      if (verdict === 'not-ours') return DONE
      // Nobody reads it: the plugin asks the next agent.
      return this.server === null ? STOPPED : this.giveUp(request, told)
    } finally {
      const left = this.askedFor.get(key)! - 1
      if (left === 0) this.askedFor.delete(key)
      else this.askedFor.set(key, left)
    }
  }

  /** Tells the pods of the netns; its path. */
  private async attach(request: CniRequest): Promise<string> {
    const { podNamespace: namespace, podName: name, podUid, containerId, addresses } = request
    const { netns, inode } = await this.findNetns(request)
    this.options.networks.attach({ namespace, name, podUid, containerId, netns, inode, addresses })
    return netns
  }

  /** `isExpected`: the controller has said that it is ours. */
  private async verdict(
    request: CniRequest,
    netns: string,
    isExpected: boolean,
  ): Promise<'captured' | 'not-ours' | 'pending'> {
    const { pods } = this.options
    const deadline = performance.now() + (this.options.addMs ?? ADD_MS)
    let told = ''
    while (this.server !== null) {
      const local = this.localPod(request)
      const uid = local !== null && isSamePod(request.podUid, local.pod.podUid) ? local.pod.uid : null
      if (uid !== null) {
        if (pods.isActive(uid) && pods.netnsOf(uid) === netns) return 'captured'
        if (told !== uid) pods.networkMade(uid)
        told = uid
      } else if (local === null && !isExpected && this.isNotOurs(request)) return 'not-ours'
      const leftMs = deadline - performance.now()
      if (leftMs <= 0) break
      await this.change(uid, leftMs)
    }
    return 'pending'
  }

  /** Resolves when something has changed, or after that time. */
  private async change(uid: string | null, timeoutMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        clearTimeout(timer)
        this.waiting.delete(wake)
        unwatch()
        resolve()
      }
      const timer = setTimeout(wake, timeoutMs)
      this.waiting.add(wake)
      const unwatch = uid === null ? () => {} : this.options.pods.watch(uid, wake)
    })
  }

  private giveUp(request: CniRequest, told: PodMembership | null): Answer {
    const { log, snapshot } = this.options
    const { podNamespace, podName } = request
    const pod = `${podNamespace}/${podName}`
    const local = this.localPod(request)
    const isClosed =
      local !== null
        ? isStrict(snapshot(), local.pod, local.workload)
        : told?.state === POD_MESHED
          ? closedTest(snapshot())(podNamespace, told.failureMode)
          : (this.namespaces.get(podNamespace) ?? false)
    const seconds = (this.options.addMs ?? ADD_MS) / 1000
    const what = local === null ? 'the controller has not told of it' : "it could not be captured; see the agent's log"
    const reason = `${what} within ${seconds} s`
    if (!isClosed) {
      log.warn('a pod starts unmeshed, as its failure mode allows', { pod, reason })
      return { code: CNI_OK, message: '', result: 'let_by' }
    }
    log.error('a pod does not start, because it must not be unmeshed', { pod, reason })
    const message = `weft: pod ${pod} must not start unmeshed (weft.dev/failure-mode), and ${reason}; the kubelet tries again`
    return { code: CNI_TRY_AGAIN, message, result: 'refused' }
  }

  private async remove(request: CniRequest): Promise<Answer> {
    const { networks, pods } = this.options
    const { podNamespace, podName, containerId } = request
    const local = this.localPod(request)
    const isOfPod = networks.detach(podNamespace, podName, containerId)
    // An agent that was started after the pod knows it by its netns alone.
    if (local !== null && (isOfPod || (await this.isCapturedIn(request, local.pod.uid)))) {
      await pods.networkGone(local.pod.uid)
    }
    return { code: CNI_OK, message: '', result: 'deleted' }
  }

  private check(request: CniRequest): Answer {
    const local = this.localPod(request)
    if (local === null || this.options.pods.isActive(local.pod.uid)) return DONE
    const message = `weft: pod ${request.podNamespace}/${request.podName} is in the mesh and not captured`
    return { code: CNI_NOT_CAPTURED, message, result: 'refused' }
  }

  // --- what is known ---

  private localPod({ podNamespace, podName }: CniRequest): { pod: LocalPod; workload: Workload } | null {
    const { pods, workloads } = this.options.snapshot()
    for (const pod of pods.values()) {
      const workload = workloads.get(pod.uid)
      if (workload?.namespace === podNamespace && workload.name === podName) return { pod, workload }
    }
    return null
  }

  /** True when the pod is known, and another's to capture or nobody's; or its namespace is none of the mesh's. */
  private isNotOurs({ podNamespace, podName, addresses }: CniRequest): boolean {
    const { snapshot, isReady } = this.options
    if (!this.namespaces.has(podNamespace)) return true
    // What is known from before a restart says nothing of a new pod.
    if (!isReady()) return false
    for (const workload of snapshot().workloads.values()) {
      if (workload.namespace !== podNamespace || workload.name !== podName || workload.hostname !== undefined) continue
      // With other addresses it is an earlier pod of that name.
      if (workload.addresses.length === 0) return true
      if (workload.addresses.some((address) => addresses.includes(address))) return true
    }
    return false
  }

  // --- the netns ---

  /** A path that can be opened here as long as the netns is there. Throws WeftError WEFT_SYSCALL. */
  private async findNetns(request: CniRequest): Promise<{ readonly netns: string; readonly inode: bigint }> {
    const { netns, pid, netnsFd } = request
    const passed = `/proc/${pid}/fd/${netnsFd}`
    // The plugin's descriptor is the netns itself, whatever file system it is named in.
    const inode = (netnsFd < 0 ? null : this.inodeOf(passed)) ?? this.inodeOf(netns)
    if (inode !== null) {
      const paths = [netns, `/proc/1/root${netns}`, `/proc/${await parentOf(pid)}/root${netns}`]
      for (const path of paths) if (this.inodeOf(path) === inode) return { netns: path, inode }
    }
    const hint = "the agent needs the node's pid namespace and CAP_SYS_PTRACE"
    throw new WeftError('WEFT_SYSCALL', `the network namespace ${netns} cannot be opened by the agent; ${hint}`)
  }

  private async isCapturedIn(request: CniRequest, uid: string): Promise<boolean> {
    const captured = this.options.pods.netnsOf(uid)
    if (captured === null || request.netns === '') return false
    try {
      const { inode } = await this.findNetns(request)
      return this.inodeOf(captured) === inode
    } catch {
      return false
    }
  }

  private inodeOf(path: string): bigint | null {
    let fd = -1
    try {
      fd = this.options.addon.openNetns(path)
      return fstatSync(fd, { bigint: true }).ino
    } catch {
      return null
    } finally {
      if (fd >= 0) closeSync(fd)
    }
  }
}

/** The process that has started `pid`: the container runtime. 1 when it cannot be told. */
async function parentOf(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '')
  return Number(/^PPid:\s*([0-9]+)$/m.exec(status)?.[1] ?? 1)
}
