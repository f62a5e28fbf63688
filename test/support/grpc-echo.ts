/** A gRPC service of all four kinds of calls, and a client of it, without a proto file: messages are plain bytes. */
import { once } from 'node:events'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import * as grpc from '@grpc/grpc-js'

function method(path: string, requestStream: boolean, responseStream: boolean): grpc.MethodDefinition<Buffer, Buffer> {
  const same = (bytes: Buffer): Buffer => bytes
  return {
    path: `/weft.test.Echo/${path}`,
    requestStream,
    responseStream,
    requestSerialize: same,
    requestDeserialize: same,
    responseSerialize: same,
    responseDeserialize: same,
  }
}

const DEFINITION = {
  unary: method('Unary', false, false),
  collect: method('Collect', true, false),
  expand: method('Expand', false, true),
  chat: method('Chat', true, true),
}

/** What the server does beyond echoing; tests replace it. */
export interface EchoBehaviour {
  /** Called for each unary request, before the echo. Returns an error to fail the call, or never calls back. */
  unary: (call: grpc.ServerUnaryCall<Buffer, Buffer>, callback: grpc.sendUnaryData<Buffer>) => void
  expand: (call: grpc.ServerWritableStream<Buffer, Buffer>) => void
  chat: (call: grpc.ServerDuplexStream<Buffer, Buffer>) => void
}

/** Echoes: unary and chat message by message, collect all in one, expand one message byte by byte. */
export const ECHO: EchoBehaviour = {
  unary: (call, callback) => callback(null, call.request),
  expand: (call) => {
    for (const byte of call.request) call.write(Buffer.from([byte]))
    call.end()
  },
  chat: (call) => {
    call.on('data', (message: Buffer) => call.write(message))
    call.on('end', () => call.end())
  },
}

/** `addMore` gets the server before it is bound. */
export async function serveEcho(
  address: string,
  port: number,
  behaviour: EchoBehaviour,
  options: grpc.ServerOptions = {},
  addMore: (server: grpc.Server) => void = () => {},
): Promise<grpc.Server> {
  const server = new grpc.Server({ 'grpc.max_receive_message_length': -1, ...options })
  addMore(server)
  server.addService(DEFINITION as unknown as grpc.ServiceDefinition, {
    unary: (call: grpc.ServerUnaryCall<Buffer, Buffer>, callback: grpc.sendUnaryData<Buffer>) =>
      behaviour.unary(call, callback),
    collect: (call: grpc.ServerReadableStream<Buffer, Buffer>, callback: grpc.sendUnaryData<Buffer>) => {
      const messages: Buffer[] = []
      call.on('data', (message: Buffer) => messages.push(message))
      call.on('end', () => callback(null, Buffer.concat(messages)))
    },
    expand: (call: grpc.ServerWritableStream<Buffer, Buffer>) => behaviour.expand(call),
    chat: (call: grpc.ServerDuplexStream<Buffer, Buffer>) => behaviour.chat(call),
  })
  await new Promise<void>((resolve, reject) => {
    server.bindAsync(`${address}:${port}`, grpc.ServerCredentials.createInsecure(), (error) => {
      if (error === null) resolve()
      else reject(error)
    })
  })
  return server
}

interface EchoStub extends grpc.Client {
  unary(
    request: Buffer,
    metadata: grpc.Metadata,
    options: grpc.CallOptions,
    callback: grpc.requestCallback<Buffer>,
  ): grpc.ClientUnaryCall
  collect(metadata: grpc.Metadata, callback: grpc.requestCallback<Buffer>): grpc.ClientWritableStream<Buffer>
  expand(request: Buffer, metadata: grpc.Metadata): grpc.ClientReadableStream<Buffer>
  chat(metadata: grpc.Metadata): grpc.ClientDuplexStream<Buffer, Buffer>
}

const EchoClientConstructor = grpc.makeGenericClientConstructor(
  DEFINITION as unknown as grpc.ServiceDefinition,
  'Echo',
) as unknown as new (
  address: string,
  credentials: grpc.ChannelCredentials,
  options: grpc.ClientOptions,
) => EchoStub

/** Lets a client that binds no local address, as grpc-js, dial from a pod's: bytes go through, ends and resets too. */
export class Door {
  private readonly server: Server
  private readonly sockets = new Set<Socket>()

  private constructor(localAddress: string, host: string, port: number) {
    this.server = createServer({ allowHalfOpen: true }, (near) => {
      const far = connect({ host, port, localAddress, allowHalfOpen: true })
      this.join(near, far)
      this.join(far, near)
    })
  }

  static async open(localAddress: string, host: string, port: number): Promise<Door> {
    const door = new Door(localAddress, host, port)
    door.server.listen(0, '127.0.0.1')
    await once(door.server, 'listening')
    return door
  }

  /** Where clients dial. */
  get target(): string {
    return `127.0.0.1:${(this.server.address() as AddressInfo).port}`
  }

  close(): void {
    this.server.close()
    for (const socket of this.sockets) socket.destroy()
  }

  private join(from: Socket, to: Socket): void {
    this.sockets.add(from)
    from.setNoDelay(true)
    from.pipe(to)
    from.on('error', () => to.resetAndDestroy())
    from.on('close', () => {
      this.sockets.delete(from)
      to.destroy()
    })
  }
}

/** How a call ended. */
export interface Outcome {
  readonly code: number
  readonly details: string
  readonly message: Buffer | null
  readonly head: grpc.Metadata | null
  readonly trailers: grpc.Metadata | null
}

export class EchoClient {
  readonly stub: EchoStub

  constructor(target: string, options: grpc.ClientOptions = {}) {
    this.stub = new EchoClientConstructor(target, grpc.credentials.createInsecure(), {
      'grpc.max_receive_message_length': -1,
      'grpc.enable_retries': 0,
      ...options,
    })
  }

  /** Never rejects: a failed call has an outcome as well. `started` gets the call itself. */
  unary(
    request: Buffer,
    metadata: grpc.Metadata = new grpc.Metadata(),
    options: grpc.CallOptions = {},
    started: (call: grpc.ClientUnaryCall) => void = () => {},
  ): Promise<Outcome> {
    return new Promise((resolve) => {
      let head: grpc.Metadata | null = null
      let message: Buffer | null = null
      const call = this.stub.unary(request, metadata, options, (_error, value) => {
        message = value ?? null
      })
      call.on('metadata', (received: grpc.Metadata) => {
        head = received
      })
      call.on('status', (status: grpc.StatusObject) => {
        // The callback comes in the same turn, before or after.
        setImmediate(() => resolve({ ...status, message, head, trailers: status.metadata }))
      })
      started(call)
    })
  }

  close(): void {
    this.stub.close()
  }
}

/** The status of a streaming call. */
export function statusOf(call: {
  on(event: 'error', listener: (error: Error) => void): unknown
  once(event: 'status', listener: (status: grpc.StatusObject) => void): unknown
}): Promise<grpc.StatusObject> {
  // A failure comes as an error as well, and before the status.
  call.on('error', () => {})
  return new Promise((resolve) => call.once('status', resolve))
}
