/**
 * The live connections of one worker: for drain, for the re-check after a policy change, for counters of long-lived
 * connections, and for the admin page.
 *
 * An array in which each entry knows its place. Not a Set or Map of connections: V8 leaves what was deleted from one in
 * its outgrown tables, and once such a table is in the old space it keeps all later ones, and every connection that was
 * open when they were outgrown, until the next full collection: tens of megabytes that each scavenge copies.
 */

/** What the table needs of an entry; outbound and inbound connections implement it. */
export interface LiveConnection {
  /** Place in the table, which alone sets it; NOT_LISTED at first. */
  tableIndex: number
  /** Policies or workloads changed: close if the connection would not be let in now. */
  recheck(): void
  /** Finish what is in flight, then close. */
  drain(): void
  /** Resets at once. */
  abort(): void
  /** Reports the bytes since the last call to telemetry. */
  flushMetrics(nowMs: number): void
  describe(): ConnectionDescription
}

/** One connection as /connections shows it. */
export interface ConnectionDescription {
  readonly direction: 'outbound' | 'inbound'
  readonly protocol: string
  /** Uid of the local pod. */
  readonly pod: string
  readonly downstream: string
  readonly originalDestination: string
  readonly upstream: string
  readonly peer: string
  readonly ageMs: number
  readonly receivedBytes: number
  readonly sentBytes: number
}

/** Connections of one pod on one worker. Beyond it new ones are refused: one pod must not starve the node. */
export const CONNECTIONS_PER_POD_MAX = 32_768

/** `tableIndex` of a connection that is in no table. */
export const NOT_LISTED = -1

/** The open connections of one worker. */
export class Connections {
  private readonly live: LiveConnection[] = []
  /** Uid of the pod of each. */
  private readonly pods: string[] = []
  private readonly perPod = new Map<string, number>()

  get size(): number {
    return this.live.length
  }

  /** Open connections by pod uid. */
  get byPod(): ReadonlyMap<string, number> {
    return this.perPod
  }

  /** False when the pod has too many connections; then the caller refuses. */
  add(pod: string, connection: LiveConnection): boolean {
    const count = this.perPod.get(pod) ?? 0
    if (count >= CONNECTIONS_PER_POD_MAX) return false
    this.perPod.set(pod, count + 1)
    connection.tableIndex = this.live.length
    this.live.push(connection)
    this.pods.push(pod)
    return true
  }

  remove(pod: string, connection: LiveConnection): void {
    const index = connection.tableIndex
    if (index === NOT_LISTED) return
    connection.tableIndex = NOT_LISTED
    const last = this.live.pop()!
    const lastPod = this.pods.pop()!
    if (last !== connection) {
      this.live[index] = last
      this.pods[index] = lastPod
      last.tableIndex = index
    }
    const count = (this.perPod.get(pod) ?? 1) - 1
    if (count === 0) this.perPod.delete(pod)
    else this.perPod.set(pod, count)
  }

  recheckAll(): void {
    for (const connection of this.listed()) if (connection.tableIndex !== NOT_LISTED) connection.recheck()
  }

  drainAll(): void {
    for (const connection of this.listed()) if (connection.tableIndex !== NOT_LISTED) connection.drain()
  }

  drainPod(uid: string): void {
    const ofPod = this.live.filter((_, index) => this.pods[index] === uid)
    for (const connection of ofPod) if (connection.tableIndex !== NOT_LISTED) connection.drain()
  }

  abortAll(): void {
    for (const connection of this.listed()) if (connection.tableIndex !== NOT_LISTED) connection.abort()
  }

  flushMetrics(nowMs: number): void {
    for (const connection of this.live) connection.flushMetrics(nowMs)
  }

  /** At most `limit` descriptions, for the admin page. */
  describe(limit: number): ConnectionDescription[] {
    return this.live.slice(0, limit).map((connection) => connection.describe())
  }

  /** A copy: whoever is asked may end, and move others, meanwhile. */
  private listed(): LiveConnection[] {
    return this.live.slice()
  }
}
