/**
 * The names that the mesh knows: those of services, for the pods that may see them. What they stand for is in
 * mesh-answers.ts. Hosts of which the mesh only knows a wildcard are nobody's here.
 */
import type { Service } from '../model/service.ts'

const NOBODY: readonly Service[] = []

/** Names of the mesh as it is. A change costs one pass over the services that did not change, and work for those that did. */
export class MeshNames {
  private services: ReadonlyMap<string, Service> = new Map()
  /** By host name. More than one when several namespaces describe the same host. Sorted by key. */
  private readonly byHost = new Map<string, Service[]>()
  /** Kubernetes services by `name.namespace`. */
  private readonly byShortName = new Map<string, Service>()

  /** Brings the names to what `services` (by key) are now. */
  update(services: ReadonlyMap<string, Service>): void {
    for (const [key, service] of this.services) if (services.get(key) !== service) this.remove(service)
    for (const [key, service] of services) if (this.services.get(key) !== service) this.add(service)
    this.services = services
  }

  get size(): number {
    return this.byHost.size
  }

  /**
   * The service that `host` (lower case, no last dot) is to a pod of `namespace`; null when the mesh does not answer it.
   * Besides whole names these are `name`, `name.namespace` and `name.namespace.svc`: a resolver that was told to complete
   * names asks for the completed ones first, so that what arrives like this was meant like this.
   */
  find(host: string, namespace: string): Service | null {
    const whole = this.findWhole(host, namespace)
    if (whole !== null) return whole
    const short = this.byShortName.get(shortName(host, namespace))
    return short !== undefined && isVisible(short, namespace) ? short : null
  }

  /** The same for whole names alone. */
  findWhole(host: string, namespace: string): Service | null {
    let best: Service | null = null
    for (const service of this.byHost.get(host) ?? NOBODY) {
      if (!isVisible(service, namespace)) continue
      if (service.namespace === namespace) return service
      best ??= service
    }
    return best
  }

  /** Services whose names pods of `namespace` may ask for, by host name; at most `limit`. */
  visibleTo(namespace: string, limit: number): Service[] {
    const services: Service[] = []
    for (const host of [...this.byHost.keys()].sort()) {
      if (services.length >= limit) break
      const service = this.find(host, namespace)
      if (service !== null) services.push(service)
    }
    return services
  }

  private add(service: Service): void {
    if (!hasName(service)) return
    const list = this.byHost.get(service.hostname)
    this.byHost.set(service.hostname, list === undefined ? [service] : [...list, service].sort(byKey))
    if (isClusterService(service)) this.byShortName.set(`${service.name}.${service.namespace}`, service)
  }

  private remove(service: Service): void {
    if (!hasName(service)) return
    const rest = this.byHost.get(service.hostname)!.filter((other) => other !== service)
    if (rest.length === 0) this.byHost.delete(service.hostname)
    else this.byHost.set(service.hostname, rest)
    const short = `${service.name}.${service.namespace}`
    if (this.byShortName.get(short) === service) this.byShortName.delete(short)
  }
}

/** True for a service whose host name may be answered here. */
function hasName({ addresses, hostname, isHeadless, alias }: Service): boolean {
  return (addresses.length > 0 || isHeadless === true || alias !== undefined) && !hostname.startsWith('*')
}

function byKey(a: Service, b: Service): number {
  return a.key < b.key ? -1 : 1
}

/** `name.namespace` of a host that may be a short name; else a text that no service has. */
function shortName(host: string, namespace: string): string {
  const first = host.indexOf('.')
  if (first < 0) return `${host}.${namespace}`
  const second = host.indexOf('.', first + 1)
  if (second < 0) return host
  return host.slice(second) === '.svc' ? host.slice(0, second) : ''
}

/** True for services of Kubernetes, whose host names are made of name and namespace. */
export function isClusterService({ name, namespace, hostname }: Service): boolean {
  return hostname.startsWith(`${name}.${namespace}.svc.`)
}

function isVisible({ exportTo }: Service, namespace: string): boolean {
  return exportTo === undefined || exportTo.includes(namespace)
}
