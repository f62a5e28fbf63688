/** One request of a node:http2 client, with its answer as it came. */
import { once } from 'node:events'
import * as http2 from 'node:http2'
import { connect } from 'node:net'

/** A session with prior knowledge, dialled from `localAddress`. */
export function connectFrom(
  localAddress: string,
  host: string,
  port: number,
  options: http2.ClientSessionOptions = {},
): http2.ClientHttp2Session {
  const session = http2.connect(`http://${host}:${port}`, {
    ...options,
    createConnection: () => connect({ host, port, localAddress }),
  })
  // Tests look at their calls; a session that dies takes those with it.
  session.on('error', () => {})
  return session
}

export class Http2Call {
  readonly stream: http2.ClientHttp2Stream
  /** Rejects when the stream fails before there is a head. */
  readonly head: Promise<http2.IncomingHttpHeaders & http2.IncomingHttpStatusHeader>
  readonly informational: http2.IncomingHttpHeaders[] = []
  trailers: http2.IncomingHttpHeaders | null = null
  error: Error | null = null
  private readonly chunks: Buffer[] = []
  private readonly closed: Promise<unknown>

  /** Data is read as it comes unless the stream is paused by the caller. */
  constructor(
    session: http2.ClientHttp2Session,
    headers: http2.OutgoingHttpHeaders,
    options: http2.ClientSessionRequestOptions = {},
  ) {
    this.stream = session.request(headers, options)
    this.closed = once(this.stream, 'close').catch(() => {})
    this.head = once(this.stream, 'response').then(([head]) => head)
    this.head.catch(() => {})
    this.stream.on('headers', (head) => this.informational.push(head))
    this.stream.on('trailers', (trailers) => {
      this.trailers = trailers
    })
    this.stream.on('error', (error: Error) => {
      this.error = error
    })
    this.stream.on('data', (chunk: Buffer) => this.chunks.push(chunk))
  }

  /** The whole body; rejects with the stream's error. */
  async text(): Promise<string> {
    return (await this.bytes()).toString()
  }

  async bytes(): Promise<Buffer> {
    if (!this.stream.closed) await this.closed
    if (this.error !== null) throw this.error
    return Buffer.concat(this.chunks)
  }

  /** Code of the RST_STREAM that ended the stream; 0 when it ended in order. */
  async code(): Promise<number> {
    await this.closed
    return this.stream.rstCode ?? 0
  }
}
