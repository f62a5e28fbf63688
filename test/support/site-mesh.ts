/** A mesh of two nodes with the web site of web-site.ts in a pod on each, and a client beside the first. */
import { PROTOCOL_HTTP1, PROTOCOL_HTTP2, type Protocol, type Service } from '../../src/model/service.ts'
import { Door } from './grpc-echo.ts'
import { TestMesh, type TestPod } from './mesh.ts'
import { findProgram, temporaryDirectory } from './programs.ts'
import type { Target } from './web-clients.ts'
import { SITE_SERVERS, startSite } from './web-site.ts'

export class SiteMesh {
  readonly directory: string
  readonly mesh: TestMesh
  readonly client: TestPod
  private readonly services: readonly Service[]
  private readonly endSite: () => Promise<void>
  private readonly removeDirectory: () => void
  private readonly doors = new Map<string, Promise<Door>>()

  private constructor(
    directory: { path: string; remove: () => void },
    mesh: TestMesh,
    client: TestPod,
    services: readonly Service[],
    endSite: () => Promise<void>,
  ) {
    this.directory = directory.path
    this.removeDirectory = directory.remove
    this.mesh = mesh
    this.client = client
    this.services = services
    this.endSite = endSite
  }

  /** With every server whose program is there. */
  static async start(): Promise<SiteMesh> {
    const directory = temporaryDirectory()
    const mesh = new TestMesh(2)
    const client = await mesh.pod('client', { node: 0 })
    const pods: TestPod[] = []
    const services: Service[] = []
    for (const [index, name] of ['local', 'remote'].entries()) {
      const pod = await mesh.pod(name, { node: index })
      const declared = SITE_SERVERS.map(({ port, version }) => {
        const protocol: Protocol = version === 1 ? PROTOCOL_HTTP1 : PROTOCOL_HTTP2
        return { number: port, targetPort: port, protocol }
      })
      pods.push(pod)
      services.push(await mesh.service(name, declared, [pod]))
    }
    const addresses = pods.map(({ appAddress }) => appAddress)
    const endSite = await startSite(directory.path, addresses, (name) => findProgram(name) !== null)
    return new SiteMesh(directory, mesh, client, services, endSite)
  }

  /** A server as the client sees it: 0 in one hop, 1 through a tunnel. */
  target(index: number, port: number): Target {
    return { host: this.mesh.vip(this.services[index]!, 0), port, localAddress: this.client.address }
  }

  /** `host:port` for clients that cannot bind their address. */
  async door({ host, port, localAddress }: Target): Promise<string> {
    const key = `${host}:${port}`
    let door = this.doors.get(key)
    if (door === undefined) {
      door = Door.open(localAddress, host, port)
      this.doors.set(key, door)
    }
    return (await door).target
  }

  async close(): Promise<void> {
    for (const door of this.doors.values()) (await door).close()
    this.mesh.close()
    await this.endSite()
    this.removeDirectory()
  }
}
