/**
 * Objects that a rule refers to and that nobody has told us of yet: of one file kubectl applies the second a moment after
 * the first, and the watch may bring the first later than the API server asks about the second.
 *
 * The API server itself is asked, once, when a review would warn of something missing, and no longer than a moment: what it
 * does not say in time stays missing, which is a warning and no refusal. Anybody can make the webhook ask, so it asks
 * seldom.
 */
import type { Clock } from '../base/clock.ts'
import { expandHost } from '../compiler/hosts.ts'
import { isTree, type MeshObject, own } from '../compiler/object.ts'
import type { KubernetesApi, KubernetesObject, ResourceType } from '../kubernetes/api.ts'
import { readObject } from './kind-store.ts'

/** For all answers together: a fraction of what the API server waits for the webhook (5 s unless set otherwise). */
const LOOKUP_MS_MAX = 1_000
/**
 * Lookups in one second: two for each Service, DestinationRule and VirtualService of a long file, of which kubectl applies
 * some twenty objects a second. More are somebody who tries something, and pays for each with a request of his own.
 */
const LOOKUPS_PER_SECOND = 50
/** Hosts of one rule that are looked for. Files that bring more services with a rule wait for the watch. */
const HOSTS_MAX = 8
/** Objects of one list. What is beyond stays unseen until the watch brings it. */
const LISTED_MAX = 250
/** Depth of a rule's spec at which hosts stand: http, route, destination, host, with lists between. */
const DEPTH_MAX = 8

const SERVICES: ResourceType = { group: '', version: 'v1', plural: 'services', isNamespaced: true }

/** Which API server, and how names are completed. */
export interface ReferenceLookupOptions {
  readonly api: Pick<KubernetesApi, 'listPage'>
  readonly clusterDomain: string
  readonly clock: Clock
}

/** See the head of the file. */
export class ReferenceLookup {
  private readonly options: ReferenceLookupOptions
  private secondBeganMs = 0
  private lookups = 0

  constructor(options: ReferenceLookupOptions) {
    this.options = options
  }

  /** What the API server has of the things that `candidate` may refer to. Never rejects. */
  async find(candidate: MeshObject): Promise<readonly MeshObject[]> {
    const hosts = hostsOf(candidate, this.options.clusterDomain)
    if (hosts.length === 0 || !this.isAllowed()) return []
    const abort = new AbortController()
    const cancel = this.options.clock.after(LOOKUP_MS_MAX, () => abort.abort(new Error('it took too long')))
    const { signal } = abort
    const version = candidate.apiVersion.slice(candidate.apiVersion.indexOf('/') + 1)
    const rules = { group: 'networking.istio.io', version, isNamespaced: true }
    const services = hosts.map((host) => serviceOf(host, this.options.clusterDomain)).filter((one) => one !== null)
    const namespaces = new Set([candidate.namespace, ...services.map(({ namespace }) => namespace)])
    try {
      const found = await Promise.all([
        ...services.map(({ namespace, name }) => this.list(SERVICES, 'Service', namespace, signal, name)),
        ...[...namespaces].map((one) =>
          this.list({ ...rules, plural: 'destinationrules' }, 'DestinationRule', one, signal),
        ),
        this.list({ ...rules, plural: 'serviceentries' }, 'ServiceEntry', candidate.namespace, signal),
      ])
      return found.flat().filter(({ key }) => key !== candidate.key)
    } finally {
      cancel()
    }
  }

  private isAllowed(): boolean {
    const nowMs = this.options.clock.now()
    if (nowMs - this.secondBeganMs >= 1_000) {
      this.secondBeganMs = nowMs
      this.lookups = 0
    }
    return this.lookups++ < LOOKUPS_PER_SECOND
  }

  /** Empty when there is none, or no answer in time. */
  private async list(
    type: ResourceType,
    kind: string,
    namespace: string,
    signal: AbortSignal,
    name?: string,
  ): Promise<readonly MeshObject[]> {
    const fields = name === undefined ? {} : { fieldSelector: `metadata.name=${name}` }
    try {
      const page = await this.options.api.listPage(type, { namespace, signal, ...fields }, '', { limit: LISTED_MAX })
      return page.items.map((item: KubernetesObject) => readObject(item, kind)).filter((object) => object !== null)
    } catch {
      // The warning stays, which is what there would be without a lookup.
      return []
    }
  }
}

/** Hosts that the spec names, completed; each once. */
function hostsOf({ spec, namespace }: MeshObject, clusterDomain: string): readonly string[] {
  const hosts = new Set<string>()
  const look = (value: unknown, depth: number): void => {
    if (depth > DEPTH_MAX || hosts.size >= HOSTS_MAX) return
    if (Array.isArray(value)) for (const one of value) look(one, depth + 1)
    else if (isTree(value)) {
      const host = own(value, 'host')
      if (typeof host === 'string') hosts.add(expandHost(host, namespace, clusterDomain))
      for (const key of Object.keys(value)) look(own(value, key), depth + 1)
    }
  }
  const named = isTree(spec) ? own(spec, 'hosts') : undefined
  for (const host of Array.isArray(named) ? named : []) {
    if (typeof host === 'string' && hosts.size < HOSTS_MAX) hosts.add(expandHost(host, namespace, clusterDomain))
  }
  look(spec, 0)
  return [...hosts]
}

/** The Service that a host names by its full name; null when it can be none. */
function serviceOf(host: string, clusterDomain: string): { readonly name: string; readonly namespace: string } | null {
  const suffix = `.svc.${clusterDomain}`
  if (!host.endsWith(suffix)) return null
  const [name, namespace, ...more] = host.slice(0, -suffix.length).split('.')
  return name === undefined || namespace === undefined || more.length > 0 || !/^[a-z0-9]/.test(name)
    ? null
    : { name, namespace }
}
