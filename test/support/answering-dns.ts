/**
 * A pod whose DNS is captured, with the test in the place of the agent: each captured datagram is answered at once with
 * a line that says which data worker it came to and which resolver was asked.
 */
import { closeSync } from 'node:fs'
import { type Capture, type CapturedPod, ROLE_DNS } from '../../src/agent/capture.ts'
import { formatHostPort } from '../../src/base/address.ts'
import { loadAddon } from '../../src/kernel/addon.ts'
import { resolverAddress, resolverIndexOf } from '../../src/kernel/dns-maps.ts'
import { HEARTBEAT_INTERVAL_MS } from '../../src/kernel/layout.generated.ts'
import { HeartbeatMap, KernelMap } from '../../src/kernel/maps.ts'
import { loadReactor } from '../../src/kernel/reactor-addon.ts'
import { copyEnds, type DatagramHandler, type DatagramSocket, localAddressOf } from '../../src/transport/datagram.ts'
import { asReactorAddon } from '../../src/transport/reactor-addon.ts'
import { ReactorTransport } from '../../src/transport/reactor-transport.ts'
import { podToCapture } from './answering-pod.ts'
import { nativeProgram } from './native-build.ts'
import type { Finished, TestNetwork, TestPod } from './netns.ts'

/** Built by `make -C native tests` from native/test/datagram-client.c. */
export const DATAGRAM_CLIENT = nativeProgram('datagram-client')

/** The transport of this process; it lives as long as the process. */
let transport: ReactorTransport | null = null

export class AnsweringDns implements DatagramHandler {
  readonly captured: CapturedPod
  readonly uid: string
  /** `<worker>: <resolver> asked <text>`, in the order of arrival. */
  readonly asked: string[] = []
  private readonly sockets: DatagramSocket[] = []
  private heart: NodeJS.Timeout | null = null
  private isOpen = true

  private constructor(captured: CapturedPod) {
    this.captured = captured
    this.uid = captured.uid
  }

  /** Enrols with DNS captured; listeners for TCP are not served. */
  static async enrol(capture: Capture, pod: TestPod, workers = 1, isStrict = false): Promise<AnsweringDns> {
    const captured = await capture.enrol({ ...podToCapture(pod, isStrict), isDnsCaptured: true }, workers)
    const answering = new AnsweringDns(captured)
    transport ??= new ReactorTransport(asReactorAddon(loadReactor()))
    for (const fd of captured.listeners.find(({ role }) => role === ROLE_DNS)!.fds!) {
      answering.sockets.push(transport.datagrams.open(fd, answering))
    }
    answering.beat(capture, workers)
    capture.begin?.(captured.uid)
    return answering
  }

  onDatagram(socket: DatagramSocket, bytes: Uint8Array, ends: number, offset: number, end: number): void {
    const { resolverMapFd, netnsCookie } = this.captured.dialing
    const index = resolverIndexOf(localAddressOf(bytes, ends))
    const resolver = resolverAddress(new KernelMap(loadAddon(), resolverMapFd!), netnsCookie, index)
    const text = `${this.sockets.indexOf(socket)}: ${resolver} asked ${Buffer.from(bytes.subarray(offset, end))}`
    this.asked.push(text)
    socket.reply(copyEnds(bytes, ends), Buffer.from(`agent ${text}`))
  }

  onDatagramError(_socket: DatagramSocket, code: string): void {
    this.asked.push(code)
  }

  /** From now on it is as if the data workers were blocked. */
  stopBeating(): void {
    if (this.heart !== null) clearInterval(this.heart)
    this.heart = null
  }

  beat(capture: Capture, workers: number): void {
    const heartbeats = new HeartbeatMap(new KernelMap(loadAddon(), capture.heartbeatMapFd!))
    const slots = Array.from({ length: workers }, (_, worker) => worker)
    const beat = (): void => {
      for (const slot of slots) heartbeats.beat(slot, process.hrtime.bigint())
    }
    beat()
    capture.setServing?.(slots)
    this.heart = setInterval(beat, HEARTBEAT_INTERVAL_MS).unref()
  }

  /** The data workers' sockets are closed, as when the agent is killed. */
  closeSockets(): void {
    for (const socket of this.sockets.splice(0)) socket.close()
  }

  /** Safe to call twice. */
  close(): void {
    this.stopBeating()
    this.closeSockets()
    const { listeners } = this.captured
    for (const { role, fds } of this.isOpen ? listeners : [])
      if (role !== ROLE_DNS) for (const fd of fds!) closeSync(fd)
    this.isOpen = false
  }
}

/** Runs all steps of a client; the lines that it printed. */
export async function runDatagrams(network: TestNetwork, pod: TestPod, steps: readonly string[]): Promise<string[]> {
  const { stdout, stderr, status }: Finished = await network.run(pod, [DATAGRAM_CLIENT, ...steps])
  if (status !== 0) throw new Error(`datagram-client ended with ${status}: ${stderr}${stdout}`)
  return stdout.trimEnd().split('\n')
}

/** A resolver in a pod that answers every datagram with `real <address it was asked at> <text>`; resolves when it does. */
export async function startResolver(network: TestNetwork, pod: TestPod, addresses: readonly string[]): Promise<void> {
  const program = `
    const { createSocket } = require('node:dgram')
    const { isIPv6 } = require('node:net')
    let left = ${addresses.length}
    for (const address of ${JSON.stringify(addresses)}) {
      const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4')
      socket.on('message', (bytes, from) => socket.send('real ' + address + ' ' + bytes, from.port, from.address))
      socket.bind(53, address, () => --left === 0 && console.log('listening'))
    }`
  const child = network.start(pod, [process.execPath, '-e', program])
  await new Promise<void>((resolve, reject) => {
    child.stdout!.once('data', () => resolve())
    child.once('exit', (code) => reject(new Error(`the resolver at ${formatHostPort(addresses[0]!, 53)}: ${code}`)))
  })
}
