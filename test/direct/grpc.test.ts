import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, afterEach, before, test } from 'node:test'
import * as grpc from '@grpc/grpc-js'
import { DEFAULT_RETRY, type Route } from '../../src/model/route.ts'
import { type Cluster, clusterKey, DEFAULT_POOL_LIMITS, PROTOCOL_GRPC, type Service } from '../../src/model/service.ts'
import type { EdgeKey } from '../../src/telemetry/recorder.ts'
import { Door, ECHO, type EchoBehaviour, EchoClient, serveEcho, statusOf } from '../support/grpc-echo.ts'
import { TestMesh, type TestPod } from '../support/mesh.ts'

const PORT = 8070

let mesh: TestMesh
let client: TestPod
const services: Service[] = []
const servers: grpc.Server[] = []
const doors: Door[] = []
const clients: EchoClient[] = []
const behaviour: EchoBehaviour = { ...ECHO }

before(async () => {
  mesh = new TestMesh(2)
  client = await mesh.pod('client', { node: 0 })
  for (const [index, name] of ['local', 'remote'].entries()) {
    const pod = await mesh.pod(name, { node: index })
    services.push(await mesh.service(name, [{ number: PORT, targetPort: PORT, protocol: PROTOCOL_GRPC }], [pod]))
    servers.push(await serveEcho(pod.appAddress, PORT, behaviour))
    doors.push(await Door.open(client.address, mesh.vip(services[index]!, 0), PORT))
  }
})

afterEach(() => {
  Object.assign(behaviour, ECHO)
  for (const index of [0, 1]) noRules(index)
  for (const one of clients.splice(0)) one.close()
})

after(() => {
  mesh.close()
  for (const door of doors) door.close()
  for (const server of servers) server.forceShutdown()
})

function echo(index: number): EchoClient {
  const one = new EchoClient(doors[index]!.target)
  clients.push(one)
  return one
}

/** The last gRPC exchange that the proxy of a node recorded: edge, gRPC status, HTTP status, flag. */
function lastRecord(index: number): { edge: EdgeKey; status: number; flag: string } {
  const record = mesh.nodes[index]!.recorder.records.filter(({ http }) => http !== null).at(-1)!
  return { edge: record.edge, status: record.http!.status, flag: record.flag }
}

function cluster(index: number): Cluster {
  const service = services[index]!
  return {
    key: clusterKey(service.key, '', PORT),
    service: service.key,
    subset: '',
    port: PORT,
    members: null,
    balance: 0,
    limits: DEFAULT_POOL_LIMITS,
    outlier: null,
    isMutualTls: true,
  }
}

function rules(index: number, route: Partial<Route>): void {
  const to = cluster(index)
  const base: Route = {
    source: 'default/rule',
    name: 'rule',
    matches: [],
    clusters: [{ cluster: to.key, weight: 1, requestEdits: null, responseEdits: null, authority: null }],
    redirect: null,
    directResponse: null,
    rewrite: null,
    requestEdits: null,
    responseEdits: null,
    timeoutMs: 0,
    retry: DEFAULT_RETRY,
    fault: null,
    mirrors: [],
  }
  mesh.traffic(services[index]!, PORT, {
    routes: [{ ...base, ...route }],
    clusters: [to],
    defaultCluster: to.key,
  })
}

function noRules(index: number): void {
  const to = cluster(index)
  mesh.traffic(services[index]!, PORT, { routes: [], clusters: [to], defaultCluster: to.key })
}

for (const index of [0, 1]) {
  const where = index === 0 ? 'in one hop' : 'through a tunnel'

  test(`a unary call brings its message, metadata and status back ${where}`, async () => {
    behaviour.unary = (call, callback) => {
      const head = new grpc.Metadata()
      head.set('x-head-bin', Buffer.from([0, 255, 10, 13]))
      call.sendMetadata(head)
      const trailers = new grpc.Metadata()
      for (const value of call.metadata.get('x-in-bin')) trailers.add('x-out-bin', value)
      callback(null, call.request, trailers)
    }
    const metadata = new grpc.Metadata()
    metadata.set('x-in-bin', Buffer.from([0, 1, 2, 254, 255]))
    const outcome = await echo(index).unary(Buffer.from('hello'), metadata)
    assert.equal(outcome.code, grpc.status.OK)
    assert.equal(outcome.message!.toString(), 'hello')
    assert.deepEqual(outcome.head!.get('x-head-bin'), [Buffer.from([0, 255, 10, 13])])
    assert.deepEqual(outcome.trailers!.get('x-out-bin'), [Buffer.from([0, 1, 2, 254, 255])])
    const record = lastRecord(index)
    assert.equal(record.edge.protocol, 'grpc')
    assert.equal(record.status, 200)
    assert.equal(record.flag, '-')
  })

  test(`messages stream to the server, to the client and both ways ${where}`, async () => {
    const { stub } = echo(index)
    const collected = await new Promise<Buffer>((resolve, reject) => {
      const call = stub.collect(new grpc.Metadata(), (error, value) =>
        error === null ? resolve(value!) : reject(error),
      )
      for (let i = 0; i < 50; i++) call.write(Buffer.from(`${i},`))
      call.end()
    })
    assert.equal(collected.toString(), Array.from({ length: 50 }, (_, i) => `${i},`).join(''))

    const expanded: Buffer[] = []
    const expand = stub.expand(Buffer.from('abcdef'), new grpc.Metadata())
    for await (const message of expand) expanded.push(message as Buffer)
    assert.equal(Buffer.concat(expanded).toString(), 'abcdef')

    // Each message is sent only when the one before has come back: nothing is held up on the way.
    const chat = stub.chat(new grpc.Metadata())
    const chatStatus = statusOf(chat)
    for (let i = 0; i < 20; i++) {
      const back = once(chat, 'data')
      chat.write(Buffer.from(`turn ${i}`))
      assert.equal(((await back) as [Buffer])[0].toString(), `turn ${i}`)
    }
    chat.end()
    assert.equal((await chatStatus).code, grpc.status.OK)
  })

  test(`a failed call keeps its status, message and trailers ${where}`, async () => {
    behaviour.unary = (_call, callback) => {
      const metadata = new grpc.Metadata()
      metadata.set('x-why', 'because')
      callback({ code: grpc.status.FAILED_PRECONDITION, details: 'nö: 100 %', metadata })
    }
    const outcome = await echo(index).unary(Buffer.from('x'))
    assert.equal(outcome.code, grpc.status.FAILED_PRECONDITION)
    assert.equal(outcome.details, 'nö: 100 %')
    assert.deepEqual(outcome.trailers!.get('x-why'), ['because'])
  })

  test(`messages of many megabytes pass ${where}`, async () => {
    const request = Buffer.alloc(8 << 20, 7)
    request[request.length - 1] = 9
    const outcome = await echo(index).unary(request)
    assert.equal(outcome.code, grpc.status.OK)
    assert.ok(outcome.message!.equals(request))
  })

  test(`a client's deadline ends the call at the server, and is told as such ${where}`, async () => {
    const cancelled = new Promise<void>((resolve) => {
      behaviour.unary = (call) => call.on('cancelled', resolve)
    })
    const outcome = await echo(index).unary(Buffer.from('x'), new grpc.Metadata(), { deadline: Date.now() + 100 })
    assert.equal(outcome.code, grpc.status.DEADLINE_EXCEEDED)
    await cancelled
  })

  test(`a client that cancels takes the call away from the server ${where}`, async () => {
    let reached: () => void = () => {}
    const arrived = new Promise<void>((resolve) => {
      reached = resolve
    })
    const cancelled = new Promise<void>((resolve) => {
      behaviour.unary = (call) => {
        call.on('cancelled', resolve)
        reached()
      }
    })
    let call: grpc.ClientUnaryCall | null = null
    const outcome = echo(index).unary(Buffer.from('x'), new grpc.Metadata(), {}, (started) => {
      call = started
    })
    await arrived
    call!.cancel()
    assert.equal((await outcome).code, grpc.status.CANCELLED)
    await cancelled
    assert.equal(lastRecord(index).flag, 'DC')
  })

  test(`a route's timeout is UNAVAILABLE, as the mapping of 504 says, ${where}`, async () => {
    behaviour.unary = () => {}
    rules(index, { timeoutMs: 50, retry: { ...DEFAULT_RETRY, attempts: 0 } })
    const byRoute = await echo(index).unary(Buffer.from('x'), new grpc.Metadata(), { deadline: Date.now() + 60_000 })
    assert.equal(byRoute.code, grpc.status.UNAVAILABLE)
    assert.equal(byRoute.details, 'upstream request timeout')
    assert.equal(lastRecord(0).flag, 'UT')
  })

  test(`a status that the rule names is retried, others are not ${where}`, async () => {
    const codes = [grpc.status.UNAVAILABLE, grpc.status.UNAVAILABLE, grpc.status.OK]
    let calls = 0
    behaviour.unary = (call, callback) => {
      const code = codes[calls++]!
      if (code === grpc.status.OK) callback(null, call.request)
      else callback({ code, details: 'not now' })
    }
    rules(index, { retry: { ...DEFAULT_RETRY, attempts: 2, backoffBaseMs: 1 } })
    const outcome = await echo(index).unary(Buffer.from('again'))
    assert.equal(outcome.code, grpc.status.OK)
    assert.equal(outcome.message!.toString(), 'again')
    assert.equal(calls, 3)
    calls = 0
    codes[0] = grpc.status.ABORTED
    assert.equal((await echo(index).unary(Buffer.from('x'))).code, grpc.status.ABORTED)
    assert.equal(calls, 1)
  })

  test(`no matching rule is UNIMPLEMENTED ${where}`, async () => {
    rules(index, {
      matches: [
        {
          path: { kind: 'exact', value: '/other', ignoreCase: false },
          method: null,
          scheme: null,
          authority: null,
          headers: [],
          query: [],
        },
      ],
    })
    const outcome = await echo(index).unary(Buffer.from('x'))
    assert.equal(outcome.code, grpc.status.UNIMPLEMENTED)
    assert.equal(lastRecord(0).flag, 'NR')
  })

  test(`an injected gRPC abort carries its status ${where}`, async () => {
    rules(index, { fault: { delayMs: 0, delayPpm: 0, abortStatus: 0, abortGrpcStatus: 8, abortPpm: 1_000_000 } })
    const outcome = await echo(index).unary(Buffer.from('x'))
    assert.equal(outcome.code, grpc.status.RESOURCE_EXHAUSTED)
    assert.equal(lastRecord(0).flag, 'FI')
    rules(index, { fault: { delayMs: 0, delayPpm: 0, abortStatus: 503, abortGrpcStatus: null, abortPpm: 1_000_000 } })
    assert.equal((await echo(index).unary(Buffer.from('x'))).code, grpc.status.UNAVAILABLE)
  })

  test(`a long stream arrives whole ${where}`, async () => {
    const size = 64 * 1024
    const count = 256
    let written = 0
    behaviour.expand = (call) => {
      const pump = (): void => {
        while (written < count) {
          written++
          if (!call.write(Buffer.alloc(size, written & 0xff))) {
            call.once('drain', pump)
            return
          }
        }
        call.end()
      }
      pump()
    }
    const call = echo(index).stub.expand(Buffer.from('go'), new grpc.Metadata())
    const status = statusOf(call)
    let received = 0
    for await (const message of call) {
      received++
      assert.equal((message as Buffer).length, size)
      assert.equal((message as Buffer)[size - 1], received & 0xff)
    }
    assert.equal(received, count)
    assert.equal((await status).code, grpc.status.OK)
  })
}
