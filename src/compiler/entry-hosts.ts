/** Which ServiceEntry has which host, and the virtual IPs of hosts that come without: ServiceEntries to services. */
import { PROTOCOL_UDP, type Service, serviceKey } from '../model/service.ts'
import { exportOf } from './hosts.ts'
import { findings } from './messages.ts'
import { compareAge } from './object.ts'
import type { ServiceEntry } from './service-entry.ts'
import type { Run } from './settings.ts'
import { VirtualIpAllocator } from './virtual-ips.ts'

/** One host of an entry. */
export interface EntryHost {
  readonly entry: ServiceEntry
  readonly service: Service
}

/**
 * The hosts that entries describe, with their virtual IPs. A host of a service stays the service's; of two entries of a
 * namespace with one host the older has it. Hosts without addresses get theirs in the order of age.
 */
export function claimHosts(
  entries: readonly ServiceEntry[],
  services: readonly Service[],
  workloadAddresses: Iterable<string>,
  run: Run,
): EntryHost[] {
  if (entries.length === 0) return []
  const byAge = [...entries].sort((a, b) => compareAge(a.object, b.object))
  const clusterHosts = new Map(services.map((service) => [service.hostname, service.key]))
  const hostOwners = new Map<string, ServiceEntry>()
  const addressOwners = new Map<string, string>()
  for (const service of services) for (const address of service.addresses) addressOwners.set(address, service.key)
  const claimed: { entry: ServiceEntry; host: string; addresses: readonly string[] }[] = []
  for (const entry of byAge) {
    const { object } = entry
    let { addresses } = entry
    const clash = addresses.find((address) => addressOwners.has(address))
    if (clash !== undefined) {
      run.log.add(object, ['spec', 'addresses'], findings.duplicateAddress(clash, addressOwners.get(clash)!))
      continue
    }
    for (const host of entry.hosts) {
      const key = serviceKey(object.namespace, host)
      const owner = clusterHosts.get(host) ?? hostOwners.get(key)?.object.key
      if (owner !== undefined) {
        run.log.add(object, ['spec', 'hosts'], findings.hostIsService(host, owner))
        continue
      }
      hostOwners.set(key, entry)
      for (const address of addresses) addressOwners.set(address, object.key)
      claimed.push({ entry, host, addresses })
      addresses = []
    }
  }
  const allocator = new VirtualIpAllocator(run.settings.virtualIpBlocks, [
    ...addressOwners.keys(),
    ...workloadAddresses,
  ])
  return claimed.map(({ entry, host, addresses }) => {
    const { object, ports, visibility } = entry
    const key = serviceKey(object.namespace, host)
    const udp = ports.findIndex(({ protocol }) => protocol === PROTOCOL_UDP)
    // Who asks for a host that leads nowhere is better off with what other resolvers know of it.
    const isReachable = ports.length > 0 && udp < 0 && (entry.endpoints.length > 0 || entry.isOwnEndpoint)
    const given = addresses.length > 0 || !isReachable ? addresses : allocator.allocate(key)
    if (addresses.length === 0 && udp >= 0) {
      run.log.add(object, ['spec', 'ports', udp], findings.udpEntry(ports[udp]!.number))
    }
    if (given.length === 0 && isReachable) run.log.add(object, ['spec', 'hosts'], findings.noVirtualIpLeft(host))
    const service = {
      key,
      name: host,
      namespace: object.namespace,
      hostname: host,
      addresses: given,
      ports: [...ports].sort((a, b) => a.number - b.number),
      ...exportOf(visibility),
    }
    return { entry, service }
  })
}
