/** The agent's own families about pods' networks: who cannot be captured, and what the CNI plugin asked. Set at every scrape. */
import { Counter, Gauge, type Registry } from 'prom-client'

/** Plain data; counts since the agent's start. */
export interface PodNetworkState {
  /** Pods of the mesh that cannot be captured now, by reason. */
  readonly refused: ReadonlyMap<string, number>
  /** Requests of the CNI plugin by result; null where it is not installed. */
  readonly cniRequests: ReadonlyMap<string, number> | null
  /** New pods come by the plugin. */
  readonly isCniChained: boolean
}

/** Every result is there from the start, so that the first of a kind is seen as an increase. */
const RESULTS = ['captured', 'expected', 'unmeshed', 'let_by', 'refused', 'deleted', 'bad_request'] as const
const REASONS = ['host_network', 'not_running'] as const

export class PodNetworkFamilies {
  private readonly refused: Gauge<'reason'>
  private readonly requests: Counter<'result'>
  private readonly chained: Gauge

  constructor(register: Registry) {
    const registers = [register]
    this.refused = new Gauge({
      name: 'weft_pods_refused',
      help: 'Pods of the mesh that cannot be captured now, because they have no network of their own or do not run.',
      labelNames: ['reason'],
      registers,
    })
    this.requests = new Counter({
      name: 'weft_cni_requests_total',
      help: 'Requests of the CNI plugin, by what became of them; expected: the controller said that the pod is in the mesh; let_by: a pod started unmeshed, as its failure mode allows.',
      labelNames: ['result'],
      registers,
    })
    this.chained = new Gauge({
      name: 'weft_cni_chained',
      help: '1 when the CNI plugin is chained behind those of the node, so that new pods are captured before they run.',
      registers,
    })
  }

  set({ refused, cniRequests, isCniChained }: PodNetworkState): void {
    this.refused.reset()
    for (const reason of REASONS) this.refused.set({ reason }, refused.get(reason) ?? 0)
    this.requests.reset()
    this.chained.reset()
    if (cniRequests === null) return
    for (const result of RESULTS) this.requests.inc({ result }, cniRequests.get(result) ?? 0)
    this.chained.set(isCniChained ? 1 : 0)
  }
}
