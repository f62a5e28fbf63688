/** What enrolling a pod does in the pod's netns, with failures that name the pod: finding it, listening, steering. */
import { closeSync } from 'node:fs'
import { canonicalAddress, formatAddress } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import { type Addon, hasCode, kernelError, type NetnsInterface } from '../kernel/addon.ts'
import { PORT_HBONE, PORT_INBOUND, PORT_OUTBOUND } from '../kernel/layout.generated.ts'
import { listenInNetns } from '../kernel/sockets.ts'
import { installSteering, planSteering, type SteeringPlan } from '../kernel/steering.ts'
import {
  type CapturedListener,
  type ListenerRole,
  type PodToCapture,
  ROLE_HBONE,
  ROLE_INBOUND,
  ROLE_OUTBOUND,
} from './capture.ts'

/** Listeners of a pod. */
export const ROLE_PORTS: readonly [ListenerRole, number][] = [
  [ROLE_OUTBOUND, PORT_OUTBOUND],
  [ROLE_INBOUND, PORT_INBOUND],
  [ROLE_HBONE, PORT_HBONE],
]

/** A descriptor of the pod's netns, the caller's. Throws WeftError WEFT_SYSCALL. */
export function openPodNetns(addon: Addon, { pod, displayName }: PodToCapture): number {
  try {
    return addon.openNetns(pod.netns)
  } catch (error) {
    const what = hasCode(error, 'ENOENT')
      ? `the network namespace of pod ${displayName} does not exist (any more)`
      : `the network namespace of pod ${displayName} cannot be opened`
    throw kernelError('WEFT_SYSCALL', what, error)
  }
}

/** Throws WeftError WEFT_CONFIG. */
export function planPod(addon: Addon, pod: PodToCapture, netnsFd: number): SteeringPlan {
  const addresses: string[] = []
  for (const text of pod.addresses) {
    const address = canonicalAddress(text)
    if (address === null) throw new WeftError('WEFT_CONFIG', `pod ${pod.displayName} has a bad address: ${text}`)
    addresses.push(address)
  }
  const interfaces = addon.netnsInterfaces(netnsFd)
  if (pod.isNetnsClaimed === true) refuseFalseClaim(pod, addresses, interfaces)
  return planSteering(interfaces, addresses)
}

/**
 * Anybody may write any path into an annotation, but nobody the addresses that a pod was given: without this check a pod that
 * is enrolled first, perhaps by the next agent, would have another one judged by its own policies and speak as its own.
 */
function refuseFalseClaim(
  { pod, displayName }: PodToCapture,
  addresses: readonly string[],
  interfaces: readonly NetnsInterface[],
): void {
  if (interfaces.some(({ address }) => address !== null && addresses.includes(formatAddress(address)))) return
  const none =
    addresses.length === 0 ? 'the pod has no address' : `none of its addresses (${addresses.join(', ')}) is there`
  throw new WeftError(
    'WEFT_CONFIG',
    `the network namespace ${pod.netns} that pod ${displayName} claims by its annotation weft.dev/netns is not its own: ${none}`,
  )
}

/** Throws WeftError WEFT_SYSCALL. */
export function steerPod(addon: Addon, displayName: string, netnsFd: number, plan: SteeringPlan): void {
  try {
    installSteering(addon, netnsFd, plan)
  } catch (error) {
    const what = hasCode(error, 'ENETDOWN')
      ? `an interface of pod ${displayName} is down (lo must be up as well)`
      : `the steering routes of pod ${displayName} cannot be set`
    throw kernelError('WEFT_SYSCALL', what, error)
  }
}

/** Every listener of a pod, one per data worker; `undo` gets what closes them. Throws WeftError WEFT_SYSCALL. */
export function openListeners(
  addon: Addon,
  netnsFd: number,
  displayName: string,
  workerCount: number,
  undo: (() => void)[],
): CapturedListener[] {
  return ROLE_PORTS.map(([role, port]) => {
    const fds: number[] = []
    for (let worker = 0; worker < workerCount; worker++) {
      const fd = listenInNetns(addon, netnsFd, port, displayName)
      undo.push(() => closeSync(fd))
      fds.push(fd)
    }
    return { role, fds, address: '::', port }
  })
}

/** Of this process. */
const OWN_NETNS = '/proc/thread-self/ns/net'

/**
 * The cookie of the node's own netns, which is no pod's: this process's unless `path` says otherwise. Throws WeftError
 * WEFT_UNSUPPORTED.
 */
export function nodeNetnsCookie(addon: Addon, path: string = OWN_NETNS): bigint {
  try {
    const fd = addon.openNetns(path)
    try {
      return addon.netnsCookie(fd)
    } finally {
      closeSync(fd)
    }
  } catch (error) {
    const what = `the node's network namespace ${path} cannot be looked at; Linux 5.17 or newer is needed, and in a pod hostPID`
    throw kernelError('WEFT_UNSUPPORTED', what, error)
  }
}
