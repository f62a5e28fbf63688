/**
 * The DNS of one data worker: its sockets in captured pods, the resolver logic (src/dns), and the way to the pods' own
 * resolvers. Questions over UDP come from here, those over TCP from the proxy, which knows it as its NameServer.
 */
import { randomInt } from 'node:crypto'
import { performance } from 'node:perf_hooks'
import type { Logger } from '../base/log.ts'
import { TimerWheel } from '../base/timers.ts'
import { type Answering, Resolver } from '../dns/resolver.ts'
import type { Addon } from '../kernel/addon.ts'
import { resolverAddress, resolverIndexOf } from '../kernel/dns-maps.ts'
import { RESOLVERS_PER_POD_MAX } from '../kernel/layout.generated.ts'
import { KernelMap } from '../kernel/maps.ts'
import type { Snapshot } from '../model/snapshot.ts'
import type { NameServer } from '../proxy/outbound-dns.ts'
import type { PodSockets } from '../proxy/parts.ts'
import type { DnsCounts } from '../telemetry/dns-counts.ts'
import type { Transport } from '../transport/conn.ts'
import {
  copyEnds,
  type DatagramHandler,
  type DatagramSocket,
  type Datagrams,
  localAddressOf,
} from '../transport/datagram.ts'
import { type CapturedPod, type PodDialing, ROLE_DNS } from './capture.ts'
import { DnsUpstream } from './dns-upstream.ts'

/** What it needs of its worker. */
export interface DnsServiceOptions {
  readonly transport: Transport
  readonly datagrams: Datagrams
  readonly addon: Addon
  readonly sockets: PodSockets
  readonly counts: DnsCounts
  readonly log: Logger
}

/** See the head of the file. */
export class DnsService implements NameServer {
  private readonly options: DnsServiceOptions
  private readonly resolver: Resolver
  private readonly timers = new TimerWheel()
  private readonly pods = new Map<string, PodQuestions>()
  private receivedDropped = 0
  private sentDropped = 0

  constructor(options: DnsServiceOptions) {
    this.options = options
    const upstream = new DnsUpstream({ ...options, dialingOf: (uid) => this.pods.get(uid)?.dialing ?? null })
    this.resolver = new Resolver({
      upstream,
      timers: this.timers,
      now: () => performance.now(),
      randomId: () => randomInt(0x1_0000),
      counts: options.counts,
    })
  }

  applySnapshot(snapshot: Snapshot): void {
    this.resolver.applySnapshot(snapshot)
  }

  /** Owns the pod's DNS socket, if it has one. Throws WeftError WEFT_SYSCALL when it cannot be used. */
  addPod(pod: CapturedPod): void {
    const fd = pod.listeners.find(({ role }) => role === ROLE_DNS)?.fds?.[0]
    if (fd === undefined) return
    const questions = new PodQuestions(pod, this.resolver, this.options.addon)
    questions.socket = this.options.datagrams.open(fd, questions)
    this.pods.set(pod.uid, questions)
  }

  removePod(uid: string): void {
    this.pods.get(uid)?.socket?.close()
    this.pods.delete(uid)
  }

  answersFor(podUid: string): boolean {
    return this.pods.has(podUid)
  }

  query(podUid: string, address: string, bytes: Uint8Array, isTcp: boolean, respond: Answering): void {
    this.resolver.query(podUid, address, bytes, isTcp, respond)
  }

  /** Questions that wait for a pod's resolver. */
  get openCount(): number {
    return this.resolver.exchangeCount
  }

  /** Counts the datagrams that were dropped since the last call. */
  countDrops(): void {
    const { counts, datagrams } = this.options
    const { receivedDropped, sentDropped } = datagrams
    counts.dropped(receivedDropped - this.receivedDropped, sentDropped - this.sentDropped)
    this.receivedDropped = receivedDropped
    this.sentDropped = sentDropped
  }

  /** Gives all sockets back. */
  close(): void {
    for (const uid of [...this.pods.keys()]) this.removePod(uid)
    this.resolver.close()
    this.timers.stop()
  }
}

/** What one pod asks over UDP. */
class PodQuestions implements DatagramHandler {
  readonly dialing: PodDialing
  socket: DatagramSocket | null = null
  private readonly uid: string
  private readonly resolver: Resolver
  private readonly resolverMap: KernelMap
  /** By index, as the kernel's programs gave them: they stay for as long as the pod is enrolled. */
  private readonly resolvers: (string | null)[] = new Array<string | null>(RESOLVERS_PER_POD_MAX + 1).fill(null)

  constructor(pod: CapturedPod, resolver: Resolver, addon: Addon) {
    this.uid = pod.uid
    this.dialing = pod.dialing
    this.resolver = resolver
    this.resolverMap = new KernelMap(addon, pod.dialing.resolverMapFd ?? -1)
  }

  onDatagram(socket: DatagramSocket, bytes: Uint8Array, ends: number, offset: number, end: number): void {
    const address = this.resolverAt(resolverIndexOf(localAddressOf(bytes, ends)))
    if (address === null) return
    const answer = new DatagramAnswer(socket, copyEnds(bytes, ends))
    this.resolver.query(this.uid, address, bytes.subarray(offset, end), false, answer)
  }

  /** Nothing is connected to it, so nothing that was sent can come back. */
  onDatagramError(): void {}

  private resolverAt(index: number): string | null {
    if (index === 0 || index >= this.resolvers.length) return null
    const known = this.resolvers[index]!
    if (known !== null) return known
    const address = resolverAddress(this.resolverMap, this.dialing.netnsCookie, index)
    this.resolvers[index] = address
    return address
  }
}

class DatagramAnswer implements Answering {
  private readonly socket: DatagramSocket
  private readonly ends: Uint8Array

  constructor(socket: DatagramSocket, ends: Uint8Array) {
    this.socket = socket
    this.ends = ends
  }

  answer(bytes: Uint8Array): void {
    this.socket.reply(this.ends, bytes)
  }
}
