/** Looks names up from the agent's own network, TTLs included. */
import { Resolver } from 'node:dns/promises'
import type { FoundAddresses } from './named-endpoints.ts'

/** Tries of one resolver, and how long each waits: with three resolvers an answer or an error within 12 s. */
const TRIES = 2
const TIMEOUT_MS = 2_000

/**
 * IPv4 addresses, or IPv6 ones where there are no others; `servers` are resolvers to ask, null the machine's own. Rejects
 * with the error of node:dns.
 */
export function systemLookup(servers: readonly string[] | null): (hostname: string) => Promise<FoundAddresses> {
  const resolver = new Resolver({ timeout: TIMEOUT_MS, tries: TRIES })
  if (servers !== null) resolver.setServers(servers)
  return async (hostname) => {
    const records = await resolver.resolve4(hostname, { ttl: true }).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENODATA') return resolver.resolve6(hostname, { ttl: true })
      throw error
    })
    return {
      addresses: records.map(({ address }) => address),
      ttlMs: Math.min(...records.map(({ ttl }) => ttl)) * 1_000,
    }
  }
}
