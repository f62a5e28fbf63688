/**
 * Capture of a pod's DNS in the kernel: the routes that make the loopback addresses of resolvers local in the pod's
 * netns, the sockets on which data workers are asked, and the entries of the maps. See native/bpf/include/weft/dns.h.
 *
 * The routes are made like those of steering: one over lo with the pod's own address as source, so that an app which
 * asks for its own address after connecting to a resolver still gets the pod's, and one over each other interface, for
 * sockets that are bound to it.
 */
import { FAMILY_IPV4, FAMILY_IPV6, type Family } from '../base/address.ts'
import { type Addon, hasCode, kernelError } from './addon.ts'
import { DNS_BLOCK_IPV4, DNS_BLOCK_IPV6 } from './dns-maps.ts'
import { PORT_DNS } from './layout.generated.ts'
import { deleteRoute, type LocalRoute, NETLINK_ROUTE, replaceRoute } from './netlink.ts'
import { isRouted, packetsOf, type SteeringPlan } from './steering.ts'

/** The table of addresses that are the machine's own, which is looked at first (RT_TABLE_LOCAL). */
const TABLE_LOCAL = 255

/** The routes to the loopback addresses of resolvers, derived from those of steering. Pure. */
export function planDnsRoutes(plan: SteeringPlan): LocalRoute[] {
  return plan.routes.map((route) => ({
    ...route,
    table: TABLE_LOCAL,
    destination: route.family === FAMILY_IPV4 ? DNS_BLOCK_IPV4 : DNS_BLOCK_IPV6,
  }))
}

/** Sets the routes; doing it twice changes nothing. Throws the system call's error. */
export function installDnsRoutes(addon: Addon, netnsFd: number, routes: readonly LocalRoute[]): void {
  for (const route of routes) addon.netlinkInNetns(netnsFd, NETLINK_ROUTE, replaceRoute(route))
}

/** What is wrong with the routes, a sentence each; asked of the kernel as `steeringFaults` asks. */
export function dnsRouteFaults(addon: Addon, netnsFd: number, plan: SteeringPlan): string[] {
  const faults: string[] = []
  for (const route of planDnsRoutes(plan)) {
    // Without ours another one may be taken (127.0.0.0/8 is local anyway), with a source that is not the pod's.
    const resolver = route.destination!.address.slice()
    resolver[resolver.length - 1]! += 1
    if (isRouted(addon, netnsFd, route, resolver, 0)) continue
    faults.push(`${packetsOf(route)} with questions to resolvers do not reach the agent as they should`)
  }
  return faults
}

/** Removes them; what is not there any more is no failure. */
export function removeDnsRoutes(addon: Addon, netnsFd: number, routes: readonly LocalRoute[]): void {
  for (const route of routes) {
    try {
      addon.netlinkInNetns(netnsFd, NETLINK_ROUTE, deleteRoute(route))
    } catch (error) {
      if (!hasCode(error, 'ESRCH') && !hasCode(error, 'ENODEV')) throw error
    }
  }
}

/** A pod's netns as sockets in it are made. */
export interface DnsNetns {
  readonly netnsFd: number
  readonly netnsCookie: bigint
  readonly exemptMapFd: number
}

/**
 * A UDP socket on the agent's DNS port of the netns, for both families where the kernel has both; one per data worker.
 * Throws WeftError WEFT_SYSCALL naming `podName`.
 */
export function openDnsSocket(addon: Addon, netns: DnsNetns, podName: string): number {
  try {
    return openDatagram(addon, netns, FAMILY_IPV6, PORT_DNS)
  } catch (error) {
    if (!hasCode(error, 'EAFNOSUPPORT')) throw socketError(podName, error)
  }
  try {
    return openDatagram(addon, netns, FAMILY_IPV4, PORT_DNS)
  } catch (error) {
    throw socketError(podName, error)
  }
}

/** An unbound UDP socket in the netns that the capture lets by; the caller owns it. Throws WeftError WEFT_SYSCALL. */
export function openResolverSocket(addon: Addon, netns: DnsNetns, family: Family): number {
  try {
    return openDatagram(addon, netns, family, 0)
  } catch (error) {
    throw kernelError('WEFT_SYSCALL', "a socket to ask a pod's resolver cannot be opened", error)
  }
}

function openDatagram(addon: Addon, netns: DnsNetns, family: Family, port: number): number {
  return addon.datagramInNetns(netns.netnsFd, netns.netnsCookie, family, port, netns.exemptMapFd)
}

function socketError(podName: string, error: unknown): Error {
  const what = hasCode(error, 'EADDRINUSE')
    ? `UDP port ${PORT_DNS} of pod ${podName} is in use by the pod, but Weft needs it to answer DNS there`
    : `UDP port ${PORT_DNS} of pod ${podName} cannot be opened`
  return kernelError('WEFT_SYSCALL', what, error)
}
