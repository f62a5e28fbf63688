/**
 * `weft check --node`: compares the pods that are to be captured with what is captured in the kernel, and says whether
 * anybody serves. Needs no agent: with none it tells since when, and what became of the connections. Changes nothing.
 */
import { closeSync, fstatSync, readdirSync } from 'node:fs'
import { describeError } from '../base/errors.ts'
import { type Addon, hasCode } from '../kernel/addon.ts'
import { STAT_BYPASSED, STAT_REFUSED } from '../kernel/layout.generated.ts'
import type { Pod } from '../kernel/maps.ts'
import { PinnedCapture, type ServingWorker } from '../kernel/pinned-capture.ts'
import { inspectPod, type MissingPiece } from '../kernel/pod-inspection.ts'
import { planSteering, upInterfaces } from '../kernel/steering.ts'
import type { Unserved } from '../kernel/unserved.ts'
import { type AgentAnswer, readWantedPods, type WantedPod, type WantedPods } from './wanted-pods.ts'

export interface NodeCheckOptions {
  readonly addon: Addon
  readonly pinDirectory: string
  readonly stateDirectory: string
  readonly answer: AgentAnswer
  /** What the controller says, if it was asked. */
  readonly wanted?: WantedPods
  /** Where namespaces have names; for tests. */
  readonly netnsDirectory?: string
}

/** Of the node as a whole. */
export interface NodeFinding {
  readonly subject: 'agent' | 'programs' | 'configuration'
  readonly ok: boolean
  readonly detail: string
}

/** Of one pod that is to be captured, or is. */
export interface PodFinding {
  readonly pod: string
  readonly netns: string
  readonly isCaptured: boolean
  /** What happens to its connections while no agent serves; null when it is not captured. */
  readonly failureMode: 'open' | 'closed' | null
  readonly problems: readonly string[]
  /** What to do; empty when there is nothing to do. */
  readonly remedy: string
  /** Connections that met nobody who serves, since an agent took account of them. */
  readonly unserved: Unserved | null
}

/** Everything that was found. */
export interface NodeReport {
  readonly ok: boolean
  readonly agent: {
    /** `serving`; `silent` when an agent has served and its heartbeats are old; `never` when none has. */
    readonly state: 'serving' | 'silent' | 'never'
    /** Since the last heartbeat of any data worker; -1 when there was none. */
    readonly silentMs: number
    /** Of its main thread, as the admin endpoint shows it. */
    readonly main: AgentAnswer['kind']
    readonly workers: readonly ServingWorker[]
  }
  /** Connections since the node was booted; `untold` of them no agent has taken account of yet. */
  readonly bypassed: number
  readonly refused: number
  readonly untold: { readonly bypassed: number; readonly refused: number }
  readonly findings: readonly NodeFinding[]
  readonly pods: readonly PodFinding[]
  /** Named namespaces of the node that are not in the mesh, as far as the configuration above knows. */
  readonly outside: readonly string[]
}

/** The programs in the cgroup, by the names of their pins. */
const HOOKS = ['weft_connect4', 'weft_connect6']

const NETNS_DIRECTORY = '/run/netns'

/** Checks the node. Throws WeftError when the maps cannot be read. */
export async function checkNode(options: NodeCheckOptions): Promise<NodeReport> {
  const { answer } = options
  const isOwn = answer.kind === 'answer' && answer.pinDirectory === options.pinDirectory
  const wanted = options.wanted ?? (isOwn ? answer.wanted : await readWantedPods(options.stateDirectory))
  const capture = PinnedCapture.open(options.addon, options.pinDirectory)
  try {
    return new NodeCheck(options, capture, wanted, answer.kind === 'answer' && !isOwn ? 'absent' : answer.kind).run()
  } finally {
    capture?.close()
  }
}

/** One check. */
class NodeCheck {
  private readonly options: NodeCheckOptions
  private readonly capture: PinnedCapture | null
  private readonly wanted: WantedPods | null
  private readonly main: AgentAnswer['kind']
  private readonly workers: readonly ServingWorker[]
  private readonly silentMs: number
  private readonly findings: NodeFinding[] = []
  private readonly entries: Map<bigint, Pod>

  constructor(
    options: NodeCheckOptions,
    capture: PinnedCapture | null,
    wanted: WantedPods | null,
    main: AgentAnswer['kind'],
  ) {
    const nowNs = process.hrtime.bigint()
    const beatNs = capture?.lastBeatNs ?? 0n
    this.options = options
    this.capture = capture
    this.wanted = wanted
    this.main = main
    this.workers = capture?.workers(nowNs) ?? []
    this.silentMs = beatNs === 0n ? -1 : Math.max(0, Number((nowNs - beatNs) / 1_000_000n))
    this.entries = capture?.pods.entries() ?? new Map()
  }

  run(): NodeReport {
    this.findAgent()
    this.findPrograms()
    this.findConfiguration()
    const seen = new Set<bigint>()
    const pods = (this.wanted?.pods ?? []).map((pod) => this.findPod(pod, seen))
    const journal = this.capture?.absences.read() ?? { bypassed: 0, refused: 0 }
    const bypassed = this.capture?.stats.read(STAT_BYPASSED) ?? 0
    const refused = this.capture?.stats.read(STAT_REFUSED) ?? 0
    return {
      ok: this.findings.every(({ ok }) => ok) && pods.every(({ isCaptured }) => isCaptured),
      agent: { state: this.state, silentMs: this.silentMs, main: this.main, workers: this.workers },
      bypassed,
      refused,
      untold: { bypassed: bypassed - journal.bypassed, refused: refused - journal.refused },
      findings: this.findings,
      pods,
      outside: this.namespacesOutside(seen),
    }
  }

  private get isServing(): boolean {
    return this.workers.some(({ isAlive }) => isAlive)
  }

  private get state(): 'serving' | 'silent' | 'never' {
    if (this.isServing) return 'serving'
    return this.silentMs < 0 ? 'never' : 'silent'
  }

  // --- the node ---

  private findAgent(): void {
    const add = (ok: boolean, detail: string): number => this.findings.push({ subject: 'agent', ok, detail })
    if (!this.isServing) {
      const since =
        this.silentMs < 0 ? 'none has served since the node was booted' : `for ${secondsText(this.silentMs)}`
      const what = 'pods that fail open go past the mesh, pods that fail closed are refused'
      if (this.main === 'absent') add(false, `no agent serves (${since}): ${what}. Start the agent`)
      else add(false, `the agent runs and no data worker of it does (${since}): ${what}. Restart the agent`)
      return
    }
    const silent = this.workers.filter(({ isAlive }) => !isAlive)
    const alive = this.workers.length - silent.length
    if (silent.length > 0) {
      add(false, `${silent.length} of ${this.workers.length} data workers do not run, and get no connections`)
    }
    if (this.main === 'silent') {
      add(false, 'its main thread does not respond: connections are served, changes are not. Restart the agent')
    }
    if (silent.length === 0 && this.main !== 'silent') add(true, `serves with ${alive} data workers`)
  }

  private findPrograms(): void {
    const { capture } = this
    const { pinDirectory } = this.options
    const missing = capture === null ? HOOKS : HOOKS.filter((name) => !capture.isHooked(name))
    if (missing.length === 0) {
      this.findings.push({ subject: 'programs', ok: true, detail: `attached, pinned in ${pinDirectory}` })
      return
    }
    const what = capture === null ? `nothing is pinned in ${pinDirectory}` : `${missing.join(' and ')} is not attached`
    const todo = 'no connection is captured. Start the agent anew, or name its directory with --pin-directory'
    this.findings.push({ subject: 'programs', ok: false, detail: `${what}: ${todo}` })
  }

  private findConfiguration(): void {
    const { wanted } = this
    if (wanted !== null) {
      const detail = `${wanted.pods.length} pods are to be captured, says ${wanted.source}`
      this.findings.push({ subject: 'configuration', ok: true, detail })
      return
    }
    const detail = `nobody knows which pods are to be captured: no agent answers, and ${this.options.stateDirectory} has no configuration. Name its directory with --state`
    this.findings.push({ subject: 'configuration', ok: false, detail })
  }

  // --- pods ---

  /** `seen` gets the cookie of its netns. */
  private findPod(pod: WantedPod, seen: Set<bigint>): PodFinding {
    const lost = (problem: string, remedy: string): PodFinding => {
      const { name, netns } = pod
      return { pod: name, netns, isCaptured: false, failureMode: null, problems: [problem], remedy, unserved: null }
    }
    if (pod.netns === '') {
      return lost(
        'nobody says where its network is',
        'Start the agent of this node, which finds it, or its log says why not',
      )
    }
    let netnsFd = -1
    try {
      netnsFd = this.options.addon.openNetns(pod.netns)
      const cookie = this.options.addon.netnsCookie(netnsFd)
      seen.add(cookie)
      return this.findCaptured(pod, netnsFd, cookie)
    } catch (error) {
      if (!hasCode(error, 'ENOENT'))
        return lost(describeError(error), 'See the error; the node may be short of something')
      const gone = `its network namespace ${pod.netns} does not exist (any more)`
      return lost(gone, 'Delete the pod, or correct its annotation weft.dev/netns')
    } finally {
      if (netnsFd >= 0) closeSync(netnsFd)
    }
  }

  private findCaptured(pod: WantedPod, netnsFd: number, netnsCookie: bigint): PodFinding {
    const { capture } = this
    const { name, netns } = pod
    const entry = this.entries.get(netnsCookie)
    if (capture === null || entry === undefined) {
      const problems = ['it is not enrolled: its connections go past the mesh']
      return { pod: name, netns, isCaptured: false, failureMode: null, problems, remedy: this.remedy(), unserved: null }
    }
    const linkFd = capture.openLink('pods', String(netnsCookie))
    try {
      const faults = inspectPod(this.options.addon, capture.maps, {
        netnsFd,
        netnsCookie,
        netnsInode: fstatSync(netnsFd, { bigint: true }).ino,
        isStrict: pod.isStrict,
        plan: planSteering(upInterfaces(this.options.addon, netnsFd), pod.addresses),
        slots: this.isServing ? this.workers.map(({ slot }) => slot) : [],
        linkFd,
        isDnsCaptured: null,
      })
      return {
        pod: name,
        netns,
        isCaptured: faults.length === 0,
        failureMode: entry.isStrict ? 'closed' : 'open',
        problems: faults.map(({ problem }) => problem),
        remedy: faults.length === 0 ? '' : this.remedy(faults[0]!.piece),
        unserved: capture.unserved.read(netnsCookie),
      }
    } finally {
      if (linkFd >= 0) closeSync(linkFd)
    }
  }

  private remedy(piece: MissingPiece = 'entry'): string {
    if (!this.isServing) return 'Start the agent'
    if (this.main === 'silent') return 'Restart the agent'
    const within = 'The agent sees to it within ten seconds'
    if (piece !== 'steering') return `${within}; if it does not, read its log`
    return `${within}; if it does not, remove the rule of somebody else that comes before rule 151 (ip rule, in the pod)`
  }

  /** A pod that came while the agent was away is known to nobody on the node: its namespace is here. */
  private namespacesOutside(seen: ReadonlySet<bigint>): string[] {
    const directory = this.options.netnsDirectory ?? NETNS_DIRECTORY
    const outside: string[] = []
    for (const name of namesIn(directory)) {
      const path = `${directory}/${name}`
      let fd = -1
      try {
        fd = this.options.addon.openNetns(path)
        const cookie = this.options.addon.netnsCookie(fd)
        if (!seen.has(cookie) && !this.entries.has(cookie)) outside.push(path)
      } catch {
        // The namespace has just gone, or the name is of something else.
      }
      if (fd >= 0) closeSync(fd)
    }
    return outside.sort()
  }
}

function namesIn(directory: string): readonly string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}

function secondsText(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`
}
