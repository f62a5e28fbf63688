/**
 * Capture without a kernel: pods are loopback addresses, and the agent listens on the services' addresses itself.
 *
 * For demos and tests only. Source identity goes by address here, which is no identity: any local process may bind any
 * loopback address. `netns` of a pod reads `loopback:<address of its app>`.
 */
import { canonicalAddress, cidrContains, isLoopback, parseAddress, parseCidr } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'
import {
  type Capture,
  type CapturedListener,
  type CapturedPod,
  type CaptureStats,
  type PodToCapture,
  ROLE_HBONE,
  ROLE_INBOUND,
  ROLE_OUTBOUND,
} from './capture.ts'

const NETNS_PREFIX = 'loopback:'
const HBONE_PORT = 15_008

/** See the head of the file; binds nothing itself, the data workers do. */
export class LoopbackCapture implements Capture {
  readonly kind = 'loopback'
  private readonly enrolled = new Set<string>()
  private readonly block: string | null

  /** Only service addresses in `block` are listened on: agents of several "nodes" share one loopback interface. */
  constructor(block: string | null) {
    this.block = block
  }

  async enrol({ pod, displayName, addresses, serviceAddresses, inboundPorts }: PodToCapture): Promise<CapturedPod> {
    const appAddress = pod.netns.startsWith(NETNS_PREFIX)
      ? canonicalAddress(pod.netns.slice(NETNS_PREFIX.length))
      : null
    if (appAddress === null || !isLoopback(appAddress)) {
      throw new WeftError(
        'WEFT_CONFIG',
        `pod ${displayName}: annotation weft.dev/netns must be loopback:<127.x address> with loopback capture, not "${pod.netns}"`,
      )
    }
    const podAddress = addresses[0]
    if (podAddress === undefined || !isLoopback(podAddress)) {
      throw new WeftError('WEFT_CONFIG', `pod ${displayName} has no loopback address, which loopback capture needs`)
    }
    const listeners: CapturedListener[] = [{ role: ROLE_HBONE, fds: null, address: podAddress, port: HBONE_PORT }]
    for (const port of inboundPorts) listeners.push({ role: ROLE_INBOUND, fds: null, address: podAddress, port })
    for (const { address, port } of serviceAddresses) {
      if (this.isOurs(address)) listeners.push({ role: ROLE_OUTBOUND, fds: null, address, port })
    }
    this.enrolled.add(pod.uid)
    return {
      uid: pod.uid,
      listeners,
      dialing: { netnsFd: -1, exemptMapFd: -1, netnsCookie: 0n, localAddress: podAddress, appAddress },
    }
  }

  async withdraw(uid: string): Promise<void> {
    this.enrolled.delete(uid)
  }

  stats(): CaptureStats {
    return { enrolledPods: this.enrolled.size, outboundCaptured: 0, inboundCaptured: 0, bypassed: 0, refused: 0 }
  }

  async close(): Promise<void> {
    this.enrolled.clear()
  }

  private isOurs(address: string): boolean {
    if (!isLoopback(address)) return false
    if (this.block === null) return true
    const block = parseCidr(this.block)
    const bytes = parseAddress(address)
    return block !== null && bytes !== null && cidrContains(block, bytes)
  }
}
