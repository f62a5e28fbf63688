/**
 * The addresses of a test cluster. They are the same in every cluster, because each has networks of its own; only the
 * link to the host differs, which is where all of them meet.
 *
 *      host 198.19.N.1 ---- weftc<N> ---- 198.19.N.2  control-plane (router, API server, DNS)
 *                                         198.18.0.1 |
 *                        fabric: ---------+----------+---------+
 *                            198.18.0.11 |         198.18.0.12 |
 *                                  node1 |               node2 |
 *                  pods 198.18.17.0/24 __|   198.18.18.0/24 ___|
 */

/** An address of each family. */
export interface DualAddress {
  readonly ipv4: string
  readonly ipv6: string
}

export const FABRIC_PREFIX = { ipv4: 24, ipv6: 64 } as const

/** The control plane's, at the fabric: the API server is the nodes' there, and so is DNS. */
export const CONTROL_PLANE_ADDRESS: DualAddress = { ipv4: '198.18.0.1', ipv6: 'fd78::1' }

/** `kubernetes.default` gets the first of the first. */
export const SERVICE_RANGES: DualAddress = { ipv4: '198.18.240.0/20', ipv6: 'fd78:0:0:f0::/112' }
export const API_SERVICE_ADDRESS = '198.18.240.1'
export const DNS_SERVICE_ADDRESS: DualAddress = { ipv4: '198.18.240.10', ipv6: 'fd78:0:0:f0::a' }

/** All pods, of all nodes. */
export const POD_RANGES: DualAddress = { ipv4: '198.18.16.0/20', ipv6: 'fd78:0:0:10::/60' }

export const API_PORT = 6443

/** Nodes are numbered from 1; the pod ranges have room for 15. */
export const NODES_MAX = 15

export function nodeAddress(number: number): DualAddress {
  return { ipv4: `198.18.0.${10 + number}`, ipv6: `fd78::${(16 + number).toString(16)}` }
}

/** Pods of one node. */
export function podRanges(number: number): DualAddress {
  return { ipv4: `198.18.${16 + number}.0/24`, ipv6: `fd78:0:0:${(16 + number).toString(16)}::/64` }
}

/** The link between the host and a cluster; `number` is the first that was free. */
export function hostLink(number: number): { interface: string; host: DualAddress; cluster: DualAddress } {
  const third = (256 + number).toString(16)
  return {
    interface: `weftc${number}`,
    host: { ipv4: `198.19.${number}.1`, ipv6: `fd78:0:1:${third}::1` },
    cluster: { ipv4: `198.19.${number}.2`, ipv6: `fd78:0:1:${third}::2` },
  }
}

/** Links are numbered from 0; the third byte of an address. */
export const HOST_LINKS_MAX = 256
