/**
 * A pod enrolled in a capture, with the test in the place of the proxy: every captured connection is answered with one
 * JSON line that says where it came out (`Answer`), then echoed.
 */

import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createServer, type Server, type Socket } from 'node:net'
import { createInterface } from 'node:readline'
import type { Capture, CapturedPod, PodToCapture } from '../../src/agent/capture.ts'
import { canonicalAddress, formatHostPort } from '../../src/base/address.ts'
import { loadAddon } from '../../src/kernel/addon.ts'
import { HEARTBEAT_INTERVAL_MS } from '../../src/kernel/layout.generated.ts'
import { HeartbeatMap, KernelMap } from '../../src/kernel/maps.ts'
import { FAILURE_BY_POLICY } from '../../src/model/workload.ts'
import { nativeProgram } from './native-build.ts'
import type { TestNetwork, TestPod } from './netns.ts'

/** Built by `make -C native tests` from native/test/client.c. */
export const CLIENT_PROGRAM = nativeProgram('test-client')

/** What the listener that got a connection knows of it. */
export interface Answer {
  readonly pod: string
  readonly role: number
  /** Which of the role's listeners (data workers) it was. */
  readonly worker: number
  /** Local address of the accepted socket: the original destination. */
  readonly destination: string
  readonly peer: string
}

/** What a capture is told of a test pod. */
export function podToCapture(pod: TestPod, isStrict = false): PodToCapture {
  return {
    pod: { uid: `test//Pod/test/${pod.name}`, netns: pod.netns, scope: '', failureMode: FAILURE_BY_POLICY },
    displayName: `test/${pod.name}`,
    addresses: [pod.ipv4, pod.ipv6],
    serviceAddresses: [],
    inboundPorts: [],
    isStrict,
    isNetnsClaimed: true,
  }
}

export class AnsweringPod {
  readonly captured: CapturedPod
  readonly uid: string
  readonly answers: Answer[] = []
  private readonly servers: Server[] = []
  private readonly sockets = new Set<Socket>()
  private readonly heart: NodeJS.Timeout | null

  private constructor(captured: CapturedPod, heart: NodeJS.Timeout | null) {
    this.captured = captured
    this.uid = captured.uid
    this.heart = heart
  }

  static async enrol(capture: Capture, pod: TestPod, workers = 1, isStrict = false): Promise<AnsweringPod> {
    const captured = await capture.enrol(podToCapture(pod, isStrict), workers)
    const answering = new AnsweringPod(captured, startHeart(capture, workers))
    for (const { role, fds } of captured.listeners) {
      for (const [worker, fd] of fds!.entries()) await answering.serve(pod.name, role, worker, fd)
    }
    capture.begin?.(captured.uid)
    return answering
  }

  /** Closes the listeners, as data workers do that end; open connections stay. */
  closeListeners(): void {
    for (const server of this.servers.splice(0)) server.close()
  }

  /** Closes listeners and connections. */
  close(): void {
    this.closeListeners()
    for (const socket of this.sockets) socket.destroy()
    this.stopBeating()
  }

  /** From now on it is as if the data workers were blocked, unless another pod of the same capture beats. */
  stopBeating(): void {
    if (this.heart !== null) clearInterval(this.heart)
  }

  private async serve(pod: string, role: number, worker: number, fd: number): Promise<void> {
    const server = createServer((socket) => {
      // The client has reset the connection before it was accepted.
      if (socket.remoteAddress === undefined) {
        socket.destroy()
        return
      }
      this.sockets.add(socket)
      socket.on('close', () => this.sockets.delete(socket))
      socket.on('error', () => socket.destroy())
      const answer = {
        pod,
        role,
        worker,
        destination: endText(socket.localAddress!, socket.localPort!),
        peer: endText(socket.remoteAddress, socket.remotePort!),
      }
      this.answers.push(answer)
      socket.write(`${JSON.stringify(answer)}\n`)
      socket.pipe(socket)
    })
    server.listen({ fd }, 4096)
    await once(server, 'listening')
    this.servers.push(server)
  }
}

/** Lets the kernel know of that many live data workers. To be stopped before the capture is closed. */
function startHeart(capture: Capture, workers: number): NodeJS.Timeout | null {
  const { heartbeatMapFd } = capture
  if (heartbeatMapFd === undefined) return null
  const heartbeats = new HeartbeatMap(new KernelMap(loadAddon(), heartbeatMapFd))
  const slots = Array.from({ length: workers }, (_, worker) => worker)
  const slotBase = capture.slotBase ?? 0
  const beat = (): void => {
    for (const slot of slots) heartbeats.beat(slotBase + slot, process.hrtime.bigint())
  }
  beat()
  capture.setServing?.(slots)
  return setInterval(beat, HEARTBEAT_INTERVAL_MS).unref()
}

/** `address:port`; Node names the zone of a link-local address, which is no part of it. */
function endText(address: string, port: number): string {
  return formatHostPort(canonicalAddress(address.replace(/%.*$/, ''))!, port)
}

/** One line per step of a client that may do to its socket what applications do: see native/test/client.c. */
export class TestClient {
  private readonly child: ChildProcess
  private readonly lines: AsyncIterator<string>

  private constructor(child: ChildProcess) {
    this.child = child
    this.lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]()
  }

  static start(network: TestNetwork, pod: TestPod, steps: readonly string[]): TestClient {
    return new TestClient(network.start(pod, [CLIENT_PROGRAM, ...steps]))
  }

  /** The next line; '' when the client has ended. */
  async line(): Promise<string> {
    const { value, done } = await this.lines.next()
    return done === true ? '' : value
  }

  /** Ends the client's `wait`. */
  proceed(): void {
    this.child.stdin!.write('\n')
  }
}

/** Runs all steps of a client; the lines that it printed. */
export async function runClient(network: TestNetwork, pod: TestPod, steps: readonly string[]): Promise<string[]> {
  const { stdout, stderr, status } = await network.run(pod, [CLIENT_PROGRAM, ...steps])
  if (status !== 0) throw new Error(`test-client ended with ${status}: ${stderr}`)
  return stdout.trimEnd().split('\n')
}

/** The answer in a client's `read ...` line. */
export function answerIn(line: string | undefined): Answer {
  const text = line?.replace(/^read /, '') ?? ''
  if (!text.startsWith('{')) throw new Error(`the listener did not answer: ${line}`)
  return JSON.parse(text) as Answer
}

/** Starts an application in a pod that answers `app <name> <peer>` on every address; resolves when it listens. */
export async function startApp(network: TestNetwork, pod: TestPod, port: number): Promise<ChildProcess> {
  const program = `
    const server = require('node:net').createServer((socket) => {
      socket.on('error', () => socket.destroy())
      socket.write('app ${pod.name} ' + socket.remoteAddress.replace('::ffff:', '') + '\\n')
      socket.pipe(socket)
    })
    server.listen(${port}, '::', () => console.log('listening'))`
  const child = network.start(pod, [process.execPath, '-e', program])
  await once(child.stdout!, 'data')
  return child
}
