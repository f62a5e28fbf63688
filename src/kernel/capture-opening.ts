/**
 * Opens the programs of an agent: takes over the maps and links that an earlier agent has pinned, or makes them anew; then
 * loads, pins and attaches. What was found is in force all the time, and stays so when opening fails.
 */
import { closeSync, fstatSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { describeError, WeftError } from '../base/errors.ts'
import { type Addon, type DescribedMap, kernelError, NATIVE_BUILD_DIRECTORY } from './addon.ts'
import { Attachments } from './attachments.ts'
import type { BpfDirectory } from './bpf-directory.ts'
import { CONNECT_OBJECT, type Hook, OBJECTS, PASSED_MAPS, SHARED_MAPS } from './capture-hooks.ts'
import { connectConstants, whyErrorsCannotBeChosen } from './denial.ts'
import { type LayoutStamp, writeStamp } from './layout-stamp.ts'
import { openMapSet, openPassedMaps, pinMapSet, STAMP_MAP } from './map-set.ts'
import { type AbsentPiece, FALLBACKS, PIECE_SET_RETVAL } from './optional-pieces.ts'

/** What became of the pins that were found. */
export type Takeover = 'fresh' | 'taken-over' | 'replaced'

export interface CaptureProgramsOptions {
  /** Processes in this cgroup (v2) and below it are captured, if their netns is enrolled. */
  readonly cgroupPath: string
  /** A directory of this agent's own, in a bpf file system or not (then one is mounted there). */
  readonly pinDirectory: string
  /** Of this program, for people who look at its pins. */
  readonly version?: string
  readonly buildDirectory?: string
  /** Of the node's own netns, whose processes probe pods. None does when it is left out. */
  readonly nodeNetnsCookie?: bigint
}

/** What opening has come to. */
export interface Opened {
  readonly mapFds: Readonly<Record<string, number>>
  readonly linkFds: number[]
  readonly attachments: Attachments
  readonly missing: readonly AbsentPiece[]
  readonly stamp: LayoutStamp
  readonly takeover: Takeover
  readonly previousVersion: string
}

/** One attempt to open, and what it has made so far. */
export class CaptureOpening {
  private readonly addon: Addon
  private readonly directory: BpfDirectory
  private readonly options: CaptureProgramsOptions
  private readonly build: string
  private readonly attachments: Attachments
  private readonly linkFds: number[] = []
  private readonly missing = new Map<string, AbsentPiece>()
  private mapFds: Record<string, number> = {}
  private takeover: Takeover = 'fresh'

  constructor(addon: Addon, directory: BpfDirectory, options: CaptureProgramsOptions) {
    this.addon = addon
    this.directory = directory
    this.options = options
    this.build = options.buildDirectory ?? NATIVE_BUILD_DIRECTORY
    this.attachments = new Attachments(addon, directory)
  }

  run(): Opened {
    const { addon, directory, attachments } = this
    directory.dropUnused()
    const wanted = this.wantedMaps()
    const found = openMapSet(addon, directory, wanted)
    const hasPins = directory.pinned('maps').length + directory.pinned('links').length > 0
    if (found.fds !== null) this.takeover = 'taken-over'
    else if (hasPins || directory.hasOldSet) this.takeover = 'replaced'
    if (found.fds === null && hasPins) directory.setAside()
    for (const kind of ['links', 'pods'] as const) directory.settleReplacements(kind)
    const isPassed = ({ name }: DescribedMap): boolean => PASSED_MAPS.some((passed) => passed === name)
    this.mapFds = { ...(found.fds ?? openPassedMaps(addon, directory, wanted.filter(isPassed))) }
    const cgroupFd = this.openCgroup()
    let stamp: LayoutStamp | null = found.fds === null ? null : found.stamp
    try {
      for (const { file, hooks } of OBJECTS) {
        const programs = this.load(file, hooks)
        try {
          // Half of a set is never used: the maps are pinned before the first program can fill them.
          stamp ??= pinMapSet(addon, directory, this.mapFds, this.options.version ?? '')
          this.attach(programs, hooks, cgroupFd)
        } finally {
          // Links hold the programs.
          closeAll(Object.values(programs))
        }
      }
    } finally {
      closeSync(cgroupFd)
    }
    const { mapFds, linkFds, takeover } = this
    if (found.fds !== null) writeStamp(addon, mapFds[STAMP_MAP]!, { ...stamp!, version: this.options.version ?? '' })
    const missing = [...this.missing.values()]
    const previousVersion = found.stamp?.version ?? ''
    return { mapFds, linkFds, attachments, missing, stamp: stamp!, takeover, previousVersion }
  }

  /** What was found stays in force, also when it was set aside. */
  undo(): void {
    closeAll(this.linkFds)
    closeAll(Object.values(this.mapFds))
    if (this.takeover === 'fresh') this.directory.remove()
    else this.directory.unlock()
  }

  private wantedMaps(): DescribedMap[] {
    const { maps } = describeObject(this.addon, join(this.build, OBJECTS[0]!.file))
    return SHARED_MAPS.map((name) => maps.find((map) => map.name === name)!)
  }

  private openCgroup(): number {
    const { cgroupPath } = this.options
    try {
      return openSync(cgroupPath, 'r')
    } catch (error) {
      throw kernelError('WEFT_SYSCALL', `the cgroup ${cgroupPath} cannot be opened`, error)
    }
  }

  /** Descriptors of the programs that this kernel takes. New maps are kept. */
  private load(file: string, hooks: readonly Hook[]): Readonly<Record<string, number>> {
    const path = join(this.build, file)
    const constants = file === CONNECT_OBJECT ? this.connectConstants() : null
    const optional = hooks.filter(({ piece }) => piece !== null)
    const leftOut: string[] = []
    for (;;) {
      try {
        const loaded = this.addon.loadObject(path, this.mapFds, constants, leftOut)
        for (const [name, fd] of Object.entries(loaded.maps)) {
          const isWanted = (SHARED_MAPS as readonly string[]).includes(name) && this.mapFds[name] === undefined
          if (isWanted) this.mapFds[name] = fd
          else closeSync(fd)
        }
        return loaded.programs
      } catch (error) {
        const isLast = leftOut.length > 0 || optional.length === 0
        if (isLast) throw kernelError('WEFT_BPF', `the eBPF object ${path} cannot be loaded`, error)
        for (const { program, piece } of optional) {
          leftOut.push(program)
          this.miss(piece!, error)
        }
        if (optional.length === hooks.length) return {}
      }
    }
  }

  private connectConstants(): Uint8Array {
    const failure = whyErrorsCannotBeChosen(this.addon, this.build)
    if (failure !== null) this.miss(PIECE_SET_RETVAL, failure)
    return connectConstants(failure === null, this.options.nodeNetnsCookie ?? 0n)
  }

  private attach(programs: Readonly<Record<string, number>>, hooks: readonly Hook[], cgroupFd: number): void {
    const target = fstatSync(cgroupFd, { bigint: true }).ino
    for (const { program, attachType, piece } of hooks) {
      const programFd = programs[program]
      if (programFd === undefined) continue
      const attachment = { kind: 'links', name: program, programFd, targetFd: cgroupFd, target, attachType } as const
      try {
        this.linkFds.push(this.attachments.attach(attachment))
      } catch (error) {
        if (error instanceof WeftError) throw error
        if (piece === null) throw this.attachError(program, cgroupFd, attachType, error)
        this.miss(piece, error)
      }
    }
  }

  private attachError(program: string, cgroupFd: number, attachType: number, error: unknown): WeftError {
    const { cgroupPath } = this.options
    const what = `program ${program} cannot be attached to ${cgroupPath}`
    const other = this.programInTheWay(cgroupFd, attachType, error)
    if (other === '') return kernelError('WEFT_BPF', `${what}; is it a directory of a cgroup2 file system?`, error)
    return new WeftError('WEFT_CONFIG', `${what}: ${other} is attached to it or above it and allows no others`, error)
  }

  /** Who keeps others from the hook; empty when nobody does. */
  private programInTheWay(cgroupFd: number, attachType: number, error: unknown): string {
    if ((error as NodeJS.ErrnoException).code !== 'EPERM') return ''
    try {
      const [found] = this.addon.attachedPrograms(cgroupFd, attachType)
      return found === undefined ? 'another program' : `program ${found.name} (id ${found.id})`
    } catch {
      return ''
    }
  }

  private miss(piece: string, error: unknown): void {
    const reason = describeError(error)
    if (!this.missing.has(piece)) this.missing.set(piece, { piece, fallback: FALLBACKS[piece]!, reason })
  }
}

function describeObject(addon: Addon, path: string): ReturnType<Addon['describeObject']> {
  try {
    return addon.describeObject(path)
  } catch (error) {
    throw kernelError('WEFT_BPF', `the eBPF object ${path} cannot be read`, error)
  }
}

/** Closes descriptors of this process. */
export function closeAll(fds: readonly number[]): void {
  for (const fd of fds) closeSync(fd)
}
