/**
 * Takes an installation out of a cluster without a trace: the webhook first, which nobody could answer any more; then the
 * agents, and when they have ended what they left on their nodes; then the controller and all that it made; CRDs last.
 *
 * What is the user's stays and is told of: objects of the mesh kinds with their CRDs (unless `withCrds`), labels of
 * namespaces, a root of their own (Secret `cacerts`) with its namespace. What the controller has written into the status of
 * such objects goes.
 */
import { type KubernetesApi, KubernetesError } from '../../kubernetes/api.ts'
import { type KubernetesObject, nameOfType, type ResourceType } from '../../kubernetes/object.ts'
import type { Access } from './access.ts'
import { MESH_GROUPS } from './mesh-kinds.ts'
import { AGENT, AUTHORITY_ROOTS_SECRET, AUTHORITY_SECRET, CONTROLLER_LEASE, TRUST_CONFIG_MAP } from './names.ts'
import { NodeCleanup } from './node-cleanup.ts'
import type { Progress } from './progress.ts'
import {
  CONFIG_MAPS,
  CRDS,
  DAEMON_SETS,
  isOwn,
  LEASES,
  NAMESPACES,
  NODES,
  nameOf,
  PERSISTENT_VOLUME_CLAIMS,
  PODS,
  SECRETS,
  SERVICES,
  typeOf,
} from './resource-types.ts'
import { removeStatus } from './status-removal.ts'
import { until, type WaitLimits } from './waiting.ts'

/** Objects that are named; more are counted. */
const NAMED_MAX = 5

export interface UninstallerOptions {
  readonly api: KubernetesApi
  readonly progress: Progress
  readonly limits: WaitLimits
  readonly namespace: string
  /** An installation that failed is taken back: only nodes on which an agent has run need to be cleaned up. */
  readonly isUndo: boolean
  /** Also what the controller has made: its root, bundles, the Lease. */
  readonly isWithMade: boolean
}

/** What is gone, and what is still there and why. */
export interface RemovalReport {
  readonly removed: readonly string[]
  readonly left: readonly string[]
}

export class Uninstaller {
  private readonly options: UninstallerOptions
  private readonly api: KubernetesApi
  private readonly removed: string[] = []
  private readonly left: string[] = []
  private readonly nodes: NodeCleanup

  constructor(options: UninstallerOptions) {
    const { api, isUndo, limits, namespace, progress } = options
    this.options = options
    this.api = api
    this.nodes = new NodeCleanup({
      ...{ api, isUndo, limits, namespace, progress },
      onRemoved: (what) => this.tell(what),
      onLeft: (what, why) => this.keep(what, why),
    })
  }

  /**
   * Removes those of `objects` that are there and Weft's, in reverse order, with what their programs have made. `crds` are
   * removed last. Rejects with WeftError; calling it again goes on where it ended.
   */
  async remove(
    objects: readonly KubernetesObject[],
    crds: readonly KubernetesObject[],
    isWithCrds: boolean,
  ): Promise<RemovalReport> {
    const agents = await this.api.get(DAEMON_SETS, this.options.namespace, AGENT)
    const hasAgents = agents !== null && isOwn(agents) && objects.some(({ kind }) => kind === 'DaemonSet')
    await this.nodes.look(hasAgents ? agents : null)
    for (const object of inOrderOfRemoval(objects)) {
      if (object.kind === 'Namespace') continue
      const isGone = await this.removeObject(object)
      if (object.kind === 'DaemonSet') await this.nodes.cleanUp()
      if (object.kind === 'Deployment' && isGone) await this.nodes.podsGone('controller')
    }
    if (this.options.isWithMade) await this.removeMade()
    for (const crd of crds) await this.removeCrd(crd, isWithCrds)
    if (this.options.isWithMade) await this.removeStatuses()
    for (const object of objects) if (object.kind === 'Namespace') await this.removeNamespace(object)
    return { removed: this.removed, left: this.left }
  }

  // --- objects ---

  private async removeObject(object: KubernetesObject): Promise<boolean> {
    const type = typeOf(object)
    const { namespace = null, name } = object.metadata
    const found = await this.look(type, namespace, name)
    if (found === null) return false
    if (!isOwn(found)) {
      this.keep(nameOf(object), "not Weft's")
      return false
    }
    return await this.removeNamed(type, namespace, name, nameOf(object))
  }

  /** By name alone: what programs of ours made carries no label of the installation. */
  private async removeNamed(
    type: ResourceType,
    namespace: string | null,
    name: string,
    what: string,
  ): Promise<boolean> {
    const isThere = await this.api.delete(type, namespace, name, { propagationPolicy: 'Background' })
    if (isThere) this.tell(what)
    return isThere
  }

  /** Secrets, bundles and the Lease, which the controller has made. */
  private async removeMade(): Promise<void> {
    const { namespace } = this.options
    for (const name of [AUTHORITY_SECRET, AUTHORITY_ROOTS_SECRET]) {
      await this.removeNamed(SECRETS, namespace, name, `Secret ${namespace}/${name}`)
    }
    await this.removeNamed(LEASES, namespace, CONTROLLER_LEASE, `Lease ${namespace}/${CONTROLLER_LEASE}`)
    const fieldSelector = `metadata.name=${TRUST_CONFIG_MAP}`
    for (const { metadata } of await this.api.list(CONFIG_MAPS, { fieldSelector })) {
      const place = metadata.namespace!
      await this.removeNamed(CONFIG_MAPS, place, metadata.name, `ConfigMap ${place}/${metadata.name}`)
    }
  }

  /** Of objects whose CRDs stay. Nobody is left who would keep it true. */
  private async removeStatuses(): Promise<void> {
    // By name: the image, in which the chart's hook runs, has no CRDs.
    for (const name of MESH_GROUPS.flatMap(({ group, resources }) => resources.map((plural) => `${plural}.${group}`))) {
      const what = `status of ${name}`
      try {
        const found = await this.api.get(CRDS, null, name)
        if (found === null || found.metadata.deletionTimestamp !== undefined) continue
        const type = storedType(found)
        const count = await removeStatus(this.api, type)
        if (count > 0) this.tell(`${what}: conditions of weft.dev in ${count} objects`)
      } catch (error) {
        if (!(error instanceof KubernetesError)) throw error
        this.keep(what, `conditions of weft.dev cannot be removed: ${error.message}`)
      }
    }
  }

  private async removeCrd(ours: KubernetesObject, isWithObjects: boolean): Promise<void> {
    const { name } = ours.metadata
    const found = await this.api.get(CRDS, null, name)
    if (found === null) return
    if (!isOwn(found)) {
      this.keep(nameOf(ours), 'somebody else installed it')
      return
    }
    const objects = await this.objectsOf(found)
    if (objects.length > 0 && !isWithObjects) {
      const named = objects.slice(0, NAMED_MAX).map(({ metadata }) => `${metadata.namespace}/${metadata.name}`)
      const more = objects.length > NAMED_MAX ? ' ...' : ''
      this.keep(
        nameOf(ours),
        `${objects.length} objects are in it: ${named.join(' ')}${more}; --crds removes them, too`,
      )
      return
    }
    await this.removeNamed(CRDS, null, name, nameOf(ours))
    await this.gone(CRDS, null, name)
  }

  private async objectsOf(crd: KubernetesObject): Promise<readonly KubernetesObject[]> {
    return await this.api.list(storedType(crd))
  }

  /** With everything in it, if that is nothing of the user's. */
  private async removeNamespace(object: KubernetesObject): Promise<void> {
    const { name } = object.metadata
    const found = await this.api.get(NAMESPACES, null, name)
    if (found === null) return
    if (!isOwn(found)) {
      this.keep(nameOf(object), "not made by Weft's installation")
      return
    }
    if (this.nodes.waiting.length > 0) {
      const again = `weft uninstall --namespace ${name} removes it when that is done`
      this.keep(nameOf(object), `the clean-up of ${this.nodes.waiting.join(' ')} waits in it; ${again}`)
      return
    }
    const users = await this.usersObjects(name)
    if (users.length > 0) {
      this.keep(nameOf(object), `there are objects of yours in it: ${users.slice(0, NAMED_MAX).join(' ')}`)
      return
    }
    await this.removeNamed(NAMESPACES, null, name, nameOf(object))
    await this.gone(NAMESPACES, null, name)
  }

  private async usersObjects(namespace: string): Promise<readonly string[]> {
    const kinds = [
      ['Pod', PODS],
      ['Service', SERVICES],
      ['Secret', SECRETS],
      ['ConfigMap', CONFIG_MAPS],
      ['PersistentVolumeClaim', PERSISTENT_VOLUME_CLAIMS],
    ] as const
    const found: string[] = []
    for (const [kind, type] of kinds) {
      for (const object of await this.api.list(type, { namespace })) {
        const { name, deletionTimestamp } = object.metadata
        const isAutomatic = kind === 'ConfigMap' && /^(kube-root-ca\.crt|openshift-service-ca\.crt)$/.test(name)
        if (!isOwn(object) && !isAutomatic && deletionTimestamp === undefined) found.push(`${kind} ${name}`)
      }
    }
    return found
  }

  // --- both ---

  private async look(type: ResourceType, namespace: string | null, name: string): Promise<KubernetesObject | null> {
    try {
      return await this.api.get(type, namespace, name)
    } catch (error) {
      // PodMonitors, for somebody who may not see any: then none were made either.
      if (error instanceof KubernetesError && error.isForbidden && type.group === 'monitoring.coreos.com') return null
      throw error
    }
  }

  private async gone(type: ResourceType, namespace: string | null, name: string): Promise<void> {
    const what = `${nameOfType(type)} ${name}`
    const look = async (): Promise<true | null> => {
      if ((await this.api.get(type, namespace, name)) === null) return true
      this.options.progress.state(what, 'is being deleted')
      return null
    }
    await until(this.options.limits, look, () => `${what} is still being deleted`)
  }

  private tell(what: string): void {
    this.removed.push(what)
    this.options.progress.done('removed', what)
  }

  private keep(what: string, why: string): void {
    this.left.push(`${what}: ${why}`)
    this.options.progress.done('left', `${what}: ${why}`)
  }
}

/** What removing needs beyond the verbs on the objects themselves. */
export function removalAccess(namespace: string): readonly Access[] {
  const of = (type: ResourceType, verbs: readonly string[], place: string | null): Access[] =>
    verbs.map((verb) => ({ type, verb, namespace: place }))
  return [
    ...of(PODS, ['list', 'get', 'create', 'delete'], namespace),
    ...of(SECRETS, ['list', 'delete'], namespace),
    ...of(LEASES, ['delete'], namespace),
    ...of(CONFIG_MAPS, ['list', 'delete'], null),
    ...of(NODES, ['list'], null),
    ...of(CRDS, ['get', 'delete'], null),
  ]
}

/** Objects of a CRD in the version that the API server keeps. */
function storedType(crd: KubernetesObject): ResourceType {
  const { group, names, versions } = crd['spec'] as {
    readonly group: string
    readonly names: { readonly plural: string }
    readonly versions: readonly { readonly name: string; readonly storage: boolean }[]
  }
  const version = versions.find(({ storage }) => storage)!.name
  return { group, version, plural: names.plural, isNamespaced: true }
}

/** The webhook first: nobody could answer it any more. */
function inOrderOfRemoval(objects: readonly KubernetesObject[]): readonly KubernetesObject[] {
  const isWebhook = ({ kind }: KubernetesObject): boolean => kind === 'ValidatingWebhookConfiguration'
  const rest = objects.filter((object) => !isWebhook(object))
  return [...objects.filter(isWebhook), ...rest.reverse()]
}
