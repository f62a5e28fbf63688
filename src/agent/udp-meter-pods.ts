/**
 * The UDP part of enrolling a pod in the eBPF capture: its interfaces get the programs that meter, and lose them again.
 * Metering is never worth a pod: one that cannot be metered is enrolled all the same, and the log says so.
 */
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { type Addon, NATIVE_BUILD_DIRECTORY } from '../kernel/addon.ts'
import { KernelMap } from '../kernel/maps.ts'
import { readUnmetered, UdpEdgeMap, type UdpTotals } from '../kernel/udp-edge-map.ts'
import { detachUdpMeter, type MeteredPod, UdpMeterPrograms } from '../kernel/udp-meter-programs.ts'
import type { UdpSource } from './udp-meter.ts'

const METER_OBJECT = `${NATIVE_BUILD_DIRECTORY}meter.bpf.o`

/** The metered pods of one capture. Uses its maps: it must not outlive the capture. */
export class UdpMeterPods implements UdpSource {
  readonly edges: UdpEdgeMap
  readonly accounted: UdpEdgeMap
  private readonly unmeteredMap: KernelMap
  private readonly hasPod: (id: number) => boolean
  private readonly log: Logger
  /** Null when the kernel does not take the programs. */
  private readonly meter: UdpMeterPrograms | null

  /** `mapFds` are the shared maps by name; `hasPod` says whether the pod of that number is enrolled. */
  constructor(addon: Addon, mapFds: Readonly<Record<string, number>>, hasPod: (id: number) => boolean, log: Logger) {
    this.edges = new UdpEdgeMap(new KernelMap(addon, mapFds['udp_edges']!))
    this.accounted = new UdpEdgeMap(new KernelMap(addon, mapFds['udp_accounted']!))
    this.unmeteredMap = new KernelMap(addon, mapFds['udp_unmetered']!)
    this.hasPod = hasPod
    this.log = log
    this.meter = load(addon, mapFds, log)
  }

  /** The greatest number of a pod that was ever counted, and is not forgotten; 0 when there is none. */
  get greatestPodId(): number {
    let greatest = 0
    for (const { pod } of this.edges.all()) greatest = Math.max(greatest, pod)
    return greatest
  }

  /** Meters a pod, in place of an earlier agent's meter if there is one. */
  attach(pod: MeteredPod): void {
    try {
      this.meter?.attach(pod)
    } catch (error) {
      this.log.warn('the UDP of a pod is not metered', { pod: pod.displayName, error: describeError(error) })
    }
  }

  /** Lets the programs go; metered pods go on being so. */
  close(): void {
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

/** Ends the metering of a pod that is captured no more, whichever agent has begun it. Never throws. */
export function endUdpMetering(addon: Addon, pod: Omit<MeteredPod, 'id'>, log: Logger): void {
  try {
    detachUdpMeter(addon, pod.netnsFd, pod.interfaces)
  } catch (error) {
    log.warn('the UDP meter of a pod cannot be removed', { pod: pod.displayName, error: describeError(error) })
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
