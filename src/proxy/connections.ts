/**
 * The live connections of one worker: for drain, for the re-check after a policy change, for counters of long-lived
 * connections, and for the admin page.
 */

/** What the table needs of an entry; outbound and inbound connections implement it. */
export interface LiveConnection {
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

/** The open connections of one worker. */
export class Connections {
  /** With the uid of the pod. */
  private readonly live = new Map<LiveConnection, string>()
  private readonly perPod = new Map<string, number>()

  get size(): number {
    return this.live.size
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
    this.live.set(connection, pod)
    return true
  }

  remove(pod: string, connection: LiveConnection): void {
    if (!this.live.delete(connection)) return
    const count = (this.perPod.get(pod) ?? 1) - 1
    if (count === 0) this.perPod.delete(pod)
    else this.perPod.set(pod, count)
  }

  recheckAll(): void {
    for (const connection of this.live.keys()) connection.recheck()
  }

  drainAll(): void {
    for (const connection of this.live.keys()) connection.drain()
  }

  drainPod(uid: string): void {
    for (const [connection, pod] of this.live) if (pod === uid) connection.drain()
  }

  abortAll(): void {
    for (const connection of this.live.keys()) connection.abort()
  }

  flushMetrics(nowMs: number): void {
    for (const connection of this.live.keys()) connection.flushMetrics(nowMs)
  }

  /** At most `limit` descriptions, for the admin page. */
  describe(limit: number): ConnectionDescription[] {
    const list: ConnectionDescription[] = []
    for (const connection of this.live.keys()) {
      if (list.length >= limit) break
      list.push(connection.describe())
    }
    return list
  }
}
