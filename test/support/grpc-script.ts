/** Both ends of gRPC as bare HTTP/2, for what no gRPC library would do: a server that answers as told, and raw calls. */
import { once } from 'node:events'
import * as http2 from 'node:http2'
import { Http2Call } from './http2-call.ts'

/** A message with its prefix: no compression, and the length. */
export function grpcMessage(payload: string | Uint8Array): Buffer {
  const bytes = Buffer.from(payload as string)
  const prefix = Buffer.alloc(5)
  prefix.writeUInt32BE(bytes.length, 1)
  return Buffer.concat([prefix, bytes])
}

export type GrpcAnswer = (stream: http2.ServerHttp2Stream, headers: http2.IncomingHttpHeaders) => void

/** A trailers-only answer. */
export function trailersOnly(status: number, more: http2.OutgoingHttpHeaders = {}): GrpcAnswer {
  return (stream) => {
    stream.respond(
      { ':status': 200, 'content-type': 'application/grpc', 'grpc-status': status, ...more },
      TRAILERS_ONLY,
    )
  }
}

const TRAILERS_ONLY = { endStream: true }

/** One message, and then the status. */
export function answerWith(payload: string, status = 0): GrpcAnswer {
  return (stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
    stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': status }))
    stream.end(grpcMessage(payload))
  }
}

/** Answers every call by `answer`, and keeps what it was asked. */
export class ScriptedGrpcServer {
  answer: GrpcAnswer = answerWith('ok')
  readonly requests: http2.IncomingHttpHeaders[] = []
  private readonly server: http2.Http2Server
  private readonly sessions = new Set<http2.ServerHttp2Session>()

  private constructor() {
    this.server = http2.createServer()
    this.server.on('session', (session) => {
      this.sessions.add(session)
      session.on('close', () => this.sessions.delete(session))
      session.on('error', () => {})
    })
    this.server.on('stream', (stream, headers) => {
      stream.on('error', () => {})
      this.requests.push(headers)
      this.answer(stream, headers)
    })
  }

  static async open(address: string, port: number): Promise<ScriptedGrpcServer> {
    const made = new ScriptedGrpcServer()
    made.server.listen(port, address)
    await once(made.server, 'listening')
    return made
  }

  reset(): void {
    this.answer = answerWith('ok')
    this.requests.length = 0
  }

  /** Breaks every connection off. */
  breakOff(): void {
    for (const session of this.sessions) session.destroy()
  }

  close(): void {
    this.server.close()
    this.breakOff()
  }
}

/** What a gRPC client sends, overridden by `more`. */
export function grpcHeadersOf(more: http2.OutgoingHttpHeaders = {}): http2.OutgoingHttpHeaders {
  return {
    ':method': 'POST',
    ':path': '/weft.test.Echo/Unary',
    'content-type': 'application/grpc',
    te: 'trailers',
    ...more,
  }
}

/** A unary call, whole. */
export function callGrpc(
  session: http2.ClientHttp2Session,
  more: http2.OutgoingHttpHeaders = {},
  payload: string | Uint8Array = 'hello',
): Http2Call {
  const call = new Http2Call(session, grpcHeadersOf(more))
  call.stream.end(grpcMessage(payload))
  return call
}
