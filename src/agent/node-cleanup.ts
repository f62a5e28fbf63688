/**
 * Removes every trace of an agent from its node: programs, maps and links with their pins, the mount, routes, rules and meters
 * in the netns of pods, and what it has written down, its credential excepted. Needs no agent and reads no map, so that what
 * another version has left goes as well. What is not an agent's is left and named.
 */
import { closeSync, existsSync, readdirSync, rmdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { describeError } from '../base/errors.ts'
import { silentLog } from '../base/log.ts'
import type { Addon } from '../kernel/addon.ts'
import { BpfDirectory } from '../kernel/bpf-directory.ts'
import { planDnsRoutes, removeDnsRoutes } from '../kernel/dns-capture.ts'
import { findNetns } from '../kernel/netns-search.ts'
import { planSteering, removeSteering } from '../kernel/steering.ts'
import { detachUdpMeter } from '../kernel/udp-meter-programs.ts'
import { NUMBERS_FILE } from './carried-numbers.ts'
import { removeCni } from './cni-install.ts'
import { CNI_NAMESPACES_FILE } from './cni-namespaces.ts'
import { HANDOVER_SOCKET } from './handover.ts'
import { type PodRecord, PodRecords, RECORDS_DIRECTORY } from './pod-records.ts'
import { SNAPSHOT_FILE } from './snapshot-file.ts'

export interface CleanupOptions {
  readonly addon: Addon
  readonly pinDirectory: string
  readonly stateDirectory: string
  /** Where the CNI plugin and its configuration are, if they are. */
  readonly cni: { readonly confDirectory: string; readonly binDirectory: string; readonly socket: string }
  /** Also while an agent uses all of it. */
  readonly isForced: boolean
}

export interface CleanupReport {
  /** What is gone, one line each. */
  readonly removed: readonly string[]
  /** What is still there, and why. */
  readonly left: readonly string[]
}

/** A pod whose netns has routes and rules. */
interface ChangedPod {
  readonly netnsCookie: bigint
  /** Of its netns, as its program's link says; 0 when there is none. */
  readonly inode: bigint
  readonly record: PodRecord | null
}

/** Throws WeftError WEFT_CONFIG while an agent uses the pin directory; then nothing is changed. */
export async function cleanUpNode(options: CleanupOptions): Promise<CleanupReport> {
  return await new Cleanup(options).run()
}

class Cleanup {
  private readonly options: CleanupOptions
  private readonly removed: string[] = []
  private readonly left: string[] = []

  constructor(options: CleanupOptions) {
    this.options = options
  }

  async run(): Promise<CleanupReport> {
    const { addon, pinDirectory, stateDirectory, isForced } = this.options
    const directory = BpfDirectory.openExisting(addon, pinDirectory, isForced)
    const hasRecords = existsSync(join(stateDirectory, RECORDS_DIRECTORY))
    const records = hasRecords ? new PodRecords(stateDirectory, silentLog) : null
    const pods = this.changedPods(directory, records)
    this.removeCni()
    // Programs first: what they have steered would go nowhere without the routes.
    if (directory !== null) this.removePins(directory)
    for (const pod of pods) await this.restore(pod)
    this.removeState()
    return { removed: this.removed, left: this.left }
  }

  /** Before everything else: no pod is to wait for an agent that is gone. */
  private removeCni(): void {
    const { confDirectory, binDirectory, socket } = this.options.cni
    try {
      this.removed.push(...removeCni(confDirectory, binDirectory))
    } catch (error) {
      this.left.push(`the CNI plugin: ${describeError(error)}`)
    }
    if (!existsSync(socket)) return
    rmSync(socket)
    this.removed.push(socket)
  }

  private changedPods(directory: BpfDirectory | null, records: PodRecords | null): ChangedPod[] {
    const pods = new Map<bigint, ChangedPod>()
    for (const record of records?.all() ?? []) pods.set(record.netnsCookie, { ...record, inode: 0n, record })
    for (const { netnsCookie, inode } of directory?.pods() ?? []) {
      pods.set(netnsCookie, { netnsCookie, inode, record: pods.get(netnsCookie)?.record ?? null })
    }
    // Cookies are in no order that people know.
    return [...pods.values()].sort((x, y) => nameOf(x).localeCompare(nameOf(y)))
  }

  private removePins(directory: BpfDirectory): void {
    const { path, hasOwnMount } = directory
    const counts = directory.counts()
    const left = directory.remove()
    if (counts.links > 0) this.removed.push(`${counts.links} programs attached to a cgroup`)
    if (counts.pods > 0) this.removed.push(`the programs in ${counts.pods} pods`)
    if (counts.maps > 0) this.removed.push(`${counts.maps} maps`)
    if (left.length === 0) this.removed.push(hasOwnMount ? `mount and directory ${path}` : `directory ${path}`)
    for (const stranger of left) this.left.push(`${stranger}: not an agent's`)
  }

  private async restore(pod: ChangedPod): Promise<void> {
    const { netnsCookie, inode, record } = pod
    const { addon } = this.options
    const name = nameOf(pod)
    const netnsFd = this.openNetns(netnsCookie, inode, record)
    // With the netns its routes are gone.
    if (netnsFd < 0) return
    try {
      const plan = record?.plan ?? planSteering(addon.netnsInterfaces(netnsFd), [])
      removeSteering(addon, netnsFd, plan)
      removeDnsRoutes(addon, netnsFd, planDnsRoutes(plan))
      await detachUdpMeter(addon, { netnsFd, interfaces: plan.interfaces })
      this.removed.push(`routes and rules of pod ${name}`)
    } catch (error) {
      this.left.push(`routes and rules of pod ${name}: ${describeError(error)}`)
    } finally {
      closeSync(netnsFd)
    }
  }

  private openNetns(netnsCookie: bigint, inode: bigint, record: PodRecord | null): number {
    const { addon } = this.options
    let fd = -1
    try {
      if (record !== null) fd = addon.openNetns(record.netns)
      if (fd >= 0 && addon.netnsCookie(fd) === netnsCookie) return fd
    } catch {
      // The path is gone; the netns may have another one.
    }
    if (fd >= 0) closeSync(fd)
    return findNetns(addon, netnsCookie, inode)
  }

  private removeState(): void {
    const { stateDirectory } = this.options
    for (const name of [RECORDS_DIRECTORY, NUMBERS_FILE, SNAPSHOT_FILE, CNI_NAMESPACES_FILE, HANDOVER_SOCKET]) {
      const path = join(stateDirectory, name)
      if (!existsSync(path)) continue
      try {
        rmSync(path, { recursive: true })
        this.removed.push(path)
      } catch (error) {
        this.left.push(`${path}: ${describeError(error)}`)
      }
    }
    if (existsSync(stateDirectory) && readdirSync(stateDirectory).length === 0) rmdirSync(stateDirectory)
  }
}

function nameOf({ netnsCookie, record }: ChangedPod): string {
  return record === null ? `of netns cookie ${netnsCookie}` : record.displayName
}
