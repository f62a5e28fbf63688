/** The agent's own families about connections that the kernel carries; set whole at every scrape. */
import { Counter, Gauge, type Registry } from 'prom-client'

/** What the programs have counted since their maps were made, and what is open now. Plain data. */
export interface CarriedState {
  readonly carried: number
  readonly denied: number
  /** Lines that the access log lacks, because nobody read the events in time. */
  readonly eventsLost: number
  /** Connections and denials that no other metric has, because there were too many edges. */
  readonly edgesLost: number
  /** Open connections by the pod (`namespace/name`) that made them. */
  readonly open: ReadonlyMap<string, number>
}

export const NOTHING_CARRIED: CarriedState = { carried: 0, denied: 0, eventsLost: 0, edgesLost: 0, open: new Map() }

export class CarriedGauges {
  private readonly counters: readonly (readonly [Counter, (state: CarriedState) => number])[]
  private readonly open: Gauge<'pod'>

  constructor(register: Registry) {
    const registers = [register]
    const counter = (name: string, help: string): Counter => new Counter({ name, help, registers })
    this.counters = [
      [
        counter('weft_carried_connections_total', 'Connections that the kernel carried without the proxy.'),
        ({ carried }) => carried,
      ],
      [counter('weft_carried_denied_total', 'Connections that policy denied in the kernel.'), ({ denied }) => denied],
      [
        counter('weft_carried_events_lost_total', 'Carried connections that have no line in the access log.'),
        ({ eventsLost }) => eventsLost,
      ],
      [
        counter('weft_carried_edges_lost_total', 'Carried connections and denials that no other metric counts.'),
        ({ edgesLost }) => edgesLost,
      ],
    ]
    this.open = new Gauge({
      name: 'weft_carried_open_connections',
      help: 'Open connections that the kernel carries, by the pod that made them.',
      labelNames: ['pod'],
      registers,
    })
  }

  set(state: CarriedState): void {
    for (const [counter, total] of this.counters) {
      counter.reset()
      counter.inc(total(state))
    }
    this.open.reset()
    for (const [pod, count] of state.open) this.open.set({ pod }, count)
  }
}
