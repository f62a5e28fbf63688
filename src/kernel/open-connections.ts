/**
 * The TCP connections of a netns with anybody outside of it, by sock_diag: what a pod had made before it was captured goes
 * on past the mesh, because a connection cannot be steered once it is made.
 */
import { FAMILY_IPV4, FAMILY_IPV6, formatAddress, isLoopback } from '../base/address.ts'
import type { Addon } from './addon.ts'
import { dumpConnections, NETLINK_SOCK_DIAG, remoteAddresses } from './netlink.ts'

/** How many there are. Throws the system call's error, on kernels without sock_diag too. */
export function countConnections(addon: Addon, netnsFd: number, ownAddresses: readonly string[]): number {
  const own = new Set(ownAddresses)
  let count = 0
  for (const family of [FAMILY_IPV4, FAMILY_IPV6] as const) {
    const answer = addon.netlinkInNetns(netnsFd, NETLINK_SOCK_DIAG, dumpConnections(family))
    for (const bytes of remoteAddresses(answer)) {
      const address = formatAddress(bytes)
      if (!isLoopback(address) && !own.has(address)) count++
    }
  }
  return count
}
