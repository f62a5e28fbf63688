/**
 * Attaches and detaches the UDP meters of pods, one after the other, while their pods are enrolled and serve already: each
 * takes the kernel some 20 ms for every interface and direction, and holds its lock of all interfaces meanwhile.
 *
 * What is asked for last of a pod is what is done; what waits and is not wanted any more is not done at all. Nothing here
 * fails: a pod whose meter cannot be changed goes on as it is, and the log says so.
 */
import { closeSync, fstatSync } from 'node:fs'
import { type Clock, systemClock } from '../base/clock.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { Addon } from '../kernel/addon.ts'
import type { MeteredPod } from '../kernel/udp-meter-programs.ts'

/**
 * So long after a pod was enrolled none is attached: enrolling the next one, on the main thread, would wait for the lock at
 * each of its routes. Longer than the time between pods that are enrolled together, which is some 10 ms; shorter than that
 * from a pod's enrolment to the first packet of an app that is started then.
 */
const QUIET_MS = 100

/** What changes meters: UdpMeterPrograms, and `detachUdpMeter`. The descriptor of the pod stays open until it has settled. */
export interface MeterChanger {
  attach(pod: MeteredPod): Promise<void>
  detach(pod: MeteredPod): Promise<void>
}

/** One change of one pod's meter. Has a descriptor of the netns of its own. */
interface Change {
  readonly pod: MeteredPod
  readonly isEnd: boolean
  /** Resolves when it was made, or is not wanted any more. */
  readonly settled: Promise<void>
  readonly settle: () => void
}

export class UdpMeterQueue {
  private readonly addon: Pick<Addon, 'duplicateFd'>
  private readonly changer: MeterChanger
  private readonly log: Logger
  private readonly clock: Clock
  /** By inode number of the netns, in the order in which they were asked for. */
  private readonly waiting = new Map<bigint, Change>()
  private running: Change | null = null
  private quietUntilMs = 0
  private stopTimer: (() => void) | null = null
  private isResting = false

  constructor(addon: Pick<Addon, 'duplicateFd'>, changer: MeterChanger, log: Logger, clock: Clock = systemClock) {
    this.addon = addon
    this.changer = changer
    this.log = log
    this.clock = clock
  }

  /** The pod will be metered. The caller may close its descriptor. */
  attach(pod: MeteredPod): void {
    this.quietUntilMs = this.clock.now() + QUIET_MS
    void this.put(pod, false)
  }

  /** The pod will not be metered any more; resolves when it is not. The caller may close its descriptor at once. */
  end(pod: MeteredPod): Promise<void> {
    return this.put(pod, true)
  }

  /** Attaches nothing from now on; resolves when everything else is done. */
  async rest(): Promise<void> {
    this.isResting = true
    this.stopTimer?.()
    this.stopTimer = null
    for (const [key, change] of this.waiting) {
      if (change.isEnd) continue
      this.waiting.delete(key)
      release(change)
    }
    while (this.running !== null) await this.running.settled
  }

  /** Attaches again what is asked for from now on. */
  resume(): void {
    this.isResting = false
  }

  private put(pod: MeteredPod, isEnd: boolean): Promise<void> {
    if (this.isResting && !isEnd) return Promise.resolve()
    let key: bigint
    let netnsFd: number
    try {
      key = fstatSync(pod.netnsFd, { bigint: true }).ino
      netnsFd = this.addon.duplicateFd(pod.netnsFd)
    } catch (error) {
      this.warn(pod, isEnd, error)
      return Promise.resolve()
    }
    let settle = (): void => {}
    const settled = new Promise<void>((resolve) => {
      settle = resolve
    })
    const before = this.waiting.get(key)
    if (before !== undefined) {
      this.waiting.delete(key)
      // Whoever waits for its end waits on.
      if (isEnd && before.isEnd) void settled.then(before.settle)
      else before.settle()
      closeSync(before.pod.netnsFd)
    }
    this.waiting.set(key, { pod: { ...pod, netnsFd }, isEnd, settled, settle })
    this.begin()
    return settled
  }

  private begin(): void {
    if (this.running !== null) return
    const next = this.next()
    if (next === null) return
    const [key, change] = next
    this.waiting.delete(key)
    this.running = change
    void this.make(change)
  }

  /** Somebody waits for an end, and for no attachment. */
  private next(): readonly [key: bigint, change: Change] | null {
    for (const entry of this.waiting) if (entry[1].isEnd) return entry
    const [first] = this.waiting
    return first === undefined || this.isQuiet() ? null : first
  }

  /** True while nothing is to be attached; then `begin` is called again. */
  private isQuiet(): boolean {
    const leftMs = this.quietUntilMs - this.clock.now()
    if (leftMs <= 0) return false
    this.stopTimer ??= this.clock.after(leftMs, () => {
      this.stopTimer = null
      this.begin()
    })
    return true
  }

  private async make(change: Change): Promise<void> {
    const { pod, isEnd } = change
    try {
      await (isEnd ? this.changer.detach(pod) : this.changer.attach(pod))
    } catch (error) {
      this.warn(pod, isEnd, error)
    }
    this.running = null
    this.begin()
    release(change)
  }

  private warn({ displayName }: MeteredPod, isEnd: boolean, error: unknown): void {
    const what = isEnd ? 'the UDP meter of a pod cannot be removed' : 'the UDP of a pod is not metered'
    this.log.warn(what, { pod: displayName, error: describeError(error) })
  }
}

function release({ pod, settle }: Change): void {
  closeSync(pod.netnsFd)
  settle()
}
