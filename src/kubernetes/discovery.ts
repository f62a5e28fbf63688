/**
 * Which resources an API server serves, and in which versions.
 *
 * A server that has just started may not know of all its resources yet, which would look as if somebody had removed them:
 * nothing is believed before it says that it is ready.
 */
import { type KubernetesApi, KubernetesError, type ResourceType } from './api.ts'

/** A resource that is served, with the kind of its objects. */
export interface ServedResource extends ResourceType {
  readonly kind: string
}

/** What discovery needs of the API. */
export type DiscoveryApi = Pick<KubernetesApi, 'request' | 'askReady'>

/** Everything in one answer since Kubernetes 1.27; a server that does not know it answers with the names of groups. */
const AGGREGATED = 'application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json'

/** Kinds by group and version of the groups that are asked for. Rejects with KubernetesError. */
export async function discover(api: DiscoveryApi, groups: ReadonlySet<string>): Promise<readonly ServedResource[]> {
  await checkReady(api)
  const found: ServedResource[] = []
  if (groups.has('')) found.push(...(await readGroupVersion(api, '/api/v1', '', 'v1')))
  const named = [...groups].filter((group) => group !== '')
  if (named.length === 0) return found
  const all = treeOf(await api.request('GET', '/apis', undefined, { accept: AGGREGATED }))
  const isAggregated = all['kind'] === 'APIGroupDiscoveryList'
  for (const entry of listOf(isAggregated ? all['items'] : all['groups'])) {
    const group = textOf(isAggregated ? treeOf(entry['metadata'])['name'] : entry['name'])
    if (!groups.has(group)) continue
    for (const one of listOf(entry['versions'])) {
      const version = textOf(one['version'])
      if (isAggregated) found.push(...readAggregated(one, group, version))
      else found.push(...(await readGroupVersion(api, `/apis/${group}/${version}`, group, version)))
    }
  }
  return found
}

/** Rejects while the server says that it is not ready; one that does not let us ask is taken as ready. */
async function checkReady(api: DiscoveryApi): Promise<void> {
  try {
    await api.askReady()
  } catch (error) {
    if (error instanceof KubernetesError && (error.isForbidden || error.isNotFound || error.status === 401)) return
    throw error
  }
}

function readAggregated(entry: Tree, group: string, version: string): ServedResource[] {
  // What an aggregated API server that is away had: its resources are not served now, but they are not gone.
  return listOf(entry['resources']).map((resource) => ({
    group,
    version,
    plural: textOf(resource['resource']),
    kind: textOf(treeOf(resource['responseKind'])['kind']),
    isNamespaced: resource['scope'] === 'Namespaced',
  }))
}

async function readGroupVersion(
  api: DiscoveryApi,
  path: string,
  group: string,
  version: string,
): Promise<readonly ServedResource[]> {
  const list = treeOf(await api.request('GET', path))
  return listOf(list['resources'])
    .filter((resource) => !textOf(resource['name']).includes('/'))
    .map((resource) => ({
      group,
      version,
      plural: textOf(resource['name']),
      kind: textOf(resource['kind']),
      isNamespaced: resource['namespaced'] === true,
    }))
}

// --- reading ---

type Tree = Readonly<Record<string, unknown>>

function treeOf(value: unknown): Tree {
  return typeof value === 'object' && value !== null ? (value as Tree) : {}
}

function listOf(value: unknown): readonly Tree[] {
  return Array.isArray(value) ? value.map(treeOf) : []
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : ''
}
