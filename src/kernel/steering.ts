/**
 * Steering routes: in a pod's netns, packets with the steering mark are delivered locally, where the sk_lookup program
 * hands them to the agent. One rule and one local default route per family; besides the route over lo, one over each
 * other interface, because a socket bound to an interface (SO_BINDTODEVICE) finds only routes over it.
 *
 * The routes must stay as long as a steered connection is open: without them its packets would leave the pod.
 */
import {
  FAMILY_IPV4,
  FAMILY_IPV6,
  type Family,
  familyOf,
  formatAddress,
  isLoopback,
  parseAddress,
} from '../base/address.ts'
import { type Addon, hasCode, type NetnsInterface } from './addon.ts'
import { POD_INTERFACES_MAX, STEER_MARK, STEER_RULE_PRIORITY, STEER_TABLE } from './layout.generated.ts'
import {
  addRule,
  askRoute,
  deleteRoute,
  deleteRule,
  dumpMarkedSockets,
  isLocalRoute,
  type LocalRoute,
  NETLINK_ROUTE,
  NETLINK_SOCK_DIAG,
  type Rule,
  replaceRoute,
} from './netlink.ts'

/** The loopback interface has index 1 in every netns. */
const LOOPBACK_INDEX = 1

/** What a pod's netns looks like, as far as steering goes. */
export interface SteeringPlan {
  /** Canonical addresses that are local in the netns, loopback left out. */
  readonly ownAddresses: readonly string[]
  /** Interfaces other than lo to which sockets may be bound. */
  readonly interfaces: readonly number[]
  readonly isSteeringIpv4: boolean
  readonly isSteeringIpv6: boolean
  readonly routes: readonly LocalRoute[]
  readonly rules: readonly Rule[]
}

/**
 * Plans the steering of a netns with these interfaces. `podAddresses` (canonical) come first as sources; a family
 * without an address is not steered. Pure.
 */
export function planSteering(found: readonly NetnsInterface[], podAddresses: readonly string[]): SteeringPlan {
  const ownAddresses = new Set(podAddresses)
  const present = new Set<string>()
  const interfaces: number[] = []
  for (const { index, address: bytes } of found) {
    if (index !== LOOPBACK_INDEX && index !== 0 && !interfaces.includes(index)) interfaces.push(index)
    if (bytes === null) continue
    const address = formatAddress(bytes)
    if (isLoopback(address)) continue
    present.add(address)
    ownAddresses.add(address)
  }
  interfaces.splice(POD_INTERFACES_MAX)
  const ipv4 = sourceOf([...ownAddresses], present, FAMILY_IPV4)
  const ipv6 = sourceOf([...ownAddresses], present, FAMILY_IPV6)
  return {
    ownAddresses: [...ownAddresses],
    interfaces,
    isSteeringIpv4: ipv4 !== null,
    isSteeringIpv6: ipv6 !== null,
    routes: [...routesOf(FAMILY_IPV4, ipv4, interfaces), ...routesOf(FAMILY_IPV6, ipv6, interfaces)],
    rules: [...(ipv4 === null ? [] : [ruleOf(FAMILY_IPV4)]), ...(ipv6 === null ? [] : [ruleOf(FAMILY_IPV6)])],
  }
}

/** The interfaces of a netns by which something can be sent now, with their addresses. */
export function upInterfaces(addon: Addon, netnsFd: number): NetnsInterface[] {
  return addon.netnsInterfaces(netnsFd).filter(({ isUp }) => isUp)
}

/** Sets routes, then rules; doing it twice changes nothing. Throws the system call's error. */
export function installSteering(addon: Addon, netnsFd: number, plan: SteeringPlan): void {
  for (const route of plan.routes) addon.netlinkInNetns(netnsFd, NETLINK_ROUTE, replaceRoute(route))
  for (const rule of plan.rules) {
    try {
      addon.netlinkInNetns(netnsFd, NETLINK_ROUTE, addRule(rule))
    } catch (error) {
      if (!hasCode(error, 'EEXIST')) throw error
    }
  }
}

/** Of no pod: the blocks that are reserved for documentation (RFC 5737, RFC 3849). */
const ELSEWHERE: Readonly<Record<Family, Uint8Array>> = {
  [FAMILY_IPV4]: parseAddress('198.51.100.1')!,
  [FAMILY_IPV6]: parseAddress('2001:db8::1')!,
}

/**
 * What is wrong with the steering of a netns, a sentence each. Asks the kernel which route marked packets would take, and
 * so sees a route or a rule that is missing as well as a rule of somebody else that comes before ours.
 */
export function steeringFaults(addon: Addon, netnsFd: number, plan: SteeringPlan): string[] {
  const faults: string[] = []
  for (const route of plan.routes) {
    // In a table of our own the source is ours, too.
    if (isRouted(addon, netnsFd, { ...route, source: null }, ELSEWHERE[route.family], STEER_MARK)) continue
    faults.push(`${packetsOf(route)} are not steered to the agent`)
  }
  return faults
}

/** The packets that a route is for, for people. */
export function packetsOf({ family, interfaceIndex }: LocalRoute): string {
  const bound = interfaceIndex === LOOPBACK_INDEX ? '' : ` of sockets bound to interface ${interfaceIndex}`
  return `${family === FAMILY_IPV4 ? 'IPv4' : 'IPv6'} packets${bound}`
}

/**
 * True when packets to `destination` with that mark take the route: from sockets that are bound to its interface, or, if
 * that is lo, from those that are not bound. A source is compared when given. Throws the system call's error.
 */
export function isRouted(
  addon: Addon,
  netnsFd: number,
  route: Pick<LocalRoute, 'family' | 'table' | 'interfaceIndex'> & { readonly source: Uint8Array | null },
  destination: Uint8Array,
  mark: number,
): boolean {
  const { family, table, interfaceIndex, source } = route
  const question = { family, destination, mark, interfaceIndex: interfaceIndex === LOOPBACK_INDEX ? 0 : interfaceIndex }
  try {
    const answer = addon.netlinkInNetns(netnsFd, NETLINK_ROUTE, askRoute(question))
    return isLocalRoute(answer, table, interfaceIndex, source)
  } catch (error) {
    if (hasCode(error, 'ENETUNREACH') || hasCode(error, 'EHOSTUNREACH') || hasCode(error, 'ENODEV')) return false
    throw error
  }
}

/** Removes rules and routes; what is not there any more is no failure. */
export function removeSteering(addon: Addon, netnsFd: number, plan: SteeringPlan): void {
  const requests = [...plan.rules.map(deleteRule), ...plan.routes.map(deleteRoute)]
  for (const request of requests) {
    try {
      addon.netlinkInNetns(netnsFd, NETLINK_ROUTE, request)
    } catch (error) {
      // The last one: with its interface a route is gone.
      if (!['ENOENT', 'ESRCH', 'ENODEV'].some((code) => hasCode(error, code))) throw error
    }
  }
}

/** True while a socket in the netns carries the steering mark: its connection needs the routes. */
export function hasSteeredSockets(addon: Addon, netnsFd: number): boolean {
  for (const family of [FAMILY_IPV4, FAMILY_IPV6] as const) {
    const answer = addon.netlinkInNetns(netnsFd, NETLINK_SOCK_DIAG, dumpMarkedSockets(family, STEER_MARK))
    if (answer.length > 0) return true
  }
  return false
}

/** The first address of `family` that is routed and present; link-local ones are no source for steered connections. */
function sourceOf(addresses: readonly string[], present: ReadonlySet<string>, family: Family): Uint8Array | null {
  const source = addresses.find(
    (address) => familyOf(address) === family && present.has(address) && !/^fe[89ab]/.test(address),
  )
  return source === undefined ? null : parseAddress(source)
}

function routesOf(family: Family, source: Uint8Array | null, interfaces: readonly number[]): LocalRoute[] {
  if (source === null) return []
  // lo has the best metric, so that unbound sockets always take it: sk_lookup knows steered packets by it.
  return [LOOPBACK_INDEX, ...interfaces].map((interfaceIndex, i) => ({
    family,
    table: STEER_TABLE,
    interfaceIndex,
    metric: i + 1,
    source,
  }))
}

function ruleOf(family: Family): Rule {
  return { family, mark: STEER_MARK, table: STEER_TABLE, priority: STEER_RULE_PRIORITY }
}
