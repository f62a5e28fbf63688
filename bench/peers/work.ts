/**
 * The work that every proxy of the bench does for a request, so that all of them do the same: read it, choose one of
 * sixteen routes by host and path, add two headers, count it, forward it over kept connections, give up after fifteen
 * seconds, and try again twice when the connection fails.
 */

/** Where a program listens or connects to. */
export interface Address {
  readonly host: string
  readonly port: number
}

/** Which way the bytes take, and which protocol the client speaks. */
export type Topology = 'http' | 'http2' | 'grpc' | 'http-pair' | 'tcp-pair'

/** Where the parts of one measured system are. */
export interface Site {
  readonly topology: Topology
  /** The client's side. */
  readonly listen: Address
  /** Between the two proxies of a pair: mutual TLS. */
  readonly middle: Address
  readonly upstream: Address
  /** For files of this system alone. */
  readonly directory: string
  readonly certificates: Certificates
}

/** Paths of PEM files; both leaves name a SPIFFE identity and a DNS name. */
export interface Certificates {
  readonly root: string
  readonly client: Leaf
  readonly server: Leaf
}

export interface Leaf {
  readonly certificate: string
  readonly key: string
  readonly identity: string
}

export const SERVER_NAME = 'server.bench.internal'

export const BENCH_HOST = 'web.bench.svc.cluster.local'

export const ROUTE_COUNT = 16

/** Prefix of the n-th route. */
export function routePrefix(index: number): string {
  return `/service-${String(index).padStart(2, '0')}/`
}

/** The route that the load takes: in the middle, for proxies that walk their list. */
export const LOAD_PATH = `${routePrefix(ROUTE_COUNT / 2)}item?id=7`

export const ADDED_HEADERS: readonly (readonly [string, string])[] = [
  ['x-mesh-route', 'reviews-v2'],
  ['x-mesh-source', 'frontend.shop'],
]

export const ROUTE_TIMEOUT_MS = 15_000

export const RETRIES = 2

export function formatAddress({ host, port }: Address): string {
  return `${host}:${port}`
}
