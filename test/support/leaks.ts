/** What a proxy still holds: for tests that end with everything given back. */
import type { MeshProxy } from '../../src/proxy/mesh-proxy.ts'
import { PATH_TUNNEL, type Path } from '../../src/proxy/upstreams.ts'

/** What tests look at inside of a proxy, none of which is anyone else's business. */
interface Insides {
  readonly parts: {
    readonly clusters: {
      states(): readonly {
        readonly requestsActive: number
        readonly pendingActive: number
        readonly retriesActive: number
        readonly connectionsActive: number
        readonly endpoints: readonly { readonly requestsActive: number }[]
      }[]
    }
    readonly deadlines: { readonly running: number }
    readonly upstreams: {
      readonly sources: ReadonlyMap<
        string,
        {
          readonly http: ReadonlyMap<unknown, PoolInsides>
          readonly http2: ReadonlyMap<unknown, PoolInsides>
          readonly direct: ReadonlyMap<unknown, PoolInsides>
          readonly app: ReadonlyMap<unknown, PoolInsides>
        }
      >
    }
  }
}

interface PoolInsides {
  readonly all: ReadonlySet<{ readonly activeCount: number; readonly codec: unknown }>
  readonly roomy: readonly unknown[]
  readonly waiting: readonly unknown[]
  readonly path: Path
  readonly connecting: number
}

/** Idle connections that a proxy keeps through tunnels. */
function pooledThroughTunnels(proxy: MeshProxy): number {
  let count = 0
  for (const { http, http2 } of (proxy as unknown as Insides).parts.upstreams.sources.values()) {
    for (const pool of [...http.values(), ...http2.values()]) if (pool.path === PATH_TUNNEL) count += pool.all.size
  }
  return count
}

/**
 * What is held beyond idle pooled connections, in words; empty when nothing is. `pooledElsewhere` of its connections are
 * the far ends of such.
 */
function heldBy(proxy: MeshProxy, pooledElsewhere: number): string[] {
  const { parts } = proxy as unknown as Insides
  const held: string[] = []
  const note = (name: string, count: number): void => {
    if (count !== 0) held.push(`${name}: ${count}`)
  }
  if (proxy.connectionCount !== pooledElsewhere) {
    held.push(`connections, with ${pooledElsewhere} pooled elsewhere: ${JSON.stringify(proxy.describeConnections(9))}`)
  }
  note('deadlines', parts.deadlines.running)
  let connectionCount = 0
  for (const { http, http2, direct, app } of parts.upstreams.sources.values()) {
    for (const pool of [...http.values(), ...http2.values(), ...direct.values(), ...app.values()]) {
      note('waiting for a connection', pool.waiting.length)
      note('connecting', pool.connecting)
      note('idle connections that are not offered', pool.all.size - pool.roomy.length)
      for (const upstream of pool.all) note('exchanges of a pooled connection', upstream.activeCount)
    }
    for (const pool of [...http.values(), ...http2.values()]) connectionCount += pool.all.size
  }
  for (const cluster of parts.clusters.states()) {
    note('requests of a cluster', cluster.requestsActive)
    note('pending of a cluster', cluster.pendingActive)
    note('retries of a cluster', cluster.retriesActive)
    for (const endpoint of cluster.endpoints) note('requests of an endpoint', endpoint.requestsActive)
    connectionCount -= cluster.connectionsActive
  }
  note('connections counted wrongly by clusters', connectionCount)
  return held
}

/** Only a failing test waits so long. */
const RELEASE_TIMEOUT_MS = 20_000

/** Resolves when neither proxy holds anything; rejects with what it is after a while. The first dials the second. */
export async function released(
  [near, far]: readonly [MeshProxy, MeshProxy],
  timeoutMs = RELEASE_TIMEOUT_MS,
): Promise<void> {
  const deadline = performance.now() + timeoutMs
  for (;;) {
    const held = [
      ...heldBy(near, 0).map((text) => `the first node holds ${text}`),
      ...heldBy(far, pooledThroughTunnels(near)).map((text) => `the second node holds ${text}`),
    ]
    if (held.length === 0) return
    if (performance.now() > deadline) throw new Error(held.join('; '))
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
