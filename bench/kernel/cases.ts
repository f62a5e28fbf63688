/** The cases of the kernel bench: which way is compared with which, by what number, and what it has to reach. */
import type { PortName, Stage, WayName } from './stage.ts'

/** What a case has to reach: a ratio, or a difference in its unit, that is at least or at most so much. */
export interface Target {
  readonly of: 'ratio' | 'difference'
  readonly is: 'at least' | 'at most'
  readonly bound: number
}

/** One row of the result. */
export interface RowCase {
  readonly name: string
  readonly unit: string
  readonly peer: string
  readonly target: Target | null
}

/** Ours and the peer's number, measured one right after the other. */
export interface Pair {
  readonly value: number
  readonly peerValue: number
}

/** Measures one round of some rows together: `sample` yields a pair for each of `rows`. */
export interface Measurement {
  readonly rows: readonly RowCase[]
  /** `isTurned` measures the peer first. */
  sample(stage: Stage, seconds: number, isTurned: boolean): Promise<readonly Pair[]>
}

const THROUGHPUT: Target = { of: 'ratio', is: 'at least', bound: 0.98 }
const ROUND_TRIP: Target = { of: 'ratio', is: 'at most', bound: 1.05 }
const CONNECT_RATE: Target = { of: 'ratio', is: 'at least', bound: 0.75 }
const RELAY_THROUGHPUT: Target = { of: 'ratio', is: 'at least', bound: 0.85 }
const CONNECT_COST: Target = { of: 'difference', is: 'at most', bound: 150 }

const NO_MESH: WayName = 'no mesh'

/**
 * A round of bulk is made of slices, ours and the peer's in turns: the machine's speed drifts by a tenth within seconds,
 * and two numbers can be compared only when they are of the same moment.
 */
const SLICE_S = 0.25

/**
 * Slices of one way differ by five percent from one another, so four of them leave two percent to chance: as much as the
 * kernel's way has to prove. It is measured for so many times the seconds of a round.
 */
const KERNEL_BULK_FACTOR = 3

export const MEASUREMENTS: readonly Measurement[] = [
  bulk('kernel-throughput-1', ['kernel', NO_MESH], 'bulk', 1, THROUGHPUT, KERNEL_BULK_FACTOR),
  bulk('kernel-throughput-8', ['kernel', NO_MESH], 'bulk', 8, THROUGHPUT, KERNEL_BULK_FACTOR),
  roundTrip('kernel-rtt-64', 'kernel', 'echo64', 64, ROUND_TRIP),
  roundTrip('kernel-rtt-4k', 'kernel', 'echo4k', 4096, ROUND_TRIP),
  connectRate(),
  connectCost(),
  bulk('relay-throughput-1', ['relay', NO_MESH], 'bulkApart', 1, RELAY_THROUGHPUT),
  roundTrip('relay-rtt-64', 'relay', 'echo64Apart', 64, null),
  bulk('tunnel-throughput-1', ['tunnel', 'no mesh, two nodes'], 'bulkApart', 1, null),
]

/** A way, and the one that it is compared with. */
type Ways = readonly [way: WayName, peer: WayName]

/** Measures both ways, one right after the other; the result is in the order of `ways`. */
async function inTurn<T>(ways: Ways, isTurned: boolean, measure: (way: WayName) => Promise<T>) {
  if (!isTurned) return [await measure(ways[0]), await measure(ways[1])] as const
  const peer = await measure(ways[1])
  return [await measure(ways[0]), peer] as const
}

function bulk(
  name: string,
  ways: Ways,
  port: PortName,
  streams: number,
  target: Target | null,
  factor = 1,
): Measurement {
  return {
    rows: [{ name, unit: 'Gbit/s', peer: ways[1], target }],
    async sample(stage, seconds, isTurned) {
      const [own, peer] = [new Bulk(), new Bulk()]
      for (let slice = 0; slice * SLICE_S < seconds * factor; slice++) {
        const isSliceTurned = (slice % 2 === 1) !== isTurned
        const reports = await inTurn(ways, isSliceTurned, async (way) => {
          const bytes = own.bytesIn(SLICE_S)
          return JSON.parse(await stage.iperf(way, port, streams, bytes)) as IperfReport
        })
        own.add(reports[0])
        peer.add(reports[1])
      }
      return [{ value: own.gigabits, peerValue: peer.gigabits }]
    },
  }
}

/** What has been sent over one way. */
class Bulk {
  private bytes = 0
  private seconds = 0

  add({ end }: IperfReport): void {
    this.bytes += end.sum_received.bytes
    this.seconds += end.sum_received.seconds
  }

  /** Bytes that take about so long; at first, what takes so long at 8 Gbit/s. */
  bytesIn(seconds: number): number {
    return Math.ceil(seconds * (this.seconds === 0 ? 1e9 : this.bytes / this.seconds))
  }

  get gigabits(): number {
    return (this.bytes * 8) / this.seconds / 1e9
  }
}

interface IperfReport {
  readonly end: { readonly sum_received: { readonly bytes: number; readonly seconds: number } }
}

function roundTrip(name: string, way: WayName, port: PortName, bytes: number, target: Target | null): Measurement {
  return {
    rows: [
      { name, unit: 'us', peer: NO_MESH, target },
      { name: `${name}-p99`, unit: 'us', peer: NO_MESH, target: null },
    ],
    async sample(stage, seconds, isTurned) {
      const [own, peer] = await inTurn([way, NO_MESH], isTurned, async (on) => {
        return JSON.parse(await stage.ping(on, port, bytes, seconds)) as {
          readonly p50Ns: number
          readonly p99Ns: number
        }
      })
      return [
        { value: own.p50Ns / 1000, peerValue: peer.p50Ns / 1000 },
        { value: own.p99Ns / 1000, peerValue: peer.p99Ns / 1000 },
      ]
    },
  }
}

function connectRate(): Measurement {
  return {
    rows: [{ name: 'kernel-connect-rate', unit: 'connections/s', peer: NO_MESH, target: CONNECT_RATE }],
    async sample(stage, seconds, isTurned) {
      const [value, peerValue] = await inTurn(['kernel', NO_MESH], isTurned, async (on) => {
        const report = JSON.parse(await stage.connect(on, seconds)) as ConnectReport
        return report.count / report.seconds
      })
      return [{ value, peerValue }]
    },
  }
}

interface ConnectReport {
  readonly count: number
  readonly seconds: number
}

function connectCost(): Measurement {
  const peer = 'programs not attached'
  return {
    rows: [
      { name: 'unenrolled-connect', unit: 'ns', peer, target: CONNECT_COST },
      { name: 'unenrolled-connect-tcp', unit: 'ns', peer, target: null },
    ],
    async sample(stage, seconds) {
      const { udp, tcp } = JSON.parse(await stage.connectCost(seconds)) as Record<'udp' | 'tcp', CostReport>
      return [udp, tcp].map(({ firstNs, secondNs }) => ({ value: firstNs, peerValue: secondNs }))
    },
  }
}

interface CostReport {
  readonly firstNs: number
  readonly secondNs: number
}
