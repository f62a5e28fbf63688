/**
 * Finds the network namespaces of pods that run already, by the processes of the node: which pod a process belongs to is in
 * its cgroup (pod-cgroup.ts), which netns it is in the kernel tells. A netns is taken for a pod's only when one of the
 * pod's addresses is on an interface there: a container may have made namespaces of its own.
 *
 * Needs the node's /proc (the agent runs in the node's pid namespace) and CAP_SYS_PTRACE. One look serves all who ask
 * meanwhile.
 */
import { closeSync } from 'node:fs'
import { readdir, readFile } from 'node:fs/promises'
import { formatAddress, isLoopback } from '../base/address.ts'
import { describeError } from '../base/errors.ts'
import type { Addon } from '../kernel/addon.ts'
import { podUidOfCgroup } from './pod-cgroup.ts'

/** Files that are read at one time: enough to keep the threads of file access busy. */
const READS_MAX = 16

/** What became of a search. */
export type PodSearch =
  | { readonly kind: 'found'; readonly netns: string; readonly addresses: readonly string[] }
  /** All of its processes are in the node's own network. */
  | { readonly kind: 'host-network' }
  /** No process of it runs, or none in a netns with one of its addresses. */
  | { readonly kind: 'absent'; readonly reason: string }

/** See the head of the file. */
export class PodFinding {
  private readonly addon: Pick<Addon, 'openNetns' | 'netnsInterfaces' | 'netnsCookie'>
  private readonly proc: string
  private readonly nodeNetnsCookie: bigint
  /** The look that has not begun yet: it will see whoever runs now. */
  private next: Promise<Processes> | null = null
  private running: Promise<unknown> = Promise.resolve()

  /** `proc` is the node's /proc; a netns with `nodeNetnsCookie` is no pod's. */
  constructor(
    addon: Pick<Addon, 'openNetns' | 'netnsInterfaces' | 'netnsCookie'>,
    nodeNetnsCookie: bigint,
    proc = '/proc',
  ) {
    this.addon = addon
    this.nodeNetnsCookie = nodeNetnsCookie
    this.proc = proc
  }

  /**
   * `addresses` are the pod's, canonical; while none of them is published its oldest process with an address decides, which
   * runs when the network is made. Never rejects.
   */
  async find(podUid: string, addresses: readonly string[]): Promise<PodSearch> {
    let processes: Processes
    try {
      processes = await this.look()
    } catch (error) {
      return { kind: 'absent', reason: `${this.proc} cannot be read: ${describeError(error)}` }
    }
    const pids = processes.get(podUid) ?? []
    if (pids.length === 0) return { kind: 'absent', reason: 'none of its processes runs on this node' }
    return await this.choose(podUid, pids, addresses)
  }

  private look(): Promise<Processes> {
    if (this.next !== null) return this.next
    const look = this.running.then(async () => {
      this.next = null
      return await readProcesses(this.proc)
    })
    this.next = look
    // Whoever asks next waits for its end, whatever it is.
    this.running = look.catch(() => {})
    return look
  }

  private async choose(podUid: string, pids: readonly number[], wanted: readonly string[]): Promise<PodSearch> {
    let isOnNode = false
    let refusal = ''
    const seen = new Set<bigint>()
    for (const pid of pids) {
      const netns = `${this.proc}/${pid}/ns/net`
      let fd = -1
      try {
        fd = this.addon.openNetns(netns)
        const cookie = this.addon.netnsCookie(fd)
        if (seen.has(cookie)) continue
        seen.add(cookie)
        // The pid may have become another process's: only what is still the pod's counts.
        if (podUidOfCgroup(await readFile(`${this.proc}/${pid}/cgroup`, 'utf8')) !== podUid) continue
        if (cookie === this.nodeNetnsCookie) {
          isOnNode = true
          continue
        }
        const addresses = this.addon
          .netnsInterfaces(fd)
          .flatMap(({ address }) => (address === null ? [] : [formatAddress(address)]))
        const own = addresses.filter((address) =>
          wanted.length === 0 ? !isLoopback(address) && !isLinkLocal(address) : wanted.includes(address),
        )
        if (own.length > 0) return { kind: 'found', netns, addresses: own }
        const lacking = wanted.length === 0 ? 'no address yet' : `none of its addresses (${wanted.join(', ')})`
        refusal = `the network of its process ${pid} has ${lacking}`
      } catch (error) {
        // A process that has ended is no failure, and its siblings tell as much.
        if (!hasEnded(error)) refusal = describeError(error)
      } finally {
        if (fd >= 0) closeSync(fd)
      }
    }
    if (refusal !== '') return { kind: 'absent', reason: refusal }
    return isOnNode ? { kind: 'host-network' } : { kind: 'absent', reason: 'its processes have just ended' }
  }
}

/** Pids by the uid of their pod, the oldest first. */
type Processes = ReadonlyMap<string, readonly number[]>

async function readProcesses(proc: string): Promise<Processes> {
  const pids = (await readdir(proc)).filter((name) => /^[0-9]+$/.test(name)).map(Number)
  const found: { readonly pid: number; readonly uid: string; readonly startedAt: bigint }[] = []
  const pending = pids[Symbol.iterator]()
  const readAll = async (): Promise<void> => {
    for (const pid of pending) {
      const uid = podUidOfCgroup(await readText(`${proc}/${pid}/cgroup`))
      if (uid !== null) found.push({ pid, uid, startedAt: startOf(await readText(`${proc}/${pid}/stat`)) })
    }
  }
  await Promise.all(Array.from({ length: READS_MAX }, readAll))
  found.sort((a, b) => (a.startedAt < b.startedAt ? -1 : a.startedAt > b.startedAt ? 1 : a.pid - b.pid))
  const processes = new Map<string, number[]>()
  for (const { pid, uid } of found) {
    const known = processes.get(uid)
    if (known === undefined) processes.set(uid, [pid])
    else known.push(pid)
  }
  return processes
}

/** Empty for a process that has ended. */
async function readText(path: string): Promise<string> {
  return await readFile(path, 'utf8').catch(() => '')
}

/** Field 22 of /proc/PID/stat. The name before it, in brackets, may have spaces and brackets. */
function startOf(stat: string): bigint {
  const text = stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? ''
  return /^[0-9]+$/.test(text) ? BigInt(text) : 0n
}

/** RFC 3927, RFC 4291 section 2.5.6: every interface has one, and nobody is reached by it from elsewhere. */
function isLinkLocal(address: string): boolean {
  return address.startsWith('169.254.') || /^fe[89ab][0-9a-f]:/.test(address)
}

function hasEnded(error: unknown): boolean {
  const { code } = error as { readonly code?: unknown }
  return code === 'ENOENT' || code === 'ESRCH'
}
