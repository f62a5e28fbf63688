/**
 * What an agent writes down of each pod that it captures, one file each, so that the next agent can keep the capture, and
 * end it, without asking anybody: where the pod's netns is, and what was changed in it. Written before the change.
 *
 * Netns cookies are counted from the start of the machine: records of an earlier start are dropped.
 */
import { mkdirSync, readdirSync, readFileSync, renameSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { SteeringPlan } from '../kernel/steering.ts'

export interface PodRecord {
  readonly uid: string
  /** `namespace/name`, for messages. */
  readonly displayName: string
  /** Path of the netns. */
  readonly netns: string
  readonly netnsCookie: bigint
  /** The programs' number of the pod. */
  readonly id: number
  readonly isStrict: boolean
  /** True when it is captured no more, and only routes are left, for connections that are still open. */
  readonly isWithdrawn: boolean
  readonly plan: SteeringPlan
}

/** Of the files' form; another one is not read. */
const FORMAT = 1

/** The directory of the records in that of the agent's state. */
export const RECORDS_DIRECTORY = 'captured'

/** Changes with every start of the machine. */
const BOOT_ID_FILE = '/proc/sys/kernel/random/boot_id'

export class PodRecords {
  private readonly directory: string | null
  private readonly bootId: string
  private readonly log: Logger
  private readonly records = new Map<bigint, PodRecord>()

  /** Reads what is there. Without a state directory records are kept in memory only. */
  constructor(stateDirectory: string | null, log: Logger) {
    this.directory = stateDirectory === null ? null : join(stateDirectory, RECORDS_DIRECTORY)
    this.bootId = readFileSync(BOOT_ID_FILE, 'utf8').trim()
    this.log = log
    this.reread()
  }

  /** Another agent may have written since. */
  reread(): void {
    if (this.directory === null) return
    this.records.clear()
    mkdirSync(this.directory, { recursive: true, mode: 0o700 })
    for (const name of readdirSync(this.directory)) this.read(this.directory, name)
  }

  all(): PodRecord[] {
    return [...this.records.values()]
  }

  get(netnsCookie: bigint): PodRecord | null {
    return this.records.get(netnsCookie) ?? null
  }

  /** Throws the file system's error. */
  put(record: PodRecord): void {
    this.records.set(record.netnsCookie, record)
    if (this.directory === null) return
    const path = this.pathOf(record.netnsCookie)
    writeFileSync(`${path}~`, encode(record, this.bootId), { mode: 0o600 })
    renameSync(`${path}~`, path)
  }

  delete(netnsCookie: bigint): void {
    this.records.delete(netnsCookie)
    if (this.directory !== null) rmSync(this.pathOf(netnsCookie), { force: true })
  }

  /** Removes the directory, which must be empty. */
  close(): void {
    if (this.directory !== null && this.records.size === 0) rmdirSync(this.directory)
  }

  private pathOf(netnsCookie: bigint): string {
    return join(this.directory!, `${netnsCookie}.json`)
  }

  private read(directory: string, name: string): void {
    const path = join(directory, name)
    try {
      const record = name.endsWith('.json') ? decode(readFileSync(path, 'utf8'), this.bootId) : null
      if (record !== null && name === `${record.netnsCookie}.json`) {
        this.records.set(record.netnsCookie, record)
        return
      }
    } catch (error) {
      this.log.warn('the record of a captured pod cannot be read', { path, error: describeError(error) })
    }
    // Half-written, of another start of the machine, or not to be understood.
    rmSync(path, { recursive: true, force: true })
  }
}

function encode(record: PodRecord, bootId: string): string {
  const { plan } = record
  const routes = plan.routes.map((route) => ({ ...route, source: Buffer.from(route.source).toString('hex') }))
  const netnsCookie = String(record.netnsCookie)
  return `${JSON.stringify({ format: FORMAT, bootId, ...record, netnsCookie, plan: { ...plan, routes } })}\n`
}

/** Null when it is of another form or another start of the machine. Throws when it is no record. */
function decode(text: string, bootId: string): PodRecord | null {
  const read = JSON.parse(text)
  if (read.format !== FORMAT || read.bootId !== bootId) return null
  const { uid, displayName, netns, id, isStrict, isWithdrawn, plan } = read
  const isComplete =
    [uid, displayName, netns].every((value) => typeof value === 'string') &&
    [isStrict, isWithdrawn].every((value) => typeof value === 'boolean') &&
    Number.isInteger(id) &&
    Array.isArray(plan.ownAddresses) &&
    Array.isArray(plan.rules)
  if (!isComplete) throw new Error('fields are missing')
  const routes = plan.routes.map((route: { source: string }) => ({
    ...route,
    source: Buffer.from(route.source, 'hex'),
  }))
  const netnsCookie = BigInt(read.netnsCookie)
  return { uid, displayName, netns, netnsCookie, id, isStrict, isWithdrawn, plan: { ...plan, routes } }
}
