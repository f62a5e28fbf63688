/**
 * A mesh in a process of its own, so that its memory can be measured: run with this file as the program it is one, and
 * `MeshProcess` starts it. Its pods are a client, and a server on each of two nodes; their apps are the test's.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { PROTOCOL_HTTP1, PROTOCOL_HTTP2, PROTOCOL_TCP } from '../../src/model/service.ts'
import { TestMesh } from './mesh.ts'
import type { Target } from './web-clients.ts'

export const BULK_TCP = 8600
export const BULK_1 = 8601
export const BULK_2 = 8602

interface Addresses {
  readonly client: string
  /** In one hop, then through a tunnel. */
  readonly apps: readonly string[]
  readonly services: readonly string[]
}

async function main(): Promise<void> {
  const mesh = new TestMesh(2)
  const client = await mesh.pod('client', { node: 0 })
  const apps: string[] = []
  const services: string[] = []
  for (const [index, name] of ['local', 'remote'].entries()) {
    const pod = await mesh.pod(name, { node: index })
    const ports = [
      { number: BULK_TCP, targetPort: BULK_TCP, protocol: PROTOCOL_TCP },
      { number: BULK_1, targetPort: BULK_1, protocol: PROTOCOL_HTTP1 },
      { number: BULK_2, targetPort: BULK_2, protocol: PROTOCOL_HTTP2 },
    ] as const
    apps.push(pod.appAddress)
    services.push(mesh.vip(await mesh.service(name, ports, [pod]), 0))
  }
  const addresses: Addresses = { client: client.address, apps, services }
  console.log(JSON.stringify(addresses))
  process.stdin.resume()
  process.stdin.on('end', () => process.exit())
}

export class MeshProcess {
  readonly addresses: Addresses
  private readonly child: ChildProcess

  private constructor(child: ChildProcess, addresses: Addresses) {
    this.child = child
    this.addresses = addresses
  }

  static async start(): Promise<MeshProcess> {
    const child = spawn(process.execPath, [import.meta.filename], { stdio: ['pipe', 'pipe', 'inherit'] })
    const [line] = await once(createInterface({ input: child.stdout! }), 'line')
    return new MeshProcess(child, JSON.parse(line) as Addresses)
  }

  target(index: number, port: number): Target {
    return { host: this.addresses.services[index]!, port, localAddress: this.addresses.client }
  }

  /** Bytes of memory that it has now. The peak begins anew from here. */
  beginPeak(): number {
    writeFileSync(`/proc/${this.child.pid}/clear_refs`, '5')
    return this.memory('VmRSS')
  }

  /** The most that it had since. */
  peak(): number {
    return this.memory('VmHWM')
  }

  async close(): Promise<void> {
    const ended = once(this.child, 'exit')
    this.child.stdin!.end()
    await ended
  }

  private memory(name: string): number {
    const status = readFileSync(`/proc/${this.child.pid}/status`, 'utf8')
    return Number(new RegExp(`^${name}:\\s+([0-9]+) kB$`, 'm').exec(status)![1]) * 1024
  }
}

if (process.argv[1] === import.meta.filename) await main()
