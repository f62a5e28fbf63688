/**
 * The nodes' part of taking an installation out of a cluster: agents end, and then a pod on each node removes what they
 * left there.
 *
 * A node that is away keeps nobody from removing the rest: its agent's pod is let go by force, and the pod that cleans up
 * stays and waits for it, in the namespace, which then stays as well. It needs nothing else, and does its work when the
 * node is back; whoever runs the removal again sees to the rest.
 */
import { describeError } from '../../base/errors.ts'
import type { KubernetesApi } from '../../kubernetes/api.ts'
import type { KubernetesObject } from '../../kubernetes/object.ts'
import { selectorOf } from './names.ts'
import { CLEANUP_COMPONENT, nodeCleanupPod } from './node-cleanup-pod.ts'
import type { Progress } from './progress.ts'
import { NODES, PODS } from './resource-types.ts'
import { podProblems } from './rollout.ts'
import { until, type WaitLimits } from './waiting.ts'

/** Nodes that are cleaned up at a time. */
const NODES_AT_ONCE = 20
/** After this, agents that still wait for connections are told to end at once. */
const AGENT_END_MS = 60_000

export interface NodeCleanupOptions {
  readonly api: KubernetesApi
  readonly progress: Progress
  readonly limits: WaitLimits
  readonly namespace: string
  /** Only nodes on which an agent has run need to be cleaned up. */
  readonly isUndo: boolean
  readonly onRemoved: (what: string) => void
  readonly onLeft: (what: string, why: string) => void
}

/** See the head of the file. */
export class NodeCleanup {
  /** Nodes that are away, on which a pod of ours waits. */
  readonly waiting: string[] = []
  private readonly options: NodeCleanupOptions
  private readonly api: KubernetesApi
  private agents: KubernetesObject | null = null
  /** Those with traces of an agent, as far as one can know. */
  private nodes: readonly string[] = []
  private readonly known = new Set<string>()
  /** Why a node is away, in the words of the cluster. */
  private readonly away = new Map<string, string>()

  constructor(options: NodeCleanupOptions) {
    this.options = options
    this.api = options.api
  }

  /** Before anything is removed: `agents` is the DaemonSet, null when it is not there any more. */
  async look(agents: KubernetesObject | null): Promise<void> {
    for (const node of await this.api.list(NODES)) {
      this.known.add(node.metadata.name)
      const reason = reasonAway(node)
      if (reason !== null) this.away.set(node.metadata.name, reason)
    }
    this.agents = agents
    if (agents !== null) this.nodes = await this.nodesOf(agents)
  }

  /** When the DaemonSet has been deleted. Rejects with WEFT_TIMEOUT, or when the user ends it. */
  async cleanUp(): Promise<void> {
    const { agents, nodes } = this
    await this.earlier()
    if (agents === null) return
    await this.podsGone('agent')
    for (let i = 0; i < nodes.length; i += NODES_AT_ONCE) {
      await Promise.all(nodes.slice(i, i + NODES_AT_ONCE).map((node) => this.cleanUpNode(agents, node)))
    }
  }

  /** Agents end when what is open has ended; whoever removes the mesh need not wait for all of it. */
  async podsGone(component: string): Promise<void> {
    const { namespace, progress, limits } = this.options
    const labelSelector = selectorText(selectorOf(component))
    const hurryAtMs = performance.now() + AGENT_END_MS
    const look = async (): Promise<true | null> => {
      const pods = await this.api.list(PODS, { namespace, labelSelector })
      if (pods.length === 0) return true
      progress.state(`${component} pods`, `${pods.length} are ending`)
      const isHurrying = performance.now() >= hurryAtMs
      for (const pod of pods) {
        // Nobody is there to say that it has ended.
        if (this.away.has(nodeOf(pod))) await this.removePod(pod.metadata.name, 0)
        else if (isHurrying) await this.removePod(pod.metadata.name, 1)
      }
      return null
    }
    await until(limits, look, () => `${component} pods do not end; is their node there?`)
  }

  /** All that may have traces, or those where an agent has started. */
  private async nodesOf(agents: KubernetesObject): Promise<readonly string[]> {
    const { isUndo, namespace } = this.options
    if (isUndo) {
      const pods = await this.api.list(PODS, { namespace, labelSelector: selectorText(selectorOf('agent')) })
      return [...new Set(pods.filter(hasStarted).map(nodeOf))]
    }
    const { nodeSelector = {} } = (agents['spec'] as { template: { spec: { nodeSelector?: Record<string, string> } } })
      .template.spec
    const nodes = await this.api.list(NODES, { labelSelector: selectorText(nodeSelector) })
    return nodes.map(({ metadata }) => metadata.name)
  }

  /** Pods that an earlier run has left for nodes that were away. */
  private async earlier(): Promise<void> {
    const { namespace, onRemoved } = this.options
    const labelSelector = selectorText(selectorOf(CLEANUP_COMPONENT))
    for (const pod of await this.api.list(PODS, { namespace, labelSelector })) {
      const node = nodeOf(pod)
      // It gets a new one.
      if (this.nodes.includes(node)) continue
      if (!this.known.has(node)) {
        await this.removePod(pod.metadata.name, 0)
        onRemoved(`what waited for node ${node}, which is not of this cluster any more`)
      } else if (this.away.has(node)) this.wait(node)
      else await this.finish(node, pod.metadata.name)
    }
  }

  /** Never rejects but when the user ends it: a node that is away must not keep the rest from being removed. */
  private async cleanUpNode(agents: KubernetesObject, node: string): Promise<void> {
    const { limits, onLeft } = this.options
    const name = cleanupName(node)
    try {
      await this.removePod(name, 0)
      await this.podGone(name)
      await this.api.create(nodeCleanupPod(agents, node, name), PODS)
    } catch (error) {
      if (limits.signal.aborted) throw error
      onLeft(`traces on node ${node}`, `${describeError(error)}; run weft agent --cleanup there`)
      await this.removePod(name, 1)
      return
    }
    if (this.away.has(node)) this.wait(node)
    else await this.finish(node, name)
  }

  /** The pod is there, and so is its node. */
  private async finish(node: string, name: string): Promise<void> {
    const { progress, namespace, limits, onLeft, onRemoved } = this.options
    const what = `node ${node}`
    try {
      let last = ''
      const look = async (): Promise<'Succeeded' | 'Failed' | null> => {
        const pod = await this.api.get(PODS, namespace, name)
        const { phase } = (pod?.['status'] ?? {}) as { phase?: string }
        last = pod === null ? 'its pod has been deleted' : (podProblems(pod)[0] ?? `cleaning up, ${phase ?? 'Pending'}`)
        progress.state(what, last)
        if (phase === 'Failed') last = failureOf(pod!)
        return phase === 'Succeeded' || phase === 'Failed' ? phase : null
      }
      const outcome = await until(limits, look, () => last)
      if (outcome === 'Succeeded') onRemoved(`traces on ${what}`)
      else onLeft(`traces on ${what}`, last)
    } catch (error) {
      if (limits.signal.aborted) throw error
      onLeft(`traces on ${what}`, `${describeError(error)}; run weft agent --cleanup there`)
    }
    await this.removePod(name, 1)
  }

  private wait(node: string): void {
    const { namespace, onLeft } = this.options
    this.waiting.push(node)
    const what = `the node is away (${this.away.get(node)}), and keeps programs, routes, state and the CNI plugin`
    const then = `pod ${namespace}/${cleanupName(node)} removes them when it is back`
    onLeft(`traces on node ${node}`, `${what}; ${then}. Will it never be: kubectl delete node ${node}`)
  }

  private async removePod(name: string, gracePeriodSeconds: number): Promise<void> {
    await this.api.delete(PODS, this.options.namespace, name, { gracePeriodSeconds })
  }

  private async podGone(name: string): Promise<void> {
    const { limits, namespace, progress } = this.options
    const what = `pods ${name}`
    const look = async (): Promise<true | null> => {
      if ((await this.api.get(PODS, namespace, name)) === null) return true
      progress.state(what, 'is being deleted')
      return null
    }
    await until(limits, look, () => `${what} is still being deleted`)
  }
}

/** Null when its kubelet answers; else what the cluster says of it. */
function reasonAway(node: KubernetesObject): string | null {
  const { conditions = [] } = (node['status'] ?? {}) as {
    readonly conditions?: readonly { readonly type: string; readonly status: string; readonly reason?: string }[]
  }
  const ready = conditions.find(({ type }) => type === 'Ready')
  // Unknown: nobody has heard of it. False: it is there, and may start a pod at any moment.
  return ready?.status === 'Unknown' ? (ready.reason ?? 'nobody has heard of it') : null
}

function nodeOf(pod: KubernetesObject): string {
  return (pod['spec'] as { readonly nodeName?: string }).nodeName ?? ''
}

function selectorText(labels: Readonly<Record<string, string>>): string {
  return Object.entries(labels)
    .map(([label, value]) => `${label}=${value}`)
    .join(',')
}

/** The program has run at least once. */
function hasStarted(pod: KubernetesObject): boolean {
  const { containerStatuses = [] } = (pod['status'] ?? {}) as {
    readonly containerStatuses?: readonly {
      readonly restartCount?: number
      readonly state?: { readonly running?: unknown; readonly terminated?: unknown }
    }[]
  }
  return containerStatuses.some(
    ({ restartCount = 0, state }) =>
      restartCount > 0 || state?.running !== undefined || state?.terminated !== undefined,
  )
}

/** A pod's name; node names may have dots and may be long. */
function cleanupName(node: string): string {
  return `weft-${CLEANUP_COMPONENT}-${node}`.slice(0, 253).replace(/[^a-z0-9]+$/, '')
}

function failureOf(pod: KubernetesObject): string {
  const status = (pod['status'] ?? {}) as {
    readonly message?: string
    readonly containerStatuses?: readonly { readonly state?: { readonly terminated?: { readonly message?: string } } }[]
  }
  const said = status.containerStatuses?.[0]?.state?.terminated?.message ?? status.message ?? 'it failed'
  return said.trim().split('\n').slice(-3).join('; ')
}
