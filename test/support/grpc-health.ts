/** The standard health service (grpc.health.v1) of a grpc-js server and a client of it, without a proto file. */
import * as grpc from '@grpc/grpc-js'

export const SERVING = 1
export const NOT_SERVING = 2

/** An object: grpc-js takes an empty string for no message at all. */
interface HealthRequest {
  readonly service: string
}

/** HealthCheckRequest: field 1, the service's name. HealthCheckResponse: field 1, the status. */
const requestOf = ({ service }: HealthRequest): Buffer =>
  service === '' ? Buffer.alloc(0) : Buffer.concat([Buffer.from([0x0a, service.length]), Buffer.from(service)])
const serviceOf = (bytes: Buffer): HealthRequest => ({ service: bytes.subarray(2).toString() })
const responseOf = (status: number): Buffer => Buffer.from([0x08, status])
const statusIn = (bytes: Buffer): number => bytes[1] ?? 0

function method(path: string, responseStream: boolean): grpc.MethodDefinition<HealthRequest, number> {
  return {
    path: `/grpc.health.v1.Health/${path}`,
    requestStream: false,
    responseStream,
    requestSerialize: requestOf,
    requestDeserialize: serviceOf,
    responseSerialize: responseOf,
    responseDeserialize: statusIn,
  }
}

const DEFINITION = { check: method('Check', false), watch: method('Watch', true) }

/** Statuses by service; who watches is told of changes. */
export class HealthService {
  private readonly statuses = new Map<string, number>([['', SERVING]])
  private readonly watchers = new Set<grpc.ServerWritableStream<HealthRequest, number>>()

  addTo(server: grpc.Server): void {
    server.addService(DEFINITION as unknown as grpc.ServiceDefinition, {
      check: (call: grpc.ServerUnaryCall<HealthRequest, number>, callback: grpc.sendUnaryData<number>) => {
        const status = this.statuses.get(call.request.service)
        if (status === undefined) callback({ code: grpc.status.NOT_FOUND, details: 'no such service' })
        else callback(null, status)
      },
      watch: (call: grpc.ServerWritableStream<HealthRequest, number>) => {
        this.watchers.add(call)
        call.on('cancelled', () => this.watchers.delete(call))
        call.write(this.statuses.get(call.request.service) ?? 3)
      },
    })
  }

  set(service: string, status: number): void {
    this.statuses.set(service, status)
    for (const watcher of this.watchers) if (watcher.request.service === service) watcher.write(status)
  }
}

interface HealthStub extends grpc.Client {
  check(request: HealthRequest, callback: grpc.requestCallback<number>): grpc.ClientUnaryCall
  watch(request: HealthRequest): grpc.ClientReadableStream<number>
}

const HealthClientConstructor = grpc.makeGenericClientConstructor(
  DEFINITION as unknown as grpc.ServiceDefinition,
  'Health',
) as unknown as new (
  address: string,
  credentials: grpc.ChannelCredentials,
) => HealthStub

export function healthClient(target: string): HealthStub {
  return new HealthClientConstructor(target, grpc.credentials.createInsecure())
}

/** The status of a service, or the code of the failure as a negative number. */
export function checkHealth(client: HealthStub, service = ''): Promise<number> {
  return new Promise((resolve) => {
    client.check({ service }, (error, status) => resolve(error === null ? status! : -error.code))
  })
}
