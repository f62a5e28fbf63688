/** What EbpfCapture has of carrying connections in the kernel: the maps, and the pods by name and number. */
import type { Addon } from '../kernel/addon.ts'
import type { CapturePrograms } from '../kernel/capture-programs.ts'
import { breakOff, type CarriedPeer, carriedPeersIn } from '../kernel/carried-peers.ts'
import type { Carrier } from './capture.ts'
import type { CarriageMaps } from './carriage.ts'
import type { CarriedNumbers } from './carried-numbers.ts'

/** What is needed of a pod that the capture has enrolled. */
export interface CarryingPod {
  readonly id: number
  readonly netnsFd: number
  readonly isCaptured: boolean
  scope: number
}

/** Uses the capture's pods and descriptors: it must not outlive it. */
export class EbpfCarrier<Pod extends CarryingPod> implements Carrier {
  readonly numbers: CarriedNumbers
  readonly found: ReadonlyMap<string, number>
  private readonly addon: Addon
  private readonly programs: CapturePrograms
  private readonly pods: ReadonlyMap<string, Pod>
  private readonly switchOn: (pod: Pod) => void

  /** `switchOn` writes a captured pod into the map of pods anew. */
  constructor(
    addon: Addon,
    programs: CapturePrograms,
    pods: ReadonlyMap<string, Pod>,
    switchOn: (pod: Pod) => void,
    known: Pick<Carrier, 'numbers' | 'found'>,
  ) {
    this.numbers = known.numbers
    this.found = known.found
    this.addon = addon
    this.programs = programs
    this.pods = pods
    this.switchOn = switchOn
  }

  get maps(): CarriageMaps {
    return this.programs
  }

  numberOf(uid: string): number | null {
    return this.pods.get(uid)?.id ?? null
  }

  setScope(uid: string, scope: number): void {
    const pod = this.pods.get(uid)
    if (pod === undefined || pod.scope === scope) return
    pod.scope = scope
    if (pod.isCaptured) this.switchOn(pod)
  }

  peersOf(number: number): readonly CarriedPeer[] {
    const pod = this.podOf(number)
    return pod === null ? [] : carriedPeersIn(this.addon, pod.netnsFd, this.programs.mapFds['carried_sockets']!)
  }

  breakOff(number: number, peer: CarriedPeer): boolean {
    const pod = this.podOf(number)
    return pod !== null && breakOff(this.addon, pod.netnsFd, peer)
  }

  private podOf(number: number): Pod | null {
    for (const pod of this.pods.values()) if (pod.id === number) return pod
    return null
  }
}
