/** The clock of one HTTP/2 connection of an application: calls its engine every BEAT_MS (see http/h2/vigil.ts). */
import { TimerEntry, type TimerTarget, type TimerWheel } from '../base/timers.ts'
import { BEAT_MS } from '../http/h2/vigil.ts'

/** Runs from the start until `stop`. */
export class ConnectionBeat implements TimerTarget {
  private readonly timers: TimerWheel
  private readonly connection: { beat(): void }
  private readonly entry: TimerEntry
  private isStopped: boolean

  constructor(timers: TimerWheel, connection: { beat(): void }) {
    this.timers = timers
    this.connection = connection
    this.entry = new TimerEntry(this)
    this.isStopped = false
    timers.start(this.entry, BEAT_MS)
  }

  stop(): void {
    this.isStopped = true
    this.timers.clear(this.entry)
  }

  onTimer(): void {
    this.connection.beat()
    if (!this.isStopped) this.timers.start(this.entry, BEAT_MS)
  }
}
