/** Host names as rules write them: expansion of short names, wildcards, and to whom a rule is visible (exportTo). */
import { parseAddress } from '../base/address.ts'
import { quote } from './messages.ts'
import { checked, closest, list, type Shape, text } from './schema.ts'
import { isDnsLabel } from './strings.ts'

/** `reviews` becomes `reviews.<namespace>.svc.<domain>`; a host with a dot, `*` and addresses stay as they are. */
export function expandHost(host: string, namespace: string, clusterDomain: string): string {
  if (host === '*' || host.includes('.') || parseAddress(host) !== null) return host.toLowerCase()
  return `${host.toLowerCase()}.${namespace}.svc.${clusterDomain}`
}

/** True for `*` and `*.suffix`. */
export function isWildcard(host: string): boolean {
  return host.startsWith('*')
}

/** True when a wildcard covers a host at any depth: `*.foo.com` covers `a.foo.com` and `a.b.foo.com`, never `foo.com`. */
export function wildcardCovers(wildcard: string, host: string): boolean {
  return wildcard === '*' || (host.length >= wildcard.length && host.endsWith(wildcard.slice(1)))
}

/** A host name of a rule: a DNS name, one with a wildcard as its whole first label, or an address. */
export const ruleHost: Shape<string | null> = checked(text, (host, cursor) => {
  if (parseAddress(host) !== null) return
  const labels = (host.startsWith('*.') ? host.slice(2) : host).toLowerCase().split('.')
  const isValid =
    host === '*' || (host.length <= 255 && labels.every((label) => /^_?[a-z0-9]/.test(label) && isHostLabel(label)))
  if (!isValid) {
    cursor.reject(
      `${quote(host)} is not a host name.`,
      'Write a service name, a full name, or a wildcard as the first label ("*.shop.svc.cluster.local").',
    )
  }
})

function isHostLabel(label: string): boolean {
  return isDnsLabel(label.startsWith('_') ? label.slice(1) : label)
}

/** What to do about a host that names no service: the mistakes people make most. */
export function unknownHostFix(
  written: string,
  expanded: string,
  hosts: ReadonlySet<string>,
  clusterDomain: string,
): string {
  const labels = written.split('.')
  if (labels.length === 2 && hosts.has(`${written}.svc.${clusterDomain}`)) {
    return `Names with a dot are not completed: write ${written}.svc.${clusterDomain}.`
  }
  const short = expanded.split('.')[0]!
  const sameName = [...hosts].filter((host) => host.startsWith(`${short}.`)).sort()
  if (sameName.length > 0) return `Did you mean ${sameName[0]}?`
  const near = closest(expanded, [...hosts].sort())
  return near === null ? 'Add the service, or correct the host.' : `Did you mean ${near}?`
}

/** To which namespaces a rule is visible. */
export interface Visibility {
  readonly isPublic: boolean
  /** The namespaces named (`.` resolved); meaningless when public. */
  readonly namespaces: ReadonlySet<string>
}

/** The list exportTo; absent is everyone. */
export const exportToField: Shape<readonly string[]> = checked(list(text), (entries, cursor) => {
  if (new Set(entries).size < entries.length) cursor.reject('An entry is written twice.', 'Remove one.')
  if (entries.includes('*') && entries.length > 1) cursor.reject('"*" stands beside other entries.', 'Write "*" alone.')
  entries.forEach((entry, i) => {
    if (entry === '.' || entry === '*' || isDnsLabel(entry)) return
    cursor.at(i).reject(`${quote(entry)} is not a namespace.`, 'Write ".", "*" or the name of a namespace.')
  })
})

/** What `exportTo` of an object in `namespace` says. */
export function visibilityOf(exportTo: readonly string[], namespace: string): Visibility {
  const isPublic = exportTo.length === 0 || exportTo.includes('*')
  return { isPublic, namespaces: new Set(exportTo.map((entry) => (entry === '.' ? namespace : entry))) }
}

/** True when clients of `namespace` may see what has this visibility. */
export function isVisible(visibility: Visibility, namespace: string): boolean {
  return visibility.isPublic || visibility.namespaces.has(namespace)
}

/** True when only the rule's own namespace sees it. */
export function isPrivate(visibility: Visibility, namespace: string): boolean {
  return !visibility.isPublic && visibility.namespaces.size === 1 && visibility.namespaces.has(namespace)
}

/** A visibility as the model has it: absent for everyone. `~` in a list is nobody. */
export function exportOf({ isPublic, namespaces }: Visibility): { readonly exportTo?: readonly string[] } {
  return isPublic ? {} : { exportTo: [...namespaces].filter((name) => name !== '~').sort() }
}
