/** A socket inside an enrolled pod, as a data worker gets it. */

import type { PodDialing } from '../../src/agent/capture.ts'
import type { Family } from '../../src/base/address.ts'
import type { Addon } from '../../src/kernel/addon.ts'
import { socketInNetns } from '../../src/kernel/sockets.ts'

/** The caller owns the descriptor. Throws WeftError WEFT_SYSCALL, also when the pod was withdrawn in the meantime. */
export function openPodSocket(addon: Addon, dialing: PodDialing, family: Family): number {
  return socketInNetns(addon, dialing.netnsFd, dialing.netnsCookie, family, dialing.exemptMapFd)
}
