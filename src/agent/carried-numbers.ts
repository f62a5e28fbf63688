/**
 * The numbers by which the kernel's maps know scopes, services and policies. They are written down before they are used,
 * so that the next agent gives the same name the same number: what is in the maps stays right, and so do counters and
 * events of connections that are open. Without the file, or with one of other maps, no number that may be in use is given
 * again: what is in the maps then has no names, until the next plan replaces it.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { CapturePrograms } from '../kernel/capture-programs.ts'
import { Numbers } from './carriage.ts'

/** In the directory of the agent's state. */
export const NUMBERS_FILE = 'carried-numbers.json'

const KINDS = ['scopes', 'services', 'policies'] as const
type Kind = (typeof KINDS)[number]

/** A count that no numbers have. */
const NEVER_SAVED = -1

export class CarriedNumbers {
  readonly scopes: Numbers
  readonly services: Numbers
  readonly policies: Numbers
  private readonly path: string | null
  private readonly epoch: bigint
  private readonly log: Logger
  private savedCount = 0

  private constructor(path: string | null, epoch: bigint, numbers: Readonly<Record<Kind, Numbers>>, log: Logger) {
    this.path = path
    this.epoch = epoch
    this.scopes = numbers.scopes
    this.services = numbers.services
    this.policies = numbers.policies
    this.log = log
  }

  /** For the maps of `programs`. Without a state directory nothing is written down. */
  static open(stateDirectory: string | null, programs: CapturePrograms, log: Logger): CarriedNumbers {
    const path = stateDirectory === null ? null : join(stateDirectory, NUMBERS_FILE)
    const read = path === null ? null : readNumbers(path, programs.epoch, log)
    const { epoch } = programs
    if (read === null) return new CarriedNumbers(path, epoch, unused(programs), log)
    const numbers = new CarriedNumbers(path, epoch, read, log)
    numbers.savedCount = numbers.count
    return numbers
  }

  /** Another agent may have given numbers in the same maps since: see `Numbers.adopt`. */
  reread(programs: CapturePrograms): void {
    const read = this.path === null ? null : readNumbers(this.path, this.epoch, this.log)
    const given = read ?? unused(programs)
    for (const kind of KINDS) this[kind].adopt(given[kind])
    // The file may be about the maps of the other agent.
    this.savedCount = read === null ? NEVER_SAVED : this.count
  }

  /** To be called before a number is used that was not there before. */
  save(): void {
    const { path, count } = this
    if (path === null || count === this.savedCount) return
    const text = JSON.stringify({
      epoch: String(this.epoch),
      scopes: this.scopes.toJSON(),
      services: this.services.toJSON(),
      policies: this.policies.toJSON(),
    })
    try {
      writeFileSync(`${path}~`, `${text}\n`, { mode: 0o600 })
      renameSync(`${path}~`, path)
      this.savedCount = count
    } catch (error) {
      // A file that lacks numbers in use is worse than none.
      rmSync(path, { force: true })
      this.log.error('the numbers of what the kernel carries are not written down; the next agent gives others', {
        path,
        error: describeError(error),
      })
    }
  }

  private get count(): number {
    return this.scopes.count + this.services.count + this.policies.count
  }
}

/** Null when there is no file, it is about other maps, or it cannot be understood. */
function readNumbers(path: string, epoch: bigint, log: Logger): Record<Kind, Numbers> | null {
  try {
    const read = JSON.parse(readFileSync(path, 'utf8'))
    if (read.epoch !== String(epoch)) return null
    return {
      scopes: numbersFrom(read.scopes),
      services: numbersFrom(read.services),
      policies: numbersFrom(read.policies),
    }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') {
      log.warn('the numbers of what the kernel carries cannot be read; others are given', {
        path,
        error: describeError(error),
      })
    }
    return null
  }
}

function numbersFrom({ first, names }: { readonly first: unknown; readonly names: unknown }): Numbers {
  const isWhole = Number.isInteger(first) && Array.isArray(names) && names.every((name) => typeof name === 'string')
  if (!isWhole) throw new Error('names are missing')
  return new Numbers(first as number, names as string[])
}

/** Numbers that nothing in the maps bears. */
function unused(programs: CapturePrograms): Record<Kind, Numbers> {
  const greatest: Record<Kind, number> = { scopes: 0, services: 0, policies: 0 }
  const see = (kind: Kind, number: number): void => {
    greatest[kind] = Math.max(greatest[kind], number)
  }
  for (const { scope } of programs.pods.entries().values()) see('scopes', scope)
  for (const { frontend, service } of programs.frontends.entries()) {
    see('scopes', frontend.scope)
    see('services', service)
  }
  for (const { service } of programs.backends.entries()) see('services', service)
  for (const map of [programs.edges, programs.accountedEdges]) {
    for (const { ids } of map.all()) see('services', ids.service)
  }
  for (const { policy } of programs.verdicts.entries()) see('policies', policy)
  return {
    scopes: new Numbers(greatest.scopes + 1),
    services: new Numbers(greatest.services + 1),
    policies: new Numbers(greatest.policies + 1),
  }
}
