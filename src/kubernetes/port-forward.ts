/**
 * A connection to a port of a pod through the API server, as `kubectl port-forward` makes it: it reaches what listens on
 * the pod's loopback, with nothing but the user's own credentials.
 *
 * One WebSocket per connection (protocol v4.channel.k8s.io): the first byte of a message is its channel; channel 0 carries
 * bytes, channel 1 a text when the other end fails; the first message of either repeats the port. The protocol knows no
 * half-close: who ends, closes.
 */
import { Duplex } from 'node:stream'
import { describeError, WeftError } from '../base/errors.ts'
import type { KubernetesApi } from './api.ts'
import { KubernetesError } from './error.ts'
import { objectPath, type ResourceType } from './object.ts'
import { openWebSocket, type WebSocketConnection } from './web-socket.ts'

const PODS: ResourceType = { group: '', version: 'v1', plural: 'pods', isNamespaced: true }

const PROTOCOL = 'v4.channel.k8s.io'
const CHANNEL_DATA = 0
const CHANNEL_ERROR = 1
/** Of the port, before the first bytes of a channel. */
const PORT_BYTES = 2
/** Longest text of a failure that is kept. */
const FAILURE_CHARACTERS_MAX = 1000

/** Where to. */
export interface PodPort {
  readonly namespace: string
  readonly pod: string
  readonly port: number
}

/**
 * Connects. Rejects with KubernetesError: no such pod, no permission (`get` and `create` on `pods/portforward`), a node
 * that does not answer. That nobody listens on the port is told by the stream, as an error.
 */
export async function portForward(api: KubernetesApi, target: PodPort): Promise<Duplex> {
  const path = `${objectPath(PODS, target.namespace, target.pod)}/portforward?ports=${target.port}`
  const stream = new PodStream(target)
  try {
    stream.attach(await openWebSocket(api.connection, path, PROTOCOL, stream))
  } catch (error) {
    if (!(error instanceof KubernetesError) || !error.isForbidden) throw error
    const { status, reason, apiMessage } = error
    const advice = 'to reach agents one needs "get" and "create" on pods/portforward there'
    throw new KubernetesError(`${error.message}; ${advice}`, { status, reason, apiMessage })
  }
  return stream
}

class PodStream extends Duplex {
  private readonly target: PodPort
  private connection: WebSocketConnection | null = null
  private readonly portBytesLeft = [PORT_BYTES, PORT_BYTES]
  private channel = -1
  private failure = ''

  constructor(target: PodPort) {
    super({ allowHalfOpen: false })
    this.target = target
  }

  attach(connection: WebSocketConnection): void {
    this.connection = connection
  }

  // --- WebSocketListener ---

  onMessage(message: Buffer, isFirst: boolean): void {
    if (isFirst) this.channel = message[0] ?? -1
    const { channel } = this
    if (channel !== CHANNEL_DATA && channel !== CHANNEL_ERROR) return
    const body = isFirst ? message.subarray(1) : message
    const skipped = Math.min(this.portBytesLeft[channel]!, body.length)
    this.portBytesLeft[channel]! -= skipped
    if (skipped === body.length) return
    const bytes = body.subarray(skipped)
    if (channel === CHANNEL_DATA) {
      if (!this.push(bytes)) this.connection!.pause()
      return
    }
    this.failure = (this.failure + bytes.toString('utf8')).slice(0, FAILURE_CHARACTERS_MAX)
  }

  onClosed(error: Error | null): void {
    if (this.failure !== '') this.destroy(portError(this.target, this.failure))
    else if (error !== null) this.destroy(portError(this.target, describeError(error)))
    else this.push(null)
  }

  // --- Duplex ---

  override _read(): void {
    this.connection?.resume()
  }

  override _write(bytes: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    const message = Buffer.allocUnsafe(bytes.length + 1)
    message[0] = CHANNEL_DATA
    bytes.copy(message, 1)
    this.connection!.send(message, done)
  }

  override _final(done: () => void): void {
    this.connection?.close()
    done()
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.connection?.close()
    done(error)
  }
}

/** The kubelet says in its words why; nearly always nobody listens there. */
function portError({ namespace, pod, port }: PodPort, failure: string): WeftError {
  const what = failure.includes('connection refused') ? 'nobody listens there' : failure.trim()
  return new WeftError('WEFT_KUBERNETES', `port ${port} of the pod ${namespace}/${pod} cannot be reached: ${what}`)
}
