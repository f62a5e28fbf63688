/**
 * Agents and controllers of an installation, found by their labels, and asked over port-forwards: what they say comes from
 * their pods' loopback, so that nothing but the user's own permissions is needed.
 */
import { WeftError } from '../../base/errors.ts'
import type { KubernetesApi } from '../../kubernetes/api.ts'
import type { KubernetesObject } from '../../kubernetes/object.ts'
import { askPod, openPod } from '../../kubernetes/pod-http.ts'
import { PORT_AGENT_ADMIN, PORT_CONTROLLER_HTTP, SYSTEM_NAMESPACE, selectorOf } from '../install/names.ts'
import { PODS } from '../install/resource-types.ts'

/** Agents that are asked at a time: each question is a WebSocket of its own. */
export const ASKED_AT_ONCE = 16

/** Longest wait for one answer of a program that is well. */
const ANSWER_TIMEOUT_MS = 20_000

/** A pod of one of our programs. */
export interface ProgramPod {
  readonly name: string
  readonly namespace: string
  readonly node: string
  readonly version: string
  readonly isReady: boolean
  readonly isEnding: boolean
  readonly restarts: number
}

/** Where an installation is, when nobody says. */
export { SYSTEM_NAMESPACE }

/** Pods of a program, by node. Rejects with KubernetesError. */
export async function programPods(
  api: KubernetesApi,
  namespace: string,
  component: 'agent' | 'controller',
): Promise<readonly ProgramPod[]> {
  const labelSelector = Object.entries(selectorOf(component))
    .map(([label, value]) => `${label}=${value}`)
    .join(',')
  const pods = await api.list(PODS, { namespace, labelSelector })
  return pods.map(programPod).sort((x, y) => x.node.localeCompare(y.node) || x.name.localeCompare(y.name))
}

/** One agent per node: during an update the one that serves. Rejects with WEFT_KUBERNETES when there is none at all. */
export async function servingAgents(api: KubernetesApi, namespace: string): Promise<readonly ProgramPod[]> {
  const byNode = new Map<string, ProgramPod>()
  for (const pod of await programPods(api, namespace, 'agent')) {
    if (pod.node === '') continue
    const other = byNode.get(pod.node)
    if (other === undefined || rank(pod) > rank(other)) byNode.set(pod.node, pod)
  }
  if (byNode.size === 0) {
    throw new WeftError(
      'WEFT_KUBERNETES',
      `there are no agents in the namespace ${namespace}; is Weft installed elsewhere?`,
    )
  }
  return [...byNode.values()]
}

/** JSON of an agent's admin endpoint. Rejects with WeftError. */
export async function askAgent<T>(api: KubernetesApi, agent: ProgramPod, path: string): Promise<T> {
  return await askJson<T>(api, agent, PORT_AGENT_ADMIN, path)
}

/** JSON of a controller's endpoint. Rejects with WeftError. */
export async function askController<T>(api: KubernetesApi, controller: ProgramPod, path: string): Promise<T> {
  return await askJson<T>(api, controller, PORT_CONTROLLER_HTTP, path)
}

/** Asks all, so many at a time; what went wrong with one is told beside the others' answers. */
export async function askAll<P, T>(
  programs: readonly P[],
  ask: (program: P) => Promise<T>,
): Promise<readonly { readonly program: P; readonly answer: T | null; readonly error: Error | null }[]> {
  const results: { program: P; answer: T | null; error: Error | null }[] = []
  for (let i = 0; i < programs.length; i += ASKED_AT_ONCE) {
    const some = programs.slice(i, i + ASKED_AT_ONCE).map(async (program) => {
      try {
        return { program, answer: await ask(program), error: null }
      } catch (error) {
        return { program, answer: null, error: error instanceof Error ? error : new Error(String(error)) }
      }
    })
    results.push(...(await Promise.all(some)))
  }
  return results
}

export { openPod }

async function askJson<T>(api: KubernetesApi, pod: ProgramPod, port: number, path: string): Promise<T> {
  const target = { namespace: pod.namespace, pod: pod.name, port }
  const { status, body } = await askPod(api, target, path, { timeoutMs: ANSWER_TIMEOUT_MS })
  if (status !== 200) {
    throw new WeftError(
      'WEFT_KUBERNETES',
      `the pod ${pod.namespace}/${pod.name} answered ${path} with ${status}: ${body.trim()}`,
    )
  }
  try {
    return JSON.parse(body) as T
  } catch (error) {
    throw new WeftError('WEFT_KUBERNETES', `the pod ${pod.namespace}/${pod.name} answered ${path} with no JSON`, error)
  }
}

function rank({ isReady, isEnding }: ProgramPod): number {
  return (isReady ? 2 : 0) + (isEnding ? 0 : 1)
}

function programPod({ metadata, ...object }: KubernetesObject): ProgramPod {
  const { nodeName = '' } = (object['spec'] ?? {}) as { readonly nodeName?: string }
  const status = (object['status'] ?? {}) as {
    readonly conditions?: readonly { readonly type: string; readonly status: string }[] | null
    readonly containerStatuses?: readonly { readonly restartCount?: number }[] | null
  }
  return {
    name: metadata.name,
    namespace: metadata.namespace ?? '',
    node: nodeName,
    version: metadata.labels?.['app.kubernetes.io/version'] ?? '',
    isReady: (status.conditions ?? []).some(({ type, status: value }) => type === 'Ready' && value === 'True'),
    isEnding: metadata.deletionTimestamp !== undefined,
    restarts: status.containerStatuses?.[0]?.restartCount ?? 0,
  }
}
