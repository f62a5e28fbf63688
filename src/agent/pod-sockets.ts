/** Opens sockets inside the pods of this node, for a data worker (the fast side of the capture). */
import { familyOf } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import type { Addon } from '../kernel/addon.ts'
import { socketInNetns } from '../kernel/sockets.ts'
import type { PodSockets } from '../proxy/parts.ts'
import type { ConnectOrigin } from '../transport/conn.ts'
import type { CapturedPod, PodDialing } from './capture.ts'

/** The pods of one data worker, by uid. Descriptors are the capture's; sockets made here are the caller's. */
export class PodSocketTable implements PodSockets {
  private readonly pods = new Map<string, PodDialing>()
  private readonly load: () => Addon
  private addon: Addon | null = null

  /** `load` is called when the first pod with a netns comes: loopback capture needs no addon. */
  constructor(load: () => Addon) {
    this.load = load
  }

  add(pod: CapturedPod): void {
    this.pods.set(pod.uid, pod.dialing)
    if (pod.dialing.netnsFd >= 0) this.addon ??= this.load()
  }

  remove(uid: string): void {
    this.pods.delete(uid)
  }

  originIn(uid: string, address: string): ConnectOrigin {
    const dialing = this.pods.get(uid)
    if (dialing === undefined) throw new WeftError('WEFT_SYSCALL', `pod ${uid} is no longer enrolled on this node`)
    if (dialing.netnsFd < 0) return { fd: null, localAddress: dialing.localAddress }
    const { netnsFd, netnsCookie, exemptMapFd } = dialing
    const fd = socketInNetns(this.addon!, netnsFd, netnsCookie, familyOf(address), exemptMapFd)
    return { fd, localAddress: null }
  }

  appAddress(uid: string, podAddress: string): string {
    return this.pods.get(uid)?.appAddress ?? podAddress
  }
}
