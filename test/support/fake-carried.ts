/** What the kernel tells of carried connections, told by a test. */
import type { CarriedNames } from '../../src/agent/carried-names.ts'
import type { CarriedCounters, CarriedSource } from '../../src/agent/carried-source.ts'
import type { CarriedSocket } from '../../src/kernel/carried-sockets.ts'
import { EdgeMap, EdgeTotals } from '../../src/kernel/edge-map.ts'
import { EDGE, EDGE_KEY, EVENT } from '../../src/kernel/layout.generated.ts'
import type { Service } from '../../src/model/service.ts'
import type { Workload } from '../../src/model/workload.ts'
import { MemoryMap } from './memory-map.ts'

/** The kernel's side; `edges` and `accounted` are real maps in memory, so that another reader may follow. */
export class FakeCarried implements CarriedSource {
  readonly edges = new EdgeMap(new MemoryMap(EDGE_KEY.bytes, EDGE.bytes))
  readonly accounted = new EdgeMap(new MemoryMap(EDGE_KEY.bytes, EDGE.bytes))
  readonly sockets: CarriedSocket[] = []
  readonly captured = new Set<number>()
  readonly events: Uint8Array[] = []
  isClosed = false
  /** Called when sockets are asked for: what happens after the edges were read. */
  onSockets: () => void = () => {}

  isCaptured(pod: number): boolean {
    return this.captured.has(pod)
  }

  socketsOf(pod: number): readonly CarriedSocket[] {
    this.onSockets()
    return this.sockets.filter(({ sourcePod }) => sourcePod === pod)
  }

  openEvents(): { read(max: number): Uint8Array; close(): void } {
    return {
      read: (max) => {
        const taken = this.events.splice(0, max)
        const records = new Uint8Array(taken.length * EVENT.bytes)
        for (const [i, event] of taken.entries()) records.set(event, i * EVENT.bytes)
        return records
      },
      close: () => {
        this.isClosed = true
      },
    }
  }

  counters(): CarriedCounters {
    return { carried: 1, denied: 2, eventsLost: 3, edgesLost: 4 }
  }

  /** Changes the counters of the edge 1 -> 2 by service 3, as the programs would. */
  count(change: (totals: EdgeTotals) => void): void {
    const totals = this.edges.read(1, 2, 3) ?? new EdgeTotals()
    change(totals)
    this.edges.write({ source: 1, destination: 2, service: 3 }, totals)
  }
}

/** An open connection of the edge 1 -> 2 by service 3. */
export function openSocket(sent: number, received: number, roundTripUs = 0): CarriedSocket {
  return {
    source: { address: '10.0.0.1', port: 40_000 },
    destination: { address: '10.0.0.2', port: 8080 },
    original: { address: '10.96.0.1', port: 80 },
    sourcePod: 1,
    destinationPod: 2,
    service: 3,
    sent,
    received,
    roundTripUs,
    openedNs: 1e9,
  }
}

export class FakeNames implements CarriedNames {
  readonly pods = new Map<number, Workload>()
  service: Service | null = null
  address = ''

  podOf(pod: number): Workload | null {
    return this.pods.get(pod) ?? null
  }

  serviceOf(service: number): Service | null {
    return service === 3 ? this.service : null
  }

  addressOf(service: number): string {
    return service === 3 ? this.address : ''
  }

  policyOf(policy: number): string {
    return policy === 0 ? '' : `shop/policy-${policy}`
  }
}
