/**
 * The UDP part of enrolling a pod in the eBPF capture: its interfaces get the programs that meter, and lose them again.
 * Metering is never worth a pod: none waits for it, and one that cannot be metered is enrolled all the same.
 */
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { type Addon, NATIVE_BUILD_DIRECTORY } from '../kernel/addon.ts'
import { KernelMap } from '../kernel/maps.ts'
import { readUnmetered, UdpEdgeMap, type UdpTotals } from '../kernel/udp-edge-map.ts'
import { detachUdpMeter, type MeteredPod, UdpMeterPrograms } from '../kernel/udp-meter-programs.ts'
import type { UdpSource } from './udp-meter.ts'
import { UdpMeterQueue } from './udp-meter-queue.ts'

const METER_OBJECT = `${NATIVE_BUILD_DIRECTORY}meter.bpf.o`

/** The metered pods of one capture. Uses its maps: it must not outlive the capture. */
export class UdpMeterPods implements UdpSource {
  readonly edges: UdpEdgeMap
  readonly accounted: UdpEdgeMap
  private readonly unmeteredMap: KernelMap
  private readonly hasPod: (id: number) => boolean
  /** Null when the kernel does not take the programs. */
  private readonly meter: UdpMeterPrograms | null
  private readonly queue: UdpMeterQueue

  /** `mapFds` are the shared maps by name; `hasPod` says whether the pod of that number is enrolled. */
  constructor(addon: Addon, mapFds: Readonly<Record<string, number>>, hasPod: (id: number) => boolean, log: Logger) {
    this.edges = new UdpEdgeMap(new KernelMap(addon, mapFds['udp_edges']!))
    this.accounted = new UdpEdgeMap(new KernelMap(addon, mapFds['udp_accounted']!))
    this.unmeteredMap = new KernelMap(addon, mapFds['udp_unmetered']!)
    this.hasPod = hasPod
    this.meter = load(addon, mapFds, log)
    const changer = {
      attach: async (pod: MeteredPod) => await this.meter?.attach(pod),
      detach: async (pod: MeteredPod) => await detachUdpMeter(addon, pod),
    }
    this.queue = new UdpMeterQueue(addon, changer, log)
  }

  /** The greatest number of a pod that was ever counted, and is not forgotten; 0 when there is none. */
  get greatestPodId(): number {
    let greatest = 0
    for (const { pod } of this.edges.all()) greatest = Math.max(greatest, pod)
    return greatest
  }

  /** Meters a pod soon, in place of an earlier agent's meter if there is one. The caller may close the descriptor. */
  attach(pod: MeteredPod): void {
    if (this.meter !== null) this.queue.attach(pod)
  }

  /**
   * Ends the metering of a pod that is captured no more, whichever agent has begun it. Resolves when it has ended. The caller
   * may close the descriptor at once.
   */
  async end(pod: MeteredPod): Promise<void> {
    await this.queue.end(pod)
  }

  /** Changes nothing any more until `resume`: another agent is to meter the pods. Those that are metered go on being so. */
  async rest(): Promise<void> {
    await this.queue.rest()
  }

  /** The other agent is dead. What is metered has to be attached anew. */
  resume(): void {
    this.queue.resume()
  }

  /** Lets the programs go, when everything that was begun is done; metered pods go on being so. */
  async close(): Promise<void> {
    await this.queue.rest()
    this.meter?.close()
  }

  // --- for UdpMeter ---

  unmetered(): UdpTotals {
    return readUnmetered(this.unmeteredMap)
  }

  isCaptured(pod: number): boolean {
    return this.hasPod(pod)
  }
}

function load(addon: Addon, mapFds: Readonly<Record<string, number>>, log: Logger): UdpMeterPrograms | null {
  try {
    return UdpMeterPrograms.load(addon, METER_OBJECT, mapFds)
  } catch (error) {
    log.warn('the kernel does not take the programs that meter UDP; it passes unmetered', {
      error: describeError(error),
    })
    return null
  }
}
