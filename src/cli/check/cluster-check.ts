/** What a cluster must have for Weft, looked at before an installation and after one. Changes nothing. */
import { describeError } from '../../base/errors.ts'
import { type KubernetesApi, KubernetesError } from '../../kubernetes/api.ts'
import type { KubernetesObject, ResourceType } from '../../kubernetes/object.ts'
import { accessText, deniedAccess } from '../install/access.ts'
import { accessFor } from '../install/examine.ts'
import { CONTROLLER } from '../install/names.ts'
import { installObjects } from '../install/objects.ts'
import { CONFIG_MAPS, DAEMON_SETS, isOwn, LEASES, NODES, WEBHOOKS } from '../install/resource-types.ts'
import { MINOR_MIN, serverVersion } from '../install/server-version.ts'
import { installValues } from '../install/values.ts'
import type { Requirement } from '../machine.ts'
import { calicoRequirements, ciliumRequirements, pluginsOf } from './cni.ts'
import { ISTIO_LABEL, MESH_LABEL, meshedPods, type NamespaceLabels, namespaceLabels } from './meshed-pods.ts'
import { type BlockedTunnel, blockedTunnels, type NetworkPolicy, TUNNEL_PORT } from './network-policies.ts'
import { clockRequirement, nodeRequirements } from './nodes.ts'

const NETWORK_POLICIES: ResourceType = {
  group: 'networking.k8s.io',
  version: 'v1',
  plural: 'networkpolicies',
  isNamespaced: true,
}
const FELIX_CONFIGURATIONS: ResourceType = {
  group: 'crd.projectcalico.org',
  version: 'v1',
  plural: 'felixconfigurations',
  isNamespaced: false,
}
const VIRTUAL_SERVICES: ResourceType = {
  group: 'networking.istio.io',
  version: 'v1',
  plural: 'virtualservices',
  isNamespaced: true,
}

/** Namespace of Cilium's configuration. */
const KUBE_SYSTEM = 'kube-system'
/** Of the leases by which kubelets say that they live. */
const NODE_LEASES = 'kube-node-lease'

/** A field that no rule has. */
const UNKNOWN_FIELD = 'weftCheck'

/** Things that one line names. */
const NAMED_MAX = 5

/** Never rejects but when the API server cannot be reached at all: what may not be looked at is a row that says so. */
export async function clusterRequirements(
  api: KubernetesApi,
  namespace: string,
  version: string,
): Promise<readonly Requirement[]> {
  const { text, isSupported } = await serverVersion(api)
  const rows: Requirement[] = [
    {
      name: `Kubernetes >= 1.${MINOR_MIN}`,
      isMet: isSupported,
      isRequired: true,
      detail: isSupported ? `${text} at ${api.server}` : `${text} at ${api.server}: upgrade the cluster`,
    },
    await permissions(api, namespace, version),
  ]
  rows.push(...(await looked('nodes', async () => nodeRequirements(await api.list(NODES)))))
  rows.push(...(await looked('node clocks', () => clocks(api))))
  rows.push(...(await looked('CNI', () => network(api))))
  let namespaces: NamespaceLabels = new Map()
  rows.push(
    ...(await looked('other meshes', async () => {
      namespaces = await namespaceLabels(api)
      return [otherMeshes(namespaces)]
    })),
  )
  rows.push(...(await looked('NetworkPolicies', () => policies(api, namespaces))))
  rows.push(...(await looked('webhook', () => webhook(api))))
  return rows
}

async function looked(name: string, look: () => Promise<readonly Requirement[]>): Promise<readonly Requirement[]> {
  try {
    return await look()
  } catch (error) {
    if (error instanceof KubernetesError && error.isUnreachable) throw error
    return [{ name, isMet: false, isRequired: false, detail: `cannot be looked at: ${describeError(error)}` }]
  }
}

async function permissions(api: KubernetesApi, namespace: string, version: string): Promise<Requirement> {
  const name = 'permissions to install'
  const values = installValues({ namespace: { create: true } })
  const wanted = accessFor(installObjects({ values, namespace, version }), ['get', 'create', 'patch', 'delete'])
  const denied = (await deniedAccess(api, wanted)).map(accessText)
  if (denied.length === 0)
    return { name, isMet: true, isRequired: false, detail: `of context ${api.connection.context}` }
  return { name, isMet: false, isRequired: false, detail: `missing: ${named(denied)}` }
}

async function clocks(api: KubernetesApi): Promise<readonly Requirement[]> {
  const { message } = await api.open('GET', '/version', undefined)
  message.resume()
  const leases = await api.list(LEASES, { namespace: NODE_LEASES })
  return [clockRequirement(leases, Date.parse(message.headers.date ?? '') || Date.now())]
}

async function network(api: KubernetesApi): Promise<readonly Requirement[]> {
  const plugins = pluginsOf((await api.list(DAEMON_SETS)).map(({ metadata }) => metadata.name))
  const detail =
    plugins.length === 0 ? 'none that is known here; any plugin that gives pods addresses will do' : plugins.join(', ')
  const rows: Requirement[] = [{ name: 'CNI', isMet: true, isRequired: false, detail }]
  const cilium = await api.get(CONFIG_MAPS, KUBE_SYSTEM, 'cilium-config')
  if (cilium !== null) rows.push(...ciliumRequirements((cilium['data'] ?? {}) as Record<string, string>))
  const felix = await api.get(FELIX_CONFIGURATIONS, null, 'default')
  if (felix !== null) rows.push(...calicoRequirements((felix['spec'] ?? {}) as Record<string, unknown>))
  return rows
}

/** Two meshes that capture the same pods would each take the other's connections for the pods' own. */
function otherMeshes(namespaces: NamespaceLabels): Requirement {
  const name = 'other meshes'
  const shared = [...namespaces].flatMap(([namespace, labels]) => {
    if (labels[MESH_LABEL] !== 'enabled') return []
    const other =
      labels['istio-injection'] === 'enabled' || labels['istio.io/rev'] !== undefined
        ? 'Istio sidecars'
        : labels[ISTIO_LABEL] === 'ambient'
          ? 'Istio ambient'
          : (labels['linkerd.io/inject'] ?? '') === 'enabled'
            ? 'Linkerd'
            : null
    return other === null ? [] : [`${namespace} (${other})`]
  })
  if (shared.length === 0) return { name, isMet: true, isRequired: true, detail: 'no namespace is in two' }
  const detail = `namespaces that are in two meshes: ${named(shared)}. Remove one of the labels`
  return { name, isMet: false, isRequired: true, detail }
}

async function policies(api: KubernetesApi, namespaces: NamespaceLabels): Promise<readonly Requirement[]> {
  const name = `NetworkPolicies let port ${TUNNEL_PORT} by`
  const all = await api.list(NETWORK_POLICIES)
  const pods = await meshedPods(api, namespaces, true)
  const blocked = blockedTunnels(all as readonly KubernetesObject[] as readonly NetworkPolicy[], pods)
  if (blocked.length === 0) {
    return [{ name, isMet: true, isRequired: true, detail: `${all.length} policies, ${pods.length} pods of the mesh` }]
  }
  return blocked.map((one) => ({
    name: `NetworkPolicy ${one.policy}`,
    isMet: false,
    isRequired: true,
    detail: blockText(one),
  }))
}

function blockText({ direction, pods, peer }: BlockedTunnel): string {
  const [from, to] = direction === 'ingress' ? ['from', 'to'] : ['to', 'from']
  return (
    `lets connections ${from} ${peer} by on ports of the app, and not on ${TUNNEL_PORT}, which the mesh needs ${to} ` +
    `${named(pods)}: add port ${TUNNEL_PORT} (TCP) to that ${direction} rule`
  )
}

/** A question to which only the webhook knows the answer: the CRDs keep fields that nobody knows. */
async function webhook(api: KubernetesApi): Promise<readonly Requirement[]> {
  const name = 'webhook'
  const configuration = await api.get(WEBHOOKS, null, CONTROLLER)
  if (configuration === null || !isOwn(configuration)) return []
  const rule = { [UNKNOWN_FIELD]: true, route: [{ destination: { host: 'weft-check' } }] }
  const question: KubernetesObject = {
    apiVersion: 'networking.istio.io/v1',
    kind: 'VirtualService',
    // The webhook is not asked about Weft's own namespace.
    metadata: { name: 'weft-check', namespace: 'default' },
    spec: { hosts: ['weft-check'], http: [rule] },
  }
  try {
    await api.create(question, VIRTUAL_SERVICES, { dryRun: 'All', fieldValidation: 'Ignore' })
  } catch (error) {
    if (!(error instanceof KubernetesError)) throw error
    if (error.apiMessage.includes(UNKNOWN_FIELD)) {
      return [{ name, isMet: true, isRequired: false, detail: 'the API server asks it, and it answers' }]
    }
    return [{ name, isMet: false, isRequired: false, detail: `the API server does not reach it: ${error.apiMessage}` }]
  }
  const detail =
    'the API server accepts what the webhook would refuse: it does not reach port 15017 of the controllers, or knows another certificate than theirs'
  return [{ name, isMet: false, isRequired: false, detail }]
}

function named(texts: readonly string[]): string {
  const more = texts.length > NAMED_MAX ? ` and ${texts.length - NAMED_MAX} more` : ''
  return `${texts.slice(0, NAMED_MAX).join(', ')}${more}`
}
