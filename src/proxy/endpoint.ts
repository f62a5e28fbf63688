// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * One address of a cluster with its live counters. It lives as long as the cluster has that address, across snapshots,
 * so that balancing and ejection remember; who holds one that was removed can go on using it.
 */
import type { Workload } from '../model/workload.ts'

/** Who is told how tries at an endpoint went (outlier.ts). */
export interface EndpointObserver {
  onSuccess(endpoint: Endpoint, nowMs: number): void
  onFailure(endpoint: Endpoint, isGatewayError: boolean, nowMs: number): void
}

/** One address in a cluster, with what this worker knows of it. */
export class Endpoint {
  /** `uid@address:port`. */
  readonly key: string
  readonly address: string
  /** Target port. */
  readonly port: number
  /** The workload in its newest version. */
  workload: Workload
  /** Share among the endpoints of the cluster. */
  weight: number
  /** Exchanges or connections now with this endpoint, of this worker. */
  requestsActive: number
  /** Left out of balancing for some time. */
  isEjected: boolean
  /** The cluster has it no more: what is open to it is not kept for another exchange. */
  isRemoved: boolean

  // --- of outlier.ts ---
  observer: EndpointObserver | null
  consecutive5xx: number
  consecutiveGatewayErrors: number
  /** Multiplies the ejection time; falls again while the endpoint behaves. */
  ejectionCount: number
  ejectedAtMs: number

  // --- of picker.ts ---
  /** Smooth weighted round robin: the endpoint's credit. */
  credit: number

  constructor(key: string, workload: Workload, address: string, port: number) {
    this.key = key
    this.address = address
    this.port = port
    this.workload = workload
    this.weight = workload.capacity
    this.requestsActive = 0
    this.isEjected = false
    this.isRemoved = false
    this.observer = null
    this.consecutive5xx = 0
    this.consecutiveGatewayErrors = 0
    this.ejectionCount = 0
    this.ejectedAtMs = 0
    this.credit = 0
  }

  /** A try begins. Each has exactly one `onRequestEnd`. */
  onRequestStart(): void {
    this.requestsActive++
  }

  onRequestEnd(): void {
    this.requestsActive--
  }

  /** A try was answered without a 5xx; for TCP: the connection was made. */
  onSuccess(nowMs: number): void {
    if (this.observer !== null) this.observer.onSuccess(this, nowMs)
  }

  /** A try failed with a 5xx or without an answer. 502, 503, 504 and no answer are gateway errors. */
  onFailure(isGatewayError: boolean, nowMs: number): void {
    if (this.observer !== null) this.observer.onFailure(this, isGatewayError, nowMs)
  }
}
