/**
 * Step 1 of the inbound path for HBONE: an mTLS connection to a pod's port 15008 carries CONNECT tunnels, each of which
 * becomes an InboundConnection. The checks and their order are those of ztunnel, so that either can stand at either end.
 */
import { canonicalAddress } from '../base/address.ts'
import type { Conn } from '../transport/conn.ts'
import { writeBaggage } from './baggage.ts'
import { parseForwardedHost } from './forwarded.ts'
import type { AbandonListener, PendingTunnel, TunnelAcceptor } from './hbone-server.ts'
import { type Admission, InboundConnection } from './inbound.ts'
import type { LocalWorkload } from './local-pods.ts'
import type { ProxyParts } from './parts.ts'

/** The proxy's own ports in a pod: a tunnel to one of them would loop. */
const OWN_PORTS: ReadonlySet<number> = new Set([15_001, 15_006, 15_008])

/** Accepts the tunnels of one pod. */
export class InboundTunnels implements TunnelAcceptor {
  private readonly parts: ProxyParts
  private readonly pod: LocalWorkload

  constructor(parts: ProxyParts, pod: LocalWorkload) {
    this.parts = parts
    this.pod = pod
  }

  onTunnel(pending: PendingTunnel): void {
    const { parts, pod } = this
    const workload = parts.snapshot.workloads.get(pod.uid)
    if (workload === undefined) {
      pending.refuse(503, 'the pod is not known yet')
      return
    }
    const address = canonicalAddress(pending.host)
    if (address === null || !workload.addresses.includes(address)) {
      pending.refuse(400, `${pending.host} is not an address of this pod`)
      return
    }
    if (OWN_PORTS.has(pending.port)) {
      pending.refuse(503, `port ${pending.port} is the proxy's own`)
      return
    }
    const arrival = {
      peerIdentity: pending.peerIdentity,
      remoteAddress: pending.remoteAddress,
      remotePort: pending.remotePort,
      address,
      port: pending.port,
      host: parseForwardedHost(pending.forwarded),
    }
    const admission = new TunnelAdmission(pending, writeBaggage(workload))
    const connection = new InboundConnection(parts, pod, workload, arrival, admission)
    admission.connection = connection
    pending.listener = admission
    connection.start()
  }
}

class TunnelAdmission implements Admission, AbandonListener {
  connection: InboundConnection | null = null
  private readonly pending: PendingTunnel
  private readonly baggage: string

  constructor(pending: PendingTunnel, baggage: string) {
    this.pending = pending
    this.baggage = baggage
  }

  admit(): Conn | null {
    return this.pending.isAbandoned ? null : this.pending.accept(this.baggage)
  }

  refuse(status: number, reason: string): void {
    this.pending.refuse(status, reason)
  }

  onAbandoned(): void {
    this.connection?.onHolderClosed()
  }
}
