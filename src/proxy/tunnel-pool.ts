/**
 * HBONE connections from one pod of this node to workloads elsewhere: few, shared by many exchanges.
 *
 * Keyed by the destination workload and its address; the source is fixed, because a tunnel carries the identity of the
 * pod it starts in. A new connection is made when all open ones are full, and idle ones are released.
 */
import { formatHostPort } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import type { Workload } from '../model/workload.ts'
import type { Conn, Handler } from '../transport/conn.ts'
import { writeBaggage } from './baggage.ts'
import { TunnelClient } from './hbone.ts'
import { identityOf, type LocalWorkload } from './local-pods.ts'
import type { ProxyParts } from './parts.ts'
import { FailedConn } from './failed-conn.ts'
import type { UpstreamTarget } from './upstreams.ts'

export const HBONE_PORT = 15_008

/** An unused tunnel connection is released after five minutes, like ztunnel's POOL_UNUSED_RELEASE_TIMEOUT. */
export const TUNNEL_UNUSED_MS = 300_000

/** Connections to one destination. 100 tunnels each: 3,200 concurrent streams from one pod to one pod. */
const CLIENTS_MAX = 32
