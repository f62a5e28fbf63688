/**
 * Capture: how the connections of a node's pods come to the proxy, and how the proxy dials from inside a pod.
 *
 * Two implementations: capture-ebpf.ts (the real one) and capture-loopback.ts (demos and tests without privileges,
 * where pods are loopback addresses and source identity by address is no identity).
 */
import type { CarriedPeer } from '../kernel/carried-peers.ts'
import type { LocalPod } from '../model/workload.ts'
import type { UnservedCounts } from './absence-watch.ts'
import type { AuditedPod } from './capture-watch.ts'
import type { CarriageMaps } from './carriage.ts'
import type { CarriedNumbers } from './carried-numbers.ts'
import type { CarriedSource } from './carried-source.ts'
import type { UdpSource } from './udp-meter.ts'

export const ROLE_OUTBOUND = 0
export const ROLE_INBOUND = 1
export const ROLE_HBONE = 2
/** A datagram socket, not a listener. */
export const ROLE_DNS = 3
/** What a listener of a pod is for. */
export type ListenerRole = typeof ROLE_OUTBOUND | typeof ROLE_INBOUND | typeof ROLE_HBONE | typeof ROLE_DNS

/** What the capture must know of a pod to enrol it. */
export interface PodToCapture {
  readonly pod: LocalPod
  /** `namespace/name`, for messages. */
  readonly displayName: string
  /** Canonical addresses. */
  readonly addresses: readonly string[]
  /** Loopback capture only: what to listen on. The eBPF capture takes every port. */
  readonly serviceAddresses: readonly { readonly address: string; readonly port: number }[]
  readonly inboundPorts: readonly number[]
  /** With no data worker alive, the pod's connections are refused, not let by. False when left out. */
  readonly isStrict?: boolean
  /** Its questions to DNS resolvers are answered by the data workers. False when left out; not in loopback capture. */
  readonly isDnsCaptured?: boolean
  /**
   * Its netns was only claimed, by whoever wrote the pod's object: one of its addresses must be there, or else the pod could
   * take the place of another one. False when left out; not in loopback capture.
   */
  readonly isNetnsClaimed?: boolean
}

/**
 * One listening point of a pod. With descriptors, one per data worker; else every worker binds the address itself. The
 * descriptors are the caller's once `enrol` has resolved: a withdrawn pod's are closed by the caller, not by the capture.
 */
export interface CapturedListener {
  readonly role: ListenerRole
  readonly fds: readonly number[] | null
  readonly address: string
  readonly port: number
}

/** Plain data: it is posted to the data workers. */
export interface CapturedPod {
  readonly uid: string
  readonly listeners: readonly CapturedListener[]
  readonly dialing: PodDialing
}

/** How data workers open sockets that start in this pod, and reach its app. */
export interface PodDialing {
  /** Open descriptor of the pod's netns, and of the map that exempts the agent's sockets; -1 in loopback capture. */
  readonly netnsFd: number
  readonly exemptMapFd: number
  /** The map that tells which resolver was asked; -1, or left out, when the pod's DNS is not captured. */
  readonly resolverMapFd?: number
  /** Proves that `netnsFd` is still this pod's when a socket is opened; 0 in loopback capture. */
  readonly netnsCookie: bigint
  /** Address to bind for outgoing connections in loopback capture; null with a netns. */
  readonly localAddress: string | null
  /** Address at which the app listens, when it is not the pod's own; null with a netns. */
  readonly appAddress: string | null
}

/** Counters since the start of the agent, for metrics. */
export interface CaptureStats {
  readonly enrolledPods: number
  /** Connections steered to the proxy since start, by direction. */
  readonly outboundCaptured: number
  readonly inboundCaptured: number
  /** Connections let by or refused because something was missing, by reason. */
  readonly bypassed: number
  readonly refused: number
  /** Questions to DNS resolvers that were let by: no data worker was alive, or the pod asks too many resolvers. */
  readonly dnsBypassed?: { readonly unserved: number; readonly resolvers: number }
}

/** What the kernel needs to carry connections between pods without the proxy (carriage.ts), and who the pods are to it. */
export interface Carrier {
  readonly maps: CarriageMaps
  /** What the numbers in the maps stand for. */
  readonly numbers: CarriedNumbers
  /** Numbers by uid, of pods that an earlier agent has captured and that are not enrolled yet. */
  readonly found: ReadonlyMap<string, number>
  /** Number of an enrolled pod; null for any other. */
  numberOf(uid: string): number | null
  /** Connections that the kernel carries for a pod, by its number. Throws the system call's error. */
  peersOf(pod: number): readonly CarriedPeer[]
  /** Resets one of them; false when it is over already. Throws the system call's error. */
  breakOff(pod: number, peer: CarriedPeer): boolean
  /** Says which scope's frontends an enrolled pod's connections find. */
  setScope(uid: string, scope: number): void
}

/** How connections come to the proxy; see the head of the file. */
export interface Capture {
  readonly kind: 'ebpf' | 'loopback'
  /**
   * Prepares everything for a pod's capture. Rejects with WeftError (WEFT_SYSCALL, WEFT_BPF) naming the pod; then nothing
   * of it is left behind.
   */
  enrol(pod: PodToCapture, workerCount: number): Promise<CapturedPod>
  /**
   * Captures the connections of an enrolled pod from now on; open ones are not touched. To be called when the data
   * workers serve it, so that no connection meets one that does not know the pod. In loopback listening is capturing.
   */
  begin?(uid: string): void
  /**
   * TCP connections that an enrolled pod had with others before it is captured, to be asked before `begin`: they go on past
   * the mesh. 0 for a pod that an earlier agent has captured.
   */
  connectionsBefore?(uid: string): number
  /** Stops capturing; open proxied connections live on until the data workers close them. Unknown uids are ignored. */
  withdraw(uid: string): Promise<void>
  stats(): CaptureStats
  /** Changes what happens to an enrolled pod's connections when no data worker is alive (`PodToCapture.isStrict`). */
  setStrict?(uid: string, isStrict: boolean): void
  /** The same of a pod that an earlier agent has captured, until it is enrolled again. Unknown uids are ignored. */
  setFoundStrict?(uid: string, isStrict: boolean): void
  /** Changes to which ports of an enrolled pod processes of its node may connect, whatever policy says. */
  setProbePorts?(uid: string, ports: readonly number[]): void
  /** Looks at a captured pod in the kernel and repairs it; null when it is not captured. Loopback cannot look. */
  audit?(uid: string): AuditedPod | null
  /** Descriptor of the map in which data workers show that they are alive. Loopback has none. */
  readonly heartbeatMapFd?: number
  /** Descriptor of the map in which the kernel says that a data worker's thread has died. Loopback has none. */
  readonly threadMapFd?: number
  /** Key there of data worker 0, of 1 the next one. 0 when left out. */
  readonly slotBase?: number
  /** What the kernel counts while nobody serves. Loopback has none. */
  readonly unserved?: UnservedCounts
  /** Loopback has none, nor a kernel that lacks a piece: there the proxy carries everything. */
  readonly carrier?: Carrier | null
  /** What the kernel tells of the connections that it carries. */
  readonly carried?: CarriedSource
  /** What the kernel counts of pods' UDP. */
  readonly udp?: UdpSource
  /** The data workers, by number, that take connections from now on; nobody does before the first call. */
  setServing?(workers: readonly number[]): void
  /**
   * The pods that are wanted, once that is known for sure: the capture of others, which an earlier agent has left, is
   * removed. Pods among them stay captured whether or not they are enrolled yet.
   */
  retain?(uids: ReadonlySet<string>): Promise<void>
  /** A released predecessor that still serves gets no new connections any more. */
  dismissPredecessor?(): void
  /** It knows that it is dismissed: what it had in force beside what is ours is removed. */
  settle?(): void
  /**
   * Takes no new connections in any pod: they are let by, or refused if the pod is strict. What open connections need
   * stays, so that they can end in order. Resolves when no connection is on its way to a listener any more.
   */
  drain?(): Promise<void>
  /**
   * Gives everything in the kernel up as it is, for the next agent to take over, which may open it from then on. Nothing
   * is written any more; what open connections need can be used until `close`, which then closes descriptors only.
   * `isReturnable`: this agent serves on meanwhile, and may want it back (`resume`).
   */
  release?(isReturnable?: boolean): Promise<void>
  /** The next agent has not made it, and has ended: what was released is ours again. */
  resume?(): Promise<void>
  /** Withdraws everything and removes programs, links, routes and pins: steered connections that are open end. */
  close(): Promise<void>
}
