/** What the kernel counts of UDP, told by a test. */
import type { UdpSource } from '../../src/agent/udp-meter.ts'
import { UDP_EDGE, UDP_EDGE_KEY } from '../../src/kernel/layout.generated.ts'
import { UdpEdgeMap, type UdpTotals } from '../../src/kernel/udp-edge-map.ts'
import { MemoryMap } from './memory-map.ts'

/** The kernel's side; the maps are real ones in memory, so that another reader may follow. */
export class FakeUdp implements UdpSource {
  readonly edges = new UdpEdgeMap(new MemoryMap(UDP_EDGE_KEY.bytes, UDP_EDGE.bytes))
  readonly accounted = new UdpEdgeMap(new MemoryMap(UDP_EDGE_KEY.bytes, UDP_EDGE.bytes))
  readonly captured = new Set<number>()
  unmeteredPackets = 0

  unmetered(): UdpTotals {
    return { bytes: 0, packets: this.unmeteredPackets }
  }

  isCaptured(pod: number): boolean {
    return this.captured.has(pod)
  }

  /** A packet passes an interface of the pod. */
  pass(pod: number, isSent: boolean, remote: string, bytes: number): void {
    const key = { pod, isSent, remote }
    const before = this.edges.read(key) ?? { bytes: 0, packets: 0 }
    this.edges.write(key, { bytes: before.bytes + bytes, packets: before.packets + 1 })
  }
}
