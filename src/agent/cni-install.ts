/**
 * Puts the CNI plugin into place on this node and keeps it there: the program, and a configuration that chains it behind
 * the node's own (cni-conflist.ts). Looks again when the directory changes, and by the clock.
 *
 * Both files outlive the agent, so that pods that start while there is none follow their failure mode. `removeCni` takes
 * them away.
 */
import { createHash } from 'node:crypto'
import {
  chmodSync,
  closeSync,
  copyFileSync,
  existsSync,
  type FSWatcher,
  fsyncSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  watch,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { CNI_PLUGIN, CONFLIST_FILE, chain, configurationNames, type PluginPaths } from './cni-conflist.ts'

/** Changes come in bursts: a new file is written, then renamed. */
const SETTLE_MS = 50
/** For directories of which no changes are told (some overlay and network file systems). */
const RESCAN_MS = 10_000
/** A configuration is a few KiB; something larger is none, or an attack on the memory of the agent. */
const CONFIGURATION_BYTES_MAX = 1_048_576
/**
 * How often our file may vanish within FIGHT_MS before we wait longer: a CNI that tolerates no other configuration (Cilium
 * with `cni.exclusive`) renames it at once, every time.
 */
const VANISHED_MAX = 5
const FIGHT_MS = 60_000

export interface CniInstallOptions {
  /** Where the runtime looks for configurations and programs. */
  readonly confDirectory: string
  readonly binDirectory: string
  /** The program to install. */
  readonly program: string
  readonly paths: PluginPaths
  readonly log: Logger
}

/** See the head of the file. */
export class CniInstall {
  private readonly options: CniInstallOptions
  private watcher: FSWatcher | null = null
  private rescan: NodeJS.Timeout | null = null
  private settle: NodeJS.Timeout | null = null
  private lastProblem = ''
  private isInstalled = false
  private vanishedAtMs: number[] = []

  constructor(options: CniInstallOptions) {
    this.options = options
  }

  /** True when new pods come by the plugin. */
  get isChained(): boolean {
    return this.isInstalled
  }

  /** Installs what can be installed now, and the rest when it can be. */
  start(): void {
    this.look()
    this.watchDirectory()
    this.rescan = setInterval(() => {
      this.watchDirectory()
      this.look()
    }, RESCAN_MS)
    this.rescan.unref()
  }

  /** Leaves everything in place. */
  stop(): void {
    this.watcher?.close()
    this.watcher = null
    if (this.rescan !== null) clearInterval(this.rescan)
    if (this.settle !== null) clearTimeout(this.settle)
  }

  private watchDirectory(): void {
    if (this.watcher !== null) return
    try {
      this.watcher = watch(this.options.confDirectory, { persistent: false }, () => {
        this.settle ??= setTimeout(() => {
          this.settle = null
          this.look()
        }, SETTLE_MS)
      })
      // The directory was removed, and may come back.
      this.watcher.on('error', () => {
        this.watcher?.close()
        this.watcher = null
      })
    } catch {
      // It is not there yet: the next rescan tries again.
    }
  }

  private look(): void {
    try {
      this.installProgram()
      this.installConflist()
      if (this.lastProblem !== '') this.options.log.info('the CNI plugin is installed after all')
      this.lastProblem = ''
    } catch (error) {
      const problem = describeError(error)
      if (problem !== this.lastProblem) {
        const consequence = 'new pods are captured when they run, not before'
        this.options.log.warn('the CNI plugin is not installed yet', { reason: problem, consequence })
      }
      this.lastProblem = problem
    }
  }

  private installProgram(): void {
    const { program, binDirectory } = this.options
    const target = join(binDirectory, CNI_PLUGIN)
    if (isSameFile(program, target)) return
    // The runtime may be running the old one: it is replaced, not written to.
    const staged = join(binDirectory, `.${CNI_PLUGIN}.new`)
    copyFileSync(program, staged)
    chmodSync(staged, 0o755)
    sync(staged)
    renameSync(staged, target)
    this.options.log.info('the CNI plugin is in place', { path: target })
  }

  private installConflist(): void {
    const { confDirectory, paths, log } = this.options
    const target = join(confDirectory, CONFLIST_FILE)
    const [primary] = configurationNames(readdirSync(confDirectory))
    if (primary === undefined) {
      // Without the node's own network our copy of it must not be used either.
      rmSync(target, { force: true })
      this.isInstalled = false
      throw new Error(`there is no CNI configuration in ${confDirectory} to be chained with`)
    }
    const text = chain(primary, readConfiguration(join(confDirectory, primary)), paths)
    const isThere = existsSync(target)
    if (isThere && readConfiguration(target) === text) {
      this.isInstalled = true
      return
    }
    if (!isThere && this.isInstalled && this.isFight(confDirectory)) return
    const staged = join(confDirectory, `.${CONFLIST_FILE}.new`)
    writeFileSync(staged, text, { mode: 0o600 })
    sync(staged)
    renameSync(staged, target)
    this.isInstalled = true
    log.info('the CNI plugin is chained', { path: target, primary })
  }

  /** True when somebody removes our file whenever it is there: then it is put back once a minute only. */
  private isFight(confDirectory: string): boolean {
    const now = performance.now()
    this.vanishedAtMs = [...this.vanishedAtMs.filter((at) => now - at < FIGHT_MS), now]
    if (this.vanishedAtMs.length <= VANISHED_MAX) return false
    throw new Error(
      `${join(confDirectory, CONFLIST_FILE)} is removed again and again; with Cilium set cni.exclusive=false`,
    )
  }
}

/** Takes away what was installed; what was there before was never changed. What is gone, one line each. */
export function removeCni(confDirectory: string, binDirectory: string): readonly string[] {
  const removed: string[] = []
  // None was given: this node had no plugin.
  if (confDirectory === '') return removed
  // The configuration first: a runtime that still had it would miss the program.
  const paths = [join(confDirectory, CONFLIST_FILE), join(binDirectory, CNI_PLUGIN)]
  for (const path of [
    ...paths,
    join(confDirectory, `.${CONFLIST_FILE}.new`),
    join(binDirectory, `.${CNI_PLUGIN}.new`),
  ]) {
    if (!existsSync(path)) continue
    rmSync(path)
    removed.push(path)
  }
  return removed
}

function readConfiguration(path: string): string {
  if (statSync(path).size > CONFIGURATION_BYTES_MAX) throw new Error(`${path} has more than 1 MiB`)
  return readFileSync(path, 'utf8')
}

function isSameFile(a: string, b: string): boolean {
  return existsSync(b) && statSync(a).size === statSync(b).size && digest(a) === digest(b)
}

function digest(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex')
}

function sync(path: string): void {
  const fd = openSync(path, 'r')
  try {
    fsyncSync(fd)
  } finally {
    closeSync(fd)
  }
}
