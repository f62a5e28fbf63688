/**
 * Keeps the kernel's maps in step with the plan of what the kernel carries (carriage-plan.ts). Only differences are
 * written, in an order in which a connection that is made meanwhile never finds half of a service: slots before the
 * frontend that counts them, the frontend before slots it no longer counts.
 */
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { BackendMap, FrontendMap, VerdictMap } from '../kernel/carry-maps.ts'
import {
  type CarriagePlan,
  EMPTY_PLAN,
  frontendKey,
  type Numbering,
  type PlannedBackend,
  type PlannedFrontend,
  type PlannedVerdict,
} from './carriage-plan.ts'

/** The maps that are kept. */
export interface CarriageMaps {
  readonly frontends: FrontendMap
  readonly backends: BackendMap
  readonly verdicts: VerdictMap
}

/** Numbers given in the order of asking and never taken back: a stale number must not mean something else. */
export class Numbers implements Numbering {
  private readonly first: number
  private readonly byName = new Map<string, number>()
  private readonly names: string[]

  /** `first` is at least 1, and the number of the first of these names. */
  constructor(first = 1, names: readonly string[] = []) {
    this.first = first
    this.names = [...names]
    for (const [index, name] of names.entries()) this.byName.set(name, first + index)
  }

  get count(): number {
    return this.names.length
  }

  numberOf(name: string): number {
    let number = this.byName.get(name)
    if (number === undefined) {
      number = this.first + this.names.length
      this.names.push(name)
      this.byName.set(name, number)
    }
    return number
  }

  /** Numbers that others have given for the same maps keep their names, and are given no more. A name of ours keeps its own. */
  adopt({ first, names }: Numbers): void {
    const gapEnd = first - this.first
    while (this.names.length < gapEnd) this.names.push('')
    for (let index = this.names.length - gapEnd; index < names.length; index++) {
      const name = names[index]!
      if (!this.byName.has(name)) this.byName.set(name, first + index)
      this.names.push(name)
    }
  }

  /** The name of a number that was given; empty for any other. */
  nameOf(number: number): string {
    return this.names[number - this.first] ?? ''
  }

  /** What the constructor takes. */
  toJSON(): { readonly first: number; readonly names: readonly string[] } {
    return { first: this.first, names: this.names }
  }
}

/** What is in the maps already, by an earlier agent. */
function planInForce(maps: CarriageMaps): CarriagePlan {
  const plan = {
    frontends: new Map<string, PlannedFrontend>(),
    backends: new Map<string, PlannedBackend>(),
    verdicts: new Map<string, PlannedVerdict>(),
  }
  for (const planned of maps.frontends.entries()) {
    plan.frontends.set(frontendKey(planned.frontend), { ...planned, carriedKey: '' })
  }
  for (const planned of maps.backends.entries()) plan.backends.set(`${planned.service} ${planned.slot}`, planned)
  for (const planned of maps.verdicts.entries()) {
    const { source, destination, port } = planned.pair
    plan.verdicts.set(`${source} ${destination} ${port}`, planned)
  }
  return { ...EMPTY_PLAN, ...plan }
}

/** The plan in force. */
export class Carriage {
  private readonly maps: CarriageMaps
  private readonly log: Logger
  private plan: CarriagePlan
  private refused = { verdicts: 0, services: 0 }

  constructor(maps: CarriageMaps, log: Logger) {
    this.maps = maps
    this.log = log
    this.plan = planInForce(maps)
  }

  /**
   * Puts a plan in force. When a map is full, services that found no room are left to the agent and the log says so; what
   * was in force before stays as it was.
   */
  apply(wanted: CarriagePlan): void {
    const refusedVerdicts = this.applyVerdicts(wanted)
    const fullServices = this.applyServices(wanted)
    this.plan = wanted
    if (refusedVerdicts.length + fullServices.size > 0)
      this.plan = withoutRefused(wanted, refusedVerdicts, fullServices)
    this.tellRefused(refusedVerdicts.length, fullServices.size)
  }

  /** Keys of those that found no room. */
  private applyVerdicts(wanted: CarriagePlan): string[] {
    const { plan, maps } = this
    const refused: string[] = []
    for (const [key, verdict] of plan.verdicts) {
      if (!wanted.verdicts.has(key)) maps.verdicts.delete(verdict.pair)
    }
    for (const [key, { pair, isAllowed, policy }] of wanted.verdicts) {
      const before = plan.verdicts.get(key)
      if (before?.isAllowed === isAllowed && before.policy === policy) continue
      if (this.isWritten(() => maps.verdicts.insert(pair, isAllowed, policy))) continue
      // A verdict of before that could not be replaced must not stay: without one the agent decides.
      maps.verdicts.delete(pair)
      refused.push(key)
    }
    return refused
  }

  /** The endpoints to which the kernel carries connections now; see CarriagePlan. */
  get carried(): ReadonlyMap<string, readonly string[]> {
    return this.plan.carried
  }

  /** Said when it changes: every plan would say it again. */
  private tellRefused(verdicts: number, services: number): void {
    if (verdicts === this.refused.verdicts && services === this.refused.services) return
    this.refused = { verdicts, services }
    if (verdicts + services === 0) this.log.info('the kernel has room for all connections again')
    else this.log.error('the kernel has no room for some connections; the proxy carries them', this.refused)
  }

  /** A pod is going to be captured no more: no connection is carried to or from it from now on; open ones stay. */
  leave(pod: number): void {
    const { plan, maps } = this
    const [backends, verdicts] = [new Map(plan.backends), new Map(plan.verdicts)]
    for (const [key, planned] of plan.backends) {
      if (planned.backend.pod !== pod) continue
      const backend = { ...planned.backend, pod: 0 }
      // Replacing an entry can fail for want of memory only; a slot that is not there is the agent's as well.
      if (!this.isWritten(() => maps.backends.insert(planned.service, planned.slot, backend))) {
        maps.backends.delete(planned.service, planned.slot)
      }
      backends.set(key, { ...planned, backend })
    }
    for (const [key, { pair }] of plan.verdicts) {
      if (pair.source !== pod && pair.destination !== pod) continue
      maps.verdicts.delete(pair)
      verdicts.delete(key)
    }
    this.plan = { ...plan, backends, verdicts }
  }

  /** Numbers of the services that found no room: nothing of them is in the maps. */
  private applyServices(wanted: CarriagePlan): ReadonlySet<number> {
    const { plan, maps } = this
    for (const [key, { frontend }] of plan.frontends) if (!wanted.frontends.has(key)) maps.frontends.delete(frontend)
    // Slots that nobody counts any more make room first; those of services that stay go last.
    const services = new Set<number>()
    for (const { service } of wanted.frontends.values()) services.add(service)
    const superfluous: PlannedBackend[] = []
    for (const [key, planned] of plan.backends) {
      if (wanted.backends.has(key)) continue
      if (services.has(planned.service)) superfluous.push(planned)
      else maps.backends.delete(planned.service, planned.slot)
    }
    const full = new Set<number>()
    for (const [key, { service, slot, backend }] of wanted.backends) {
      const before = plan.backends.get(key)?.backend
      if (before?.address === backend.address && before.port === backend.port && before.pod === backend.pod) continue
      if (!this.isWritten(() => maps.backends.insert(service, slot, backend))) full.add(service)
    }
    for (const [key, { frontend, service, slots, isFallback }] of wanted.frontends) {
      const before = plan.frontends.get(key)
      const isSame = before?.service === service && before.slots === slots && before.isFallback === isFallback
      if (isSame || full.has(service)) continue
      if (!this.isWritten(() => maps.frontends.insert(frontend, service, slots, isFallback))) full.add(service)
    }
    for (const { service, slot } of superfluous) maps.backends.delete(service, slot)
    // Half a service is of no use, and takes the room of others.
    if (full.size === 0) return full
    for (const { frontend, service } of wanted.frontends.values()) {
      if (full.has(service)) maps.frontends.delete(frontend)
    }
    for (const { service, slot } of wanted.backends.values()) {
      if (full.has(service)) maps.backends.delete(service, slot)
    }
    return full
  }

  /** False when the map is full, or the kernel has no memory. */
  private isWritten(write: () => void): boolean {
    try {
      write()
      return true
    } catch (error) {
      this.log.debug('a map of the kernel takes no more', { error: describeError(error) })
      return false
    }
  }
}

/** What is in the maps when some of `wanted` found no room. */
function withoutRefused(
  wanted: CarriagePlan,
  verdicts: readonly string[],
  services: ReadonlySet<number>,
): CarriagePlan {
  const left = {
    frontends: new Map(wanted.frontends),
    backends: new Map(wanted.backends),
    verdicts: new Map(wanted.verdicts),
    carried: new Map(wanted.carried),
  }
  for (const key of verdicts) left.verdicts.delete(key)
  for (const [key, { service, carriedKey }] of wanted.frontends) {
    if (!services.has(service)) continue
    left.frontends.delete(key)
    left.carried.delete(carriedKey)
  }
  for (const [key, { service }] of wanted.backends) if (services.has(service)) left.backends.delete(key)
  return left
}
