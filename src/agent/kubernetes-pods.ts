/**
 * Where the pods of a Kubernetes node have their networks: as the CNI plugin has told (cni-server.ts), or as the processes
 * of the node show (pod-finding.ts). Never as an annotation says: whoever makes pods may write any.
 *
 * What the plugin told is believed as long as it is true: the netns at its path must be the very one that it had opened.
 */
import { closeSync, fstatSync } from 'node:fs'
import type { Addon } from '../kernel/addon.ts'
import type { LocalPod, Workload } from '../model/workload.ts'
import type { PodFinding, PodSearch } from './pod-finding.ts'

/** A pod's network as the CNI plugin knows it. */
export interface CniAttachment {
  readonly namespace: string
  readonly name: string
  /** Empty when the runtime does not say it. */
  readonly podUid: string
  readonly containerId: string
  /** A path by which this process can open the netns. */
  readonly netns: string
  readonly inode: bigint
  /** Canonical; the kubelet publishes them when the plugin has answered. */
  readonly addresses: readonly string[]
}

/** See the head of the file. */
export class KubernetesPods {
  private readonly addon: Pick<Addon, 'openNetns'>
  private readonly finding: Pick<PodFinding, 'find'>
  /** By `namespace/name`. */
  private readonly attachments = new Map<string, CniAttachment>()

  constructor(addon: Pick<Addon, 'openNetns'>, finding: Pick<PodFinding, 'find'>) {
    this.addon = addon
    this.finding = finding
  }

  /** The plugin has told of a pod's network; an earlier one of the same pod is gone. */
  attach(attachment: CniAttachment): void {
    this.attachments.set(keyOf(attachment), attachment)
  }

  /** The network is about to be removed. False when the pod has another one by now, or none was told of. */
  detach(namespace: string, name: string, containerId: string): boolean {
    const key = keyOf({ namespace, name })
    if (this.attachments.get(key)?.containerId !== containerId) return false
    return this.attachments.delete(key)
  }

  /** Never rejects. */
  async locate(pod: LocalPod, workload: Workload): Promise<PodSearch> {
    const attachment = this.attachments.get(keyOf(workload))
    const isOfPod = attachment !== undefined && isSamePod(attachment.podUid, pod.podUid)
    if (isOfPod && this.isThere(attachment)) {
      return { kind: 'found', netns: attachment.netns, addresses: attachment.addresses }
    }
    if (pod.podUid === undefined) return { kind: 'absent', reason: 'its uid is not known' }
    return await this.finding.find(pod.podUid, workload.addresses)
  }

  /** Forgets pods that are not there any more; `isKnown` is asked with `namespace/name`. */
  prune(isKnown: (key: string) => boolean): void {
    for (const key of this.attachments.keys()) if (!isKnown(key)) this.attachments.delete(key)
  }

  private isThere({ netns, inode }: CniAttachment): boolean {
    let fd = -1
    try {
      fd = this.addon.openNetns(netns)
      return fstatSync(fd, { bigint: true }).ino === inode
    } catch {
      return false
    } finally {
      if (fd >= 0) closeSync(fd)
    }
  }
}

/** True unless both say a uid, and not the same. */
export function isSamePod(told: string, known: string | undefined): boolean {
  return told === '' || known === undefined || told === known
}

function keyOf({ namespace, name }: { readonly namespace: string; readonly name: string }): string {
  return `${namespace}/${name}`
}
