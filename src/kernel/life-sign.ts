/**
 * The calling thread's sign of life, which the kernel takes away the moment the thread dies (native/addon/life_sign.cc):
 * programs in the kernel must not wait for heartbeats that stop coming, nor for sockets that are closed late.
 */
import { type Addon, kernelError } from './addon.ts'
import { encodeSlot } from './maps.ts'

/** Nobody has said anything in a slot: then heartbeats alone count. */
const NOT_SAID = new Uint8Array(4)

/**
 * The calling thread works in that slot of the map from now on. Throws WeftError WEFT_SYSCALL when the kernel cannot watch
 * it; then nothing is said there, whatever an earlier thread had said.
 */
export function giveLifeSign(addon: Addon, mapFd: number, slot: number): void {
  try {
    addon.giveLifeSign(mapFd, slot)
  } catch (error) {
    addon.mapUpdate(mapFd, encodeSlot(slot), NOT_SAID)
    throw kernelError('WEFT_SYSCALL', `the kernel cannot tell at once when the thread in slot ${slot} dies`, error)
  }
}
