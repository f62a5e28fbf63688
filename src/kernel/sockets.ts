/**
 * Sockets inside pod netns, with failures that name the pod.
 */
import { FAMILY_IPV4, FAMILY_IPV6, type Family } from '../base/address.ts'
import { type Addon, hasCode, kernelError } from './addon.ts'

/** Connections that may wait to be accepted, per listener. 4096 is the kernel's own ceiling (net.core.somaxconn). */
const BACKLOG = 4096

/**
 * Listens on `port` of both families in the netns. Where the kernel has no IPv6 at all, on IPv4 only.
 * Throws WeftError WEFT_SYSCALL naming `podName`.
 */
export function listenInNetns(addon: Addon, netnsFd: number, port: number, podName: string): number {
  try {
    return addon.listenInNetns(netnsFd, FAMILY_IPV6, port, BACKLOG)
  } catch (error) {
    if (!hasCode(error, 'EAFNOSUPPORT')) throw listenError(port, podName, error)
  }
  try {
    return addon.listenInNetns(netnsFd, FAMILY_IPV4, port, BACKLOG)
  } catch (error) {
    throw listenError(port, podName, error)
  }
}

/**
 * An unconnected, non-blocking socket in the netns that the capture lets by. The caller owns the descriptor.
 * `netnsCookie` guards against a descriptor number that now belongs to another pod. Throws WeftError WEFT_SYSCALL.
 */
export function socketInNetns(
  addon: Addon,
  netnsFd: number,
  netnsCookie: bigint,
  family: Family,
  exemptMapFd: number,
): number {
  try {
    return addon.socketInNetns(netnsFd, netnsCookie, family, exemptMapFd)
  } catch (error) {
    const isGone = hasCode(error, 'ESTALE') || hasCode(error, 'EBADF') || hasCode(error, 'EINVAL')
    const what = isGone ? 'the pod to dial from is not enrolled any more' : 'a socket in a pod cannot be opened'
    throw kernelError('WEFT_SYSCALL', what, error)
  }
}

function listenError(port: number, podName: string, error: unknown): Error {
  const what = hasCode(error, 'EADDRINUSE')
    ? `port ${port} of pod ${podName} is in use by the pod, but Weft needs it; the pod must use another port`
    : `port ${port} of pod ${podName} cannot be listened on`
  return kernelError('WEFT_SYSCALL', what, error)
}
