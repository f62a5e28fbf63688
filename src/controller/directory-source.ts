/**
 * A directory of YAML files as the source of the mesh's objects, watched.
 *
 * Any event leads, after a moment of silence, to a scan of the whole directory: editors write in place, or rename, or
 * replace symbolic links, and a scan understands all of it. A slow scan goes on beside it, because watching can fail
 * silently. Only `*.yaml` and `*.yml` directly in the directory are read; hidden files are not.
 *
 * A broken file keeps the objects of its last good version; a deleted one takes its objects along. A directory that is
 * gone altogether changes nothing: that is an accident, not an order to empty the mesh.
 */
import { type FSWatcher, watch } from 'node:fs'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../base/clock.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { Message } from '../compiler/messages.ts'
import type { MeshObject } from '../compiler/object.ts'
import type { Source } from './source.ts'
import { fileMessage, readYamlFile } from './yaml-file.ts'

/** Silence after the last event before the directory is scanned: an editor's several steps count as one. */
const DEBOUNCE_MS = 100
/** A scan without any event. */
const RESCAN_MS = 5_000
/** A file that was cut to nothing this short a time ago is about to be written. */
const EMPTY_SETTLE_MS = 1_000
/** Largest file. 8 MiB: some ten thousand objects. */
const FILE_BYTES_MAX = 8 * 1_048_576
/** Most files. Beyond it a directory is more likely the wrong one. */
const FILES_MAX = 10_000

/** Which directory, and who hears of it. */
export interface DirectorySourceOptions {
  readonly directory: string
  readonly clock: Clock
  readonly log: Logger
  /** Last good objects of an earlier run, for files that are broken when the source starts. */
  readonly remembered?: readonly MeshObject[]
  /** The objects or the messages changed. Not called for what `start` finds. */
  readonly onChange: () => void
}

/** What is known of one file. */
interface KnownFile {
  /** Changes whenever the content may have changed. */
  readonly signature: string
  /** Of the last good version. */
  readonly objects: readonly MeshObject[]
  /** Why the version on disk is not in force; empty when it is. */
  readonly messages: readonly Message[]
}

/** The directory as objects, kept in step with its files. */
export class DirectorySource implements Source {
  private readonly options: DirectorySourceOptions
  private readonly files = new Map<string, KnownFile>()
  /** About the directory itself. */
  private directoryMessages: readonly Message[] = []
  private watcher: FSWatcher | null = null
  private cancelScan: (() => void) | null = null
  private isScanning = false
  private isScanWanted = false
  private isStopped = false
  /** Who waits for the end of the next scan that begins. */
  private readonly waiting: (() => void)[] = []

  constructor(options: DirectorySourceOptions) {
    this.options = options
  }

  /** Objects of every file's last good version, in order of file names. */
  get objects(): readonly MeshObject[] {
    return this.sortedFiles().flatMap(({ objects }) => objects)
  }

  /** What is wrong with files that are not in force. */
  get messages(): readonly Message[] {
    return [...this.directoryMessages, ...this.sortedFiles().flatMap(({ messages }) => messages)]
  }

  /** Reads everything once and begins to watch. Throws WeftError WEFT_CONFIG when the directory cannot be read. */
  async start(): Promise<void> {
    // Watching begins first, so that nothing falls between.
    this.watch()
    this.isScanning = true
    try {
      await this.scan(true)
    } catch (error) {
      await this.stop()
      throw new WeftError('WEFT_CONFIG', `the source directory ${this.options.directory} cannot be read`, error)
    }
    this.endScan(RESCAN_MS)
  }

  async stop(): Promise<void> {
    this.isStopped = true
    this.watcher?.close()
    this.watcher = null
    this.cancelScan?.()
    for (const wake of this.waiting.splice(0)) wake()
  }

  newest(kind: string, namespace: string, name: string): MeshObject | null {
    const isSought = (object: MeshObject): boolean =>
      object.kind === kind && object.namespace === namespace && object.name === name
    return this.objects.find(isSought) ?? null
  }

  async fetch(kind: string, namespace: string, name: string): Promise<MeshObject | null> {
    if (!this.isStopped) {
      const scanned = new Promise<void>((resolve) => this.waiting.push(resolve))
      if (this.isScanning) this.isScanWanted = true
      else this.scanAfter(0)
      await scanned
    }
    return this.newest(kind, namespace, name)
  }

  status(): unknown {
    return { directory: this.options.directory, files: this.files.size }
  }

  private sortedFiles(): KnownFile[] {
    return [...this.files.keys()].sort().map((name) => this.files.get(name)!)
  }

  private watch(): void {
    const { directory, log } = this.options
    this.watcher?.close()
    this.watcher = null
    try {
      const watcher = watch(directory, { persistent: false }, () => this.onEvent())
      watcher.on('error', (error) => {
        log.warn('watching failed; changes are found by looking regularly', { directory, error: describeError(error) })
        watcher.close()
        if (this.watcher === watcher) this.watcher = null
      })
      this.watcher = watcher
    } catch (error) {
      log.warn('the directory cannot be watched; changes are found by looking regularly', {
        directory,
        error: describeError(error),
      })
    }
  }

  // --- scanning ---

  private onEvent(): void {
    // A scan under way may have passed the file already.
    if (this.isScanning) this.isScanWanted = true
    else this.scanAfter(DEBOUNCE_MS)
  }

  /** The next scan comes after `nextMs`, or soon when there were events meanwhile. */
  private endScan(nextMs: number): void {
    this.isScanning = false
    this.scanAfter(this.isScanWanted ? DEBOUNCE_MS : nextMs)
    this.isScanWanted = false
  }

  private scanAfter(delayMs: number): void {
    if (this.isStopped) return
    this.cancelScan?.()
    this.cancelScan = this.options.clock.after(delayMs, () => void this.scanAgain())
  }

  /** Never rejects. */
  private async scanAgain(): Promise<void> {
    this.isScanning = true
    const waiting = this.waiting.splice(0)
    let nextMs = RESCAN_MS
    try {
      const { isChanged, isSettled } = await this.scan(false)
      // Whoever has stopped it waits for no change any more.
      if (this.isStopped) {
        for (const wake of waiting) wake()
        return
      }
      if (this.directoryMessages.length > 0) {
        // It is back: the old watch may be on what was there before.
        this.directoryMessages = []
        this.watch()
        if (!isChanged) this.options.onChange()
      }
      if (isChanged) this.options.onChange()
      if (!isSettled) nextMs = EMPTY_SETTLE_MS
    } catch (error) {
      this.onLostDirectory(error)
    }
    for (const wake of waiting) wake()
    this.endScan(nextMs)
  }

  private onLostDirectory(error: unknown): void {
    if (this.isStopped || this.directoryMessages.length > 0) return
    const { directory } = this.options
    const text = `The directory cannot be read, what was in it stays in force: ${describeError(error)}.`
    this.directoryMessages = [fileMessage(directory, text)]
    this.options.onChange()
  }

  private async scan(isFirst: boolean): Promise<{ isChanged: boolean; isSettled: boolean }> {
    const { directory } = this.options
    const names = (await readdir(directory)).filter((name) => /^[^.].*\.ya?ml$/.test(name)).sort()
    if (names.length > FILES_MAX) throw new Error(`it has ${names.length} YAML files, more than ${FILES_MAX}`)
    let isChanged = false
    let isSettled = true
    for (const name of names) {
      const known = this.files.get(name)
      const file = await this.look(name, known, isFirst)
      if (file === null) isSettled = false
      if (file === null || file === known) continue
      this.files.set(name, file)
      isChanged = true
    }
    const present = new Set(names)
    for (const name of this.files.keys()) {
      if (present.has(name)) continue
      this.files.delete(name)
      isChanged = true
    }
    return { isChanged, isSettled }
  }

  private rememberedOf(path: string): readonly MeshObject[] {
    return (this.options.remembered ?? []).filter((object) => object.positionOf([])?.file === path)
  }

  /** The file as it is now; `known` itself when nothing changed, null when it is just being written. */
  private async look(name: string, known: KnownFile | undefined, isFirst: boolean): Promise<KnownFile | null> {
    const path = join(this.options.directory, name)
    const objects = known?.objects ?? this.rememberedOf(path)
    let signature = ''
    try {
      const { mtimeNs, ctimeNs, size, ino, dev } = await stat(path, { bigint: true })
      signature = [mtimeNs, ctimeNs, size, ino, dev].join(' ')
      if (known?.signature === signature) return known
      const ageMs = Date.now() - Number(mtimeNs / 1_000_000n)
      if (!isFirst && size === 0n && ageMs < EMPTY_SETTLE_MS) return null
      if (size > FILE_BYTES_MAX) throw new Error(`it has ${size} bytes, more than ${FILE_BYTES_MAX}`)
      const file = readYamlFile(await readFile(path, 'utf8'), path)
      return file.messages.length === 0
        ? { signature, objects: file.objects, messages: [] }
        : { signature, objects, messages: file.messages }
    } catch (error) {
      const message = fileMessage(path, `The file cannot be read: ${describeError(error)}.`)
      if (signature === '' && known?.messages[0]?.text === message.text) return known
      return { signature, objects, messages: [message] }
    }
  }
}
