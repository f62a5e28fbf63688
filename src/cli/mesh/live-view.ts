/** Open connections of a pod as they come and go: two looks at an agent, and what is between them. Pure. */
import type { ConnectionAnswer } from './answers.ts'

/** What happened to a connection between two looks. */
export interface LiveEvent {
  readonly event: 'open' | 'progress' | 'closed'
  readonly connection: ConnectionAnswer
  /** Since the last look. */
  readonly receivedBytes: number
  readonly sentBytes: number
}

/** What two looks have in common for one connection: its two ends, and who carries it. */
function keyOf({ direction, downstream, upstream, originalDestination, worker }: ConnectionAnswer): string {
  return `${worker ?? 'kernel'} ${direction} ${downstream} ${originalDestination} ${upstream}`
}

export class LiveView {
  private readonly uidEnd: string
  private last = new Map<string, ConnectionAnswer>()

  /** Of the pod `namespace/name`. */
  constructor(pod: string) {
    this.uidEnd = `/Pod/${pod}`
  }

  /** Events since the last look; those of the first are what is open. */
  look(connections: readonly ConnectionAnswer[]): readonly LiveEvent[] {
    const current = new Map<string, ConnectionAnswer>()
    const events: LiveEvent[] = []
    for (const connection of connections) {
      if (!connection.pod.endsWith(this.uidEnd)) continue
      const key = keyOf(connection)
      const before = this.last.get(key)
      current.set(key, connection)
      const receivedBytes = connection.receivedBytes - (before?.receivedBytes ?? 0)
      const sentBytes = connection.sentBytes - (before?.sentBytes ?? 0)
      // A younger one between the same ends is another one.
      if (before === undefined || connection.ageMs < before.ageMs) {
        events.push({
          event: 'open',
          connection,
          receivedBytes: connection.receivedBytes,
          sentBytes: connection.sentBytes,
        })
      } else if (receivedBytes > 0 || sentBytes > 0)
        events.push({ event: 'progress', connection, receivedBytes, sentBytes })
    }
    for (const [key, connection] of this.last) {
      if (!current.has(key)) events.push({ event: 'closed', connection, receivedBytes: 0, sentBytes: 0 })
    }
    this.last = current
    return events
  }
}
