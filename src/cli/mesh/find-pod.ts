/** A pod that the user names, and the agent of its node. */
import { WeftError } from '../../base/errors.ts'
import { UsageError } from '../../base/flags.ts'
import type { KubernetesApi } from '../../kubernetes/api.ts'
import { NODES, PODS } from '../install/resource-types.ts'
import { type ProgramPod, servingAgents } from './agents.ts'

/** A pod of the mesh, or of no mesh. */
export interface FoundPod {
  readonly namespace: string
  readonly name: string
  readonly node: string
  readonly addresses: readonly string[]
  readonly agent: ProgramPod
}

/** `NAME`, in the context's namespace, or `NAMESPACE/NAME`. Throws UsageError. */
export function splitPodName(text: string, namespace: string): { readonly namespace: string; readonly name: string } {
  const parts = text.split('/')
  if (parts.length > 2 || parts.some((part) => part === '')) {
    throw new UsageError(`"${text}" names no pod; write NAME or NAMESPACE/NAME`)
  }
  return parts.length === 2 ? { namespace: parts[0]!, name: parts[1]! } : { namespace, name: parts[0]! }
}

/** Rejects with WEFT_KUBERNETES when there is no such pod, or no agent on its node. */
export async function findPod(api: KubernetesApi, text: string, meshNamespace: string): Promise<FoundPod> {
  const { namespace, name } = splitPodName(text, api.connection.namespace)
  const pod = await api.get(PODS, namespace, name)
  if (pod === null) throw new WeftError('WEFT_KUBERNETES', `there is no pod ${namespace}/${name}`)
  const { nodeName = '' } = pod['spec'] as { readonly nodeName?: string }
  if (nodeName === '') throw new WeftError('WEFT_KUBERNETES', `the pod ${namespace}/${name} has no node yet`)
  const { podIPs } = (pod['status'] ?? {}) as { readonly podIPs?: readonly { readonly ip: string }[] | null }
  const addresses = (podIPs ?? []).map(({ ip }) => ip)
  return { namespace, name, node: nodeName, addresses, agent: await agentOf(api, nodeName, meshNamespace) }
}

/** The agent of a node; null when no node of the name is there. */
export async function findNodeAgent(
  api: KubernetesApi,
  node: string,
  meshNamespace: string,
): Promise<ProgramPod | null> {
  if (node.includes('/') || (await api.get(NODES, null, node)) === null) return null
  return await agentOf(api, node, meshNamespace)
}

async function agentOf(api: KubernetesApi, node: string, meshNamespace: string): Promise<ProgramPod> {
  const agent = (await servingAgents(api, meshNamespace)).find((one) => one.node === node)
  if (agent !== undefined) return agent
  throw new WeftError('WEFT_KUBERNETES', `there is no agent on the node ${node}`)
}
