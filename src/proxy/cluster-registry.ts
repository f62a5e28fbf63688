/**
 * The clusters that one worker has to do with, with their state kept across snapshots.
 *
 * A state belongs to a `Cluster` object. Two scopes may have clusters of one key with different settings: these are two
 * states. When a snapshot brings a new object for a key, it takes over the state of an object that is gone, at best one
 * with equal settings, so that counters, ejections and connections survive a change of configuration.
 */
import { NO_PLACE, type Place, placeOf } from '../model/endpoints.ts'
import { BALANCE_LEAST_REQUEST, type Cluster, clusterKey, DEFAULT_POOL_LIMITS, type Service } from '../model/service.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { Workload } from '../model/workload.ts'
import { ClusterState } from './cluster.ts'
import { isSameDetection } from './outlier.ts'
import { isSameLimits } from './pool-limits.ts'

/** A state and what it was last updated from. */
class Entry {
  readonly state: ClusterState
  cluster: Cluster
  snapshot: Snapshot | null
  service: Service | null
  workloads: readonly Workload[] | null
  place: Place | null

  constructor(cluster: Cluster, state: ClusterState) {
    this.state = state
    this.cluster = cluster
    this.snapshot = null
    this.service = null
    this.workloads = null
    this.place = null
  }
}

/** The clusters of one worker by key, in step with the newest snapshot. */
export class ClusterRegistry {
  private readonly clock: () => number
  private readonly random: () => number
  private readonly workerCount: number
  private readonly entries: Map<Cluster, Entry>
  private readonly byKey: Map<string, Entry[]>
  /** Default clusters by service and port. Weak: they go with their service. */
  private readonly defaults: WeakMap<Service, Map<number, Cluster>>
  /** Cluster objects of `liveSnapshot`; made when first asked for. */
  private live: ReadonlySet<Cluster>
  private liveSnapshot: Snapshot | null
  /** The same object as long as it says the same. */
  private place: Place
  private placeSnapshot: Snapshot | null

  /** `clock` gives milliseconds and never goes back; `random` gives [0, 1). `workerCount` workers share the limits. */
  constructor(clock: () => number, random: () => number, workerCount = 1) {
    this.clock = clock
    this.random = random
    this.workerCount = workerCount
    this.entries = new Map()
    this.byKey = new Map()
    this.defaults = new WeakMap()
    this.live = new Set()
    this.liveSnapshot = null
    this.place = NO_PLACE
    this.placeSnapshot = null
  }

  /** The state of `cluster` under `snapshot`. One look-up when nothing has changed since it was last asked for. */
  get(cluster: Cluster, snapshot: Snapshot): ClusterState {
    const entry = this.entries.get(cluster)
    if (entry !== undefined && entry.snapshot === snapshot) return entry.state
    return this.refresh(cluster, snapshot, entry ?? null)
  }

  /** The cluster of a service port that no traffic rule says anything about. The same object for the same service. */
  defaultCluster(service: Service, port: number): Cluster {
    let byPort = this.defaults.get(service)
    if (byPort === undefined) {
      byPort = new Map()
      this.defaults.set(service, byPort)
    }
    let cluster = byPort.get(port)
    if (cluster === undefined) {
      cluster = makeDefaultCluster(service, port)
      byPort.set(port, cluster)
    }
    return cluster
  }

  /** Every state, for the admin port. */
  states(): ClusterState[] {
    return Array.from(this.entries.values(), (entry) => entry.state)
  }

  /** Forgets the clusters that `snapshot` has no more. Who still uses one of them can go on doing so. */
  sweep(snapshot: Snapshot): void {
    for (const entry of this.entries.values()) if (!this.isLive(entry.cluster, snapshot)) this.drop(entry)
  }

  private refresh(cluster: Cluster, snapshot: Snapshot, known: Entry | null): ClusterState {
    const entry = known ?? this.adopt(cluster, snapshot) ?? this.add(cluster)
    // A connection that keeps an old snapshot must not turn the clock back for the others.
    if (entry.snapshot !== null && snapshot.version < entry.snapshot.version) return entry.state
    const service = snapshot.services.get(cluster.service) ?? null
    const workloads = snapshot.endpointsOf(cluster.service)
    // `workloads` of a new entry is null, which no list is.
    const place = this.placeIn(snapshot)
    const isSame = entry.service === service && entry.workloads === workloads && entry.place === place
    if (entry.cluster !== cluster || !isSame) entry.state.update(cluster, service, workloads, place)
    if (entry.cluster !== cluster) {
      this.entries.delete(entry.cluster)
      this.entries.set(cluster, entry)
      entry.cluster = cluster
    }
    entry.snapshot = snapshot
    entry.service = service
    entry.workloads = workloads
    entry.place = place
    return entry.state
  }

  private placeIn(snapshot: Snapshot): Place {
    if (snapshot === this.placeSnapshot) return this.place
    const place = placeOf(snapshot)
    if (place.node !== this.place.node || place.zone !== this.place.zone) this.place = place
    this.placeSnapshot = snapshot
    return this.place
  }

  /** A state of the same key whose cluster object is gone; null when there is none to take over. */
  private adopt(cluster: Cluster, snapshot: Snapshot): Entry | null {
    let chosen: Entry | null = null
    for (const entry of this.byKey.get(cluster.key) ?? []) {
      // Under an older snapshot this object may be the one that is gone.
      if (entry.snapshot !== null && snapshot.version < entry.snapshot.version) continue
      if (this.isLive(entry.cluster, snapshot)) continue
      if (hasEqualSettings(entry.cluster, cluster)) return entry
      chosen ??= entry
    }
    return chosen
  }

  private add(cluster: Cluster): Entry {
    const entry = new Entry(cluster, new ClusterState(cluster, this.clock, this.random, this.workerCount))
    this.entries.set(cluster, entry)
    const sameKey = this.byKey.get(cluster.key)
    if (sameKey === undefined) this.byKey.set(cluster.key, [entry])
    else sameKey.push(entry)
    return entry
  }

  private drop(entry: Entry): void {
    this.entries.delete(entry.cluster)
    const rest = (this.byKey.get(entry.cluster.key) ?? []).filter((other) => other !== entry)
    if (rest.length === 0) this.byKey.delete(entry.cluster.key)
    else this.byKey.set(entry.cluster.key, rest)
  }

  private isLive(cluster: Cluster, snapshot: Snapshot): boolean {
    if (this.liveSnapshot !== snapshot) {
      this.live = clustersOf(snapshot)
      this.liveSnapshot = snapshot
    }
    if (this.live.has(cluster)) return true
    const service = snapshot.services.get(cluster.service)
    return service !== undefined && this.defaults.get(service)?.get(cluster.port) === cluster
  }
}

function clustersOf(snapshot: Snapshot): ReadonlySet<Cluster> {
  const clusters = new Set<Cluster>()
  for (const traffic of snapshot.traffic.values()) for (const cluster of traffic.clusters) clusters.add(cluster)
  return clusters
}

function makeDefaultCluster(service: Service, port: number): Cluster {
  return {
    key: clusterKey(service.key, '', port),
    service: service.key,
    subset: '',
    port,
    members: null,
    balance: BALANCE_LEAST_REQUEST,
    limits: DEFAULT_POOL_LIMITS,
    outlier: null,
    isMutualTls: true,
  }
}

/** Members are not settings: they come and go with pods. */
function hasEqualSettings(a: Cluster, b: Cluster): boolean {
  return (
    a.balance === b.balance &&
    a.isMutualTls === b.isMutualTls &&
    isSameDetection(a.outlier, b.outlier) &&
    isSameLimits(a.limits, b.limits)
  )
}
