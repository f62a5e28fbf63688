/** Rules that miss their target: hosts that no service has, subsets that select nobody. */
import { groupBy } from '../base/group-by.ts'
import type { Steps } from '../base/steps.ts'
import type { DestinationRule, MergedRule } from './destination-rule.ts'
import { isWildcard, unknownHostFix, wildcardCovers } from './hosts.ts'
import type { Selection } from './inventory.ts'
import { findings } from './messages.ts'
import type { MeshObject, Path } from './object.ts'
import { selects } from './selector.ts'
import type { Run } from './settings.ts'
import { destinationsOf, type VirtualService } from './virtual-service.ts'

/** Reports hosts and destinations of rules that there is no service for. */
export function* reportUnknownHosts(
  virtualServices: readonly VirtualService[],
  rules: readonly DestinationRule[],
  { hosts, serviceByHost }: Selection,
  run: Run,
): Steps<void> {
  const isKnown = (host: string): boolean =>
    isWildcard(host) ? [...hosts].some((one) => wildcardCovers(host, one)) : hosts.has(host)
  const fix = (written: string, host: string): string =>
    unknownHostFix(written, host, hosts, run.settings.clusterDomain)
  const reportAlias = (object: MeshObject, path: Path, host: string): void => {
    const alias = serviceByHost.get(host)?.alias
    if (alias !== undefined) run.log.add(object, path, findings.hostIsAlias(host, alias))
  }
  for (const rule of virtualServices) {
    yield
    rule.hosts.forEach((host, i) => {
      reportAlias(rule.object, ['spec', 'hosts', i], host)
      if (isKnown(host)) return
      run.log.add(
        rule.object,
        ['spec', 'hosts', i],
        findings.hostWithoutService(host, fix(rule.writtenHosts[i]!, host)),
      )
    })
  }
  for (const rule of virtualServices) {
    yield
    for (const { host, writtenHost, path } of destinationsOf(rule)) {
      reportAlias(rule.object, [...path, 'host'], host)
      if (!hosts.has(host))
        run.log.add(rule.object, [...path, 'host'], findings.hostUnknown(host, fix(writtenHost, host)))
    }
  }
  for (const { object, host, writtenHost } of rules) {
    yield
    reportAlias(object, ['spec', 'host'], host)
    if (!isKnown(host)) run.log.add(object, ['spec', 'host'], findings.ruleHostUnknown(host, fix(writtenHost, host)))
  }
}

/** Reports subsets of services that no endpoint is in. */
export function* reportEmptySubsets(
  rules: readonly MergedRule[],
  { services, membersOf }: Selection,
  run: Run,
): Steps<void> {
  const servicesOf = groupBy(services, ({ hostname }) => hostname)
  for (const rule of rules) {
    yield
    const covered = isWildcard(rule.host)
      ? services.filter(({ hostname }) => wildcardCovers(rule.host, hostname))
      : (servicesOf.get(rule.host) ?? [])
    if (covered.length === 0) continue
    for (const subset of rule.subsets.values()) {
      const hasMember = covered.some(({ key }) =>
        membersOf.get(key)?.some((member) => selects(subset.labels, member.labels)),
      )
      if (hasMember) continue
      run.log.add(subset.object, ['spec', 'subsets', subset.index, 'labels'], findings.subsetEmpty(subset.name))
    }
  }
}
