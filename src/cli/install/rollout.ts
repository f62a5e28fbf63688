/** How far a workload has come, and what keeps its pods from being ready, in words for people. */
import type { KubernetesApi } from '../../kubernetes/api.ts'
import type { KubernetesObject } from '../../kubernetes/object.ts'
import { EVENTS, nameOf, PODS, typeOf } from './resource-types.ts'

/** Problems that are told of; more pods usually have the same. */
const PROBLEMS_MAX = 3
/** Longest text of another program's that is quoted. */
const QUOTED_CHARACTERS_MAX = 300

export interface Rollout {
  readonly isDone: boolean
  /** `2 of 3 ready`. */
  readonly text: string
  readonly problems: readonly string[]
}

type Numbers = Readonly<Record<string, number | undefined>>

/** Of a Deployment or a DaemonSet. Rejects with KubernetesError. */
export async function readRollout(api: KubernetesApi, workload: KubernetesObject): Promise<Rollout> {
  const { namespace = null, name } = workload.metadata
  const current = await api.get(typeOf(workload), namespace, name)
  if (current === null) return { isDone: false, text: 'gone', problems: [`${nameOf(workload)} has been deleted`] }
  const progress = progressOf(current)
  return progress.isDone ? { ...progress, problems: [] } : { ...progress, problems: await problemsOf(api, current) }
}

/** What the status of a workload says. */
export function progressOf(workload: KubernetesObject): { readonly isDone: boolean; readonly text: string } {
  const status = (workload['status'] ?? {}) as Numbers
  const isSeen = (status['observedGeneration'] ?? 0) >= (workload.metadata.generation ?? 0)
  if (!isSeen) return { isDone: false, text: 'not seen yet' }
  if (workload.kind === 'DaemonSet') {
    const wanted = status['desiredNumberScheduled'] ?? 0
    const ready = Math.min(status['updatedNumberScheduled'] ?? 0, status['numberAvailable'] ?? 0)
    return { isDone: ready >= wanted, text: `${ready} of ${wanted} nodes ready` }
  }
  const wanted = (workload['spec'] as Numbers | undefined)?.['replicas'] ?? 1
  const updated = status['updatedReplicas'] ?? 0
  const ready = Math.min(updated, status['availableReplicas'] ?? 0)
  const old = (status['replicas'] ?? 0) - updated
  const text = `${ready} of ${wanted} ready${old > 0 ? `, ${old} of the last version left` : ''}`
  return { isDone: ready >= wanted && old <= 0, text }
}

async function problemsOf(api: KubernetesApi, workload: KubernetesObject): Promise<readonly string[]> {
  const { namespace = null, name } = workload.metadata
  const selector = (workload['spec'] as { selector?: { matchLabels?: Record<string, string> } }).selector?.matchLabels
  const labelSelector = Object.entries(selector ?? {})
    .map(([label, value]) => `${label}=${value}`)
    .join(',')
  const pods = await api.list(PODS, { namespace, labelSelector })
  const problems = pods.flatMap(podProblems)
  if (pods.length === 0) {
    const fieldSelector = `involvedObject.kind=${workload.kind},involvedObject.name=${name},type=Warning`
    for (const { message } of (await api.list(EVENTS, { namespace, fieldSelector })) as readonly {
      message?: string
    }[]) {
      if (message !== undefined) problems.push(quoted(message))
    }
    problems.push(...failedConditions(workload))
  }
  return [...new Set(problems)].slice(0, PROBLEMS_MAX)
}

interface PodStatus {
  readonly conditions?: readonly Condition[]
  readonly containerStatuses?: readonly {
    readonly name: string
    readonly ready?: boolean
    readonly restartCount?: number
    readonly state?: {
      readonly waiting?: { readonly reason?: string; readonly message?: string }
    }
    readonly lastState?: {
      readonly terminated?: { readonly exitCode?: number; readonly reason?: string; readonly message?: string }
    }
  }[]
}

interface Condition {
  readonly type: string
  readonly status: string
  readonly message?: string
}

/** Reasons of containers that only have to be waited for. */
const USUAL_REASONS: ReadonlySet<string | undefined> = new Set(['ContainerCreating', 'PodInitializing'])

/** What keeps one pod from being ready; nothing for one that only needs time. */
export function podProblems(pod: KubernetesObject): readonly string[] {
  const status = (pod['status'] ?? {}) as PodStatus
  const node = (pod['spec'] as { nodeName?: string } | undefined)?.nodeName
  const where = `pod ${pod.metadata.name}${node === undefined ? '' : ` on ${node}`}`
  const problems: string[] = []
  const unscheduled = status.conditions?.find((one) => one.type === 'PodScheduled' && one.status === 'False')
  if (unscheduled !== undefined) problems.push(`${where} has no node: ${quoted(unscheduled.message ?? '')}`)
  for (const { state, lastState, restartCount = 0 } of status.containerStatuses ?? []) {
    const { reason, message = '' } = state?.waiting ?? {}
    if (state?.waiting !== undefined && !USUAL_REASONS.has(reason)) {
      const ended = lastState?.terminated
      const last =
        ended === undefined ? '' : `; it last ended with code ${ended.exitCode} ${quoted(ended.message ?? '')}`
      problems.push(`${where}: ${reason ?? 'waiting'} ${quoted(message)}${last}`.trimEnd())
    } else if (restartCount > 0) problems.push(`${where} has been restarted ${restartCount} times; see its log`)
  }
  return problems
}

function failedConditions(workload: KubernetesObject): readonly string[] {
  const { conditions } = (workload['status'] ?? {}) as { conditions?: readonly Condition[] | null }
  return (conditions ?? [])
    .filter(({ type, status }) => type === 'ReplicaFailure' && status === 'True')
    .map(({ message = '' }) => quoted(message))
}

function quoted(text: string): string {
  return text.trim().slice(0, QUOTED_CHARACTERS_MAX)
}
