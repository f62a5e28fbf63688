/** Clients of every protocol in a pod, to servers in others, for as long as the test likes: its end of live-mixed.ts. */
import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import type { LiveMesh } from './live-mesh.ts'
import type { Outcomes } from './live-mixed.ts'
import { finished } from './netns.ts'

const PROGRAM = fileURLToPath(new URL('./live-mixed.ts', import.meta.url))

export class MixedLoad {
  private readonly clients: readonly ReturnType<LiveMesh['spawnIn']>[]
  private readonly results: readonly ReturnType<typeof finished>[]

  private constructor(clients: MixedLoad['clients']) {
    this.clients = clients
    this.results = clients.map(finished)
  }

  /** Starts the servers in pods that have services of the same names; a client for each address of those, in `client`. */
  static async start(mesh: LiveMesh, client: string, servers: readonly string[]): Promise<MixedLoad> {
    for (const pod of servers) mesh.startIn(pod, 'server', [process.execPath, PROGRAM, 'serve'])
    const addresses = mesh.plan.services.filter(({ name }) => servers.includes(name)).flatMap((s) => s.addresses)
    assert.equal(addresses.length, servers.length * 2, 'IPv4 and IPv6 of each')
    for (const address of addresses) {
      const host = address.includes(':') ? `[${address}]` : address
      const isServed = async () => (await mesh.code(client, `http://${host}:8080/${address}`)) === '200'
      await mesh.eventually('it is served', isServed)
    }
    const clients = addresses.map((address) => mesh.spawnIn(client, [process.execPath, PROGRAM, 'client', address]))
    const load = new MixedLoad(clients)
    const ports = 'dport = 7000 or dport = 8080 or dport = 8081'
    await mesh.eventually('every client has its connections open', async () => {
      const { stdout } = await mesh.run(client, ['ss', '-Htn', 'state', 'established', ports])
      return stdout.split('\n').length - 1 >= addresses.length * 3
    })
    return load
  }

  /** Ends the clients; fails unless everything that they asked for was answered, and once. */
  async stop(): Promise<void> {
    for (const client of this.clients) client.stdin.end()
    for (const result of this.results) {
      const { status, stdout, stderr } = await result
      assert.deepEqual([status, stderr], [0, ''])
      for (const [protocol, outcomes] of Object.entries(JSON.parse(stdout) as Record<string, Outcomes>)) {
        assert.deepEqual(Object.keys(outcomes), ['200'], `${protocol}: ${JSON.stringify(outcomes)}`)
        assert.ok(outcomes['200']! > 20, `${protocol}: ${JSON.stringify(outcomes)}`)
      }
    }
  }
}
