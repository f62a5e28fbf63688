/** What goes over the link of a node, between pods of one node and pods of another: judged packet by packet. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { PcapReader } from '../../../src/cli/demo/pcap.ts'
import { type WireReport, WireWatch } from '../../../src/cli/demo/wire.ts'
import { POD_RANGES } from './addresses.ts'
import type { Cluster } from './cluster.ts'
import { childOf, ENVIRONMENT } from './machine.ts'

/** Of the tunnels, and of the controller. */
const TLS_PORTS = [15_008, 15_012]

const START_MS_MAX = 30_000

/** TCP between pods. What the control plane and kubelets say to pods of their own node is none of it. */
const BETWEEN_PODS = [POD_RANGES.ipv4, POD_RANGES.ipv6].map((range) => `(src net ${range} and dst net ${range})`)

export class WireCapture {
  private readonly child: ChildProcess
  private readonly watch = new WireWatch(TLS_PORTS, [])
  private readonly pieces: Buffer[] = []
  private readonly complaint: () => string

  private constructor(child: ChildProcess, complaint: () => string) {
    this.child = child
    this.complaint = complaint
    const reader = new PcapReader((segment) => this.watch.add(segment))
    child.stdout!.on('data', (bytes: Buffer) => {
      this.pieces.push(bytes)
      reader.push(bytes)
    })
  }

  static async start(cluster: Cluster, node: string): Promise<WireCapture> {
    const filter = `tcp and (${BETWEEN_PODS.join(' or ')})`
    const tcpdump = [
      'tcpdump',
      '-i',
      'eth0',
      '--immediate-mode',
      '-U',
      '-n',
      '-s',
      '0',
      '-B',
      '65536',
      '-w',
      '-',
      filter,
    ]
    const child = spawn('sh', cluster.commandIn(node, tcpdump), { stdio: 'pipe', env: ENVIRONMENT })
    let complaint = ''
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      complaint += text
    })
    const capture = new WireCapture(child, () => complaint)
    const deadline = performance.now() + START_MS_MAX
    while (!complaint.includes('listening on')) {
      if (child.exitCode !== null || performance.now() > deadline) throw new Error(`tcpdump: ${complaint}`)
      await delay(10)
    }
    return capture
  }

  /** Ends it. All that was on the wire before is judged. */
  async stop(): Promise<WireReport> {
    const ended = once(this.child, 'close')
    const pid = childOf(this.child.pid!)
    if (pid === null) this.child.kill()
    else process.kill(pid, 'SIGINT')
    await ended
    if (!/\b0 packets dropped by kernel/.test(this.complaint())) throw new Error(`tcpdump: ${this.complaint()}`)
    return this.watch.report()
  }

  /** True when these bytes went by, as they are. */
  hasSeen(text: string): boolean {
    return Buffer.concat(this.pieces).includes(text)
  }
}
