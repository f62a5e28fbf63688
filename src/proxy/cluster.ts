// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Step 5 of the data path, the choice of an endpoint: what one worker knows and counts about one cluster. The slow half
 * (`update`, ejections) rebuilds the picker; the fast half (`pick`, `tryAcquire...`) only reads and counts.
 *
 * Limits and counters are those of one worker, which gets its share of what the user allows the whole proxy. They say
 * how much may be in flight, and refuse beyond it (response flag UO); every successful `tryAcquireX` has exactly one `releaseX`.
 */
import { assert } from '../base/assert.ts'
import { membershipOf, NO_PLACE, type Place, usableEndpoints } from '../model/endpoints.ts'
import type { Cluster, PoolLimits, Service } from '../model/service.ts'
import type { Workload } from '../model/workload.ts'
import { Affinity } from './affinity.ts'
import { Endpoint } from './endpoint.ts'
import { isSameDetection, OutlierDetector, type OutlierOwner } from './outlier.ts'
import { createPicker, type Picker } from './picker.ts'
import { isSameLimits, limitsPerWorker } from './pool-limits.ts'

export { Endpoint } from './endpoint.ts'

/** Endpoints, limits and health of one cluster as this worker sees them. */
export class ClusterState implements OutlierOwner {
  readonly key: string
  /** The settings now in force. */
  cluster: Cluster
  /** This worker's share; the same object while the settings say the same. */
  limits: PoolLimits
  /** In a stable order; healthy ones of the subset only. */
  endpoints: readonly Endpoint[]
  outlier: OutlierDetector | null
  /** Null where clients go anywhere. */
  affinity: Affinity | null

  // --- in flight, and refused because of a limit ---
  requestsActive: number
  requestsOverflow: number
  pendingActive: number
  pendingOverflow: number
  /** Gave up waiting for a connection. */
  pendingTimedOut: number
  retriesActive: number
  retriesOverflow: number
  connectionsActive: number
  connectionsOverflow: number

  private readonly clock: () => number
  private readonly random: () => number
  private readonly workerCount: number
  private picker: Picker
  /** Those that the picker has. */
  private usable: readonly Endpoint[]
  private readonly byKey: Map<string, Endpoint>

  /**
   * `clock` gives milliseconds and never goes back; `random` gives [0, 1). `workerCount` workers share the limits.
   * Without endpoints until `update`.
   */
  constructor(cluster: Cluster, clock: () => number, random: () => number, workerCount = 1) {
    this.key = cluster.key
    this.cluster = cluster
    this.limits = limitsPerWorker(cluster.limits, workerCount)
    this.endpoints = []
    this.outlier = null
    this.affinity = null
    this.requestsActive = 0
    this.requestsOverflow = 0
    this.pendingActive = 0
    this.pendingOverflow = 0
    this.pendingTimedOut = 0
    this.retriesActive = 0
    this.retriesOverflow = 0
    this.connectionsActive = 0
    this.connectionsOverflow = 0
    this.clock = clock
    this.random = random
    this.workerCount = workerCount
    this.picker = createPicker(cluster.balance, [], random)
    this.usable = []
    this.byKey = new Map()
  }

  /** False sends plaintext even to enrolled workloads. */
  get isMutualTls(): boolean {
    return this.cluster.isMutualTls
  }

  get endpointCount(): number {
    return this.endpoints.length
  }

  /**
   * Takes new settings and endpoints. `workloads` are those of the whole service; subset, health, ports and what is meant
   * for clients at `place` are sorted out here. Endpoints that stay keep their counters; `service` null leaves only ports
   * that workloads map themselves.
   */
  update(cluster: Cluster, service: Service | null, workloads: readonly Workload[], place: Place = NO_PLACE): void {
    assert(cluster.key === this.key, 'a cluster state serves one key')
    const isOutlierNew = this.outlier === null || !isSameDetection(this.cluster.outlier, cluster.outlier)
    if (!isSameLimits(this.cluster.limits, cluster.limits)) {
      this.limits = limitsPerWorker(cluster.limits, this.workerCount)
    }
    this.cluster = cluster
    if (isOutlierNew) this.outlier = cluster.outlier === null ? null : new OutlierDetector(cluster.outlier, this)
    this.setAffinity(service?.affinityMs ?? 0)
    const members = cluster.members === null ? null : new Set(cluster.members)
    const candidates = members === null ? workloads : workloads.filter(({ uid }) => members.has(uid))
    const endpoints: Endpoint[] = []
    for (const workload of usableEndpoints(cluster.service, service, candidates, place)) {
      const endpoint = this.endpointOf(cluster, service, workload)
      if (endpoint !== null) endpoints.push(endpoint)
    }
    for (const endpoint of this.endpoints) {
      endpoint.observer = null
      endpoint.isRemoved = true
    }
    this.byKey.clear()
    for (const endpoint of endpoints) {
      endpoint.isRemoved = false
      this.byKey.set(endpoint.key, endpoint)
      endpoint.observer = this.outlier
      if (isOutlierNew) forgive(endpoint)
    }
    this.endpoints = endpoints
    this.rebuild()
  }

  /**
   * The endpoint for the next try; null when there is none (flag UH). `tried` ones are avoided while others exist. `client`
   * is the uid of the pod that asks.
   */
  pick(tried: readonly Endpoint[] | null, client = ''): Endpoint | null {
    const { outlier } = this
    if (outlier?.isArmed === true) outlier.sweep(this.clock())
    if (this.affinity !== null && client !== '') {
      return this.affinity.pick(client, this.usable, tried, this.clock())
    }
    return this.picker.pick(tried)
  }

  onEjectionsChanged(): void {
    this.rebuild()
  }

  // --- circuit breaking ---

  /** A place for an exchange (`http2MaxRequests`). */
  tryAcquireRequest(): boolean {
    const { requestsMax } = this.limits
    if (requestsMax !== null && this.requestsActive >= requestsMax) {
      this.requestsOverflow++
      return false
    }
    this.requestsActive++
    return true
  }

  releaseRequest(): void {
    this.requestsActive--
  }

  /** A place in the queue for a connection (`http1MaxPendingRequests`). */
  tryAcquirePending(): boolean {
    const { pendingRequestsMax } = this.limits
    if (pendingRequestsMax !== null && this.pendingActive >= pendingRequestsMax) {
      this.pendingOverflow++
      return false
    }
    this.pendingActive++
    return true
  }

  releasePending(): void {
    this.pendingActive--
  }

  /** The retry budget (`maxRetries`): retries that may be under way at once. */
  tryAcquireRetry(): boolean {
    const { retriesMax } = this.limits
    if (retriesMax !== null && this.retriesActive >= retriesMax) {
      this.retriesOverflow++
      return false
    }
    this.retriesActive++
    return true
  }

  releaseRetry(): void {
    this.retriesActive--
  }

  /** A connection (`maxConnections`). */
  tryAcquireConnection(): boolean {
    const { connectionsMax } = this.limits
    if (connectionsMax !== null && this.connectionsActive >= connectionsMax) {
      this.connectionsOverflow++
      return false
    }
    this.connectionsActive++
    return true
  }

  releaseConnection(): void {
    this.connectionsActive--
  }

  // --- slow side ---

  private endpointOf(cluster: Cluster, service: Service | null, workload: Workload): Endpoint | null {
    const address = workload.addresses[0]
    const port = targetPortOf(cluster, service, workload)
    if (address === undefined || port === 0) return null
    const key = `${workload.uid}@${address}:${port}`
    const endpoint = this.byKey.get(key)
    if (endpoint === undefined) return new Endpoint(key, workload, address, port)
    endpoint.workload = workload
    endpoint.weight = workload.capacity
    return endpoint
  }

  /** Ejected endpoints are left out, unless so many are out that all are better than the rest (panic). */
  private rebuild(): void {
    const { endpoints, cluster } = this
    const usable = endpoints.filter((endpoint) => !endpoint.isEjected)
    const isPanic = usable.length * 100 < (cluster.outlier?.healthPercentMin ?? 0) * endpoints.length
    this.usable = isPanic ? endpoints : usable
    this.picker = createPicker(cluster.balance, this.usable, this.random)
    if (this.affinity !== null) this.affinity.sweep(this.clock())
  }

  private setAffinity(timeoutMs: number): void {
    if (timeoutMs === 0) this.affinity = null
    else if (this.affinity === null) this.affinity = new Affinity(timeoutMs)
    else this.affinity.timeoutMs = timeoutMs
  }
}

/** The workload's own mapping wins over the service's target port; 0 when neither knows the port. */
function targetPortOf(cluster: Cluster, service: Service | null, workload: Workload): number {
  for (const mapping of membershipOf(workload, cluster.service)?.ports ?? []) {
    if (mapping.servicePort === cluster.port) return mapping.targetPort
  }
  return service?.ports.find((port) => port.number === cluster.port)?.targetPort ?? 0
}

/** Other rules of ejection: what was counted under the old ones does not hold. */
function forgive(endpoint: Endpoint): void {
  endpoint.isEjected = false
  endpoint.ejectionCount = 0
  endpoint.consecutive5xx = 0
  endpoint.consecutiveGatewayErrors = 0
}
