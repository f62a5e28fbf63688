import assert from 'node:assert/strict'
import { once } from 'node:events'
import { after, afterEach, before, test } from 'node:test'
import * as grpc from '@grpc/grpc-js'
import { ECHO, type EchoBehaviour, serveEcho, statusOf } from '../support/grpc-echo.ts'
import { checkHealth, HealthService, healthClient, NOT_SERVING, SERVING } from '../support/grpc-health.ts'
import { abort, GrpcMesh, NO_RETRY, pathIs, retry, WAYS } from '../support/grpc-mesh.ts'

const PORT = 8070

/** As few streams as servers commonly allow: more calls at a time need more connections. */
const SERVER_OPTIONS = { 'grpc.max_concurrent_streams': 100 }

let mesh: GrpcMesh
const servers: grpc.Server[] = []
const health = new HealthService()
const behaviour: EchoBehaviour = { ...ECHO }

before(async () => {
  mesh = await GrpcMesh.open(PORT)
  for (const pod of mesh.pods) {
    const server = await serveEcho(pod.appAddress, PORT, behaviour, SERVER_OPTIONS, (one) => health.addTo(one))
    servers.push(server)
  }
})

afterEach(() => {
  Object.assign(behaviour, ECHO)
  mesh.reset()
})

after(() => {
  mesh.close()
  for (const server of servers) server.forceShutdown()
})

/** Writes chunks as fast as they are taken, and then ends. */
class Pump {
  written = 0
  private readonly chunk: Buffer
  private readonly count: number

  constructor(chunk: Buffer, count: number) {
    this.chunk = chunk
    this.count = count
  }

  start(call: {
    write(chunk: Buffer): boolean
    once(event: 'drain', listener: () => void): unknown
    end(): void
  }): void {
    while (this.written < this.count) {
      this.written++
      if (!call.write(this.chunk)) {
        call.once('drain', () => this.start(call))
        return
      }
    }
    call.end()
  }

  /** Nothing was written for many turns of the event loop, nor will be: everything on the way runs on this loop. */
  async stalled(): Promise<void> {
    for (let turns = 0, at = -1; turns < STALLED_TURNS; turns++) {
      if (at !== this.written) turns = 0
      at = this.written
      await new Promise(setImmediate)
    }
  }
}

const STALLED_TURNS = 2000

for (const [index, where] of WAYS) {
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
    const outcome = await mesh.echo(index).unary(Buffer.from('hello'), metadata)
    assert.equal(outcome.code, grpc.status.OK)
    assert.equal(outcome.message!.toString(), 'hello')
    assert.deepEqual(outcome.head!.get('x-head-bin'), [Buffer.from([0, 255, 10, 13])])
    assert.deepEqual(outcome.trailers!.get('x-out-bin'), [Buffer.from([0, 1, 2, 254, 255])])
    const record = mesh.lastRecord(index)
    assert.equal(record.edge.protocol, 'grpc')
    assert.equal(record.http!.status, 200)
    assert.equal(record.flag, '-')
  })

  test(`messages stream to the server, to the client and both ways ${where}`, async () => {
    const { stub } = mesh.echo(index)
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
    const outcome = await mesh.echo(index).unary(Buffer.from('x'))
    assert.equal(outcome.code, grpc.status.FAILED_PRECONDITION)
    assert.equal(outcome.details, 'nö: 100 %')
    assert.deepEqual(outcome.trailers!.get('x-why'), ['because'])
  })

  test(`messages of many megabytes pass ${where}`, async () => {
    const request = Buffer.alloc(16 << 20, 7)
    request[request.length - 1] = 9
    const outcome = await mesh.echo(index).unary(request)
    assert.equal(outcome.code, grpc.status.OK)
    assert.ok(outcome.message!.equals(request))
  })

  test(`a client's deadline ends the call at the server, and is told as such ${where}`, async () => {
    let cancelled: Promise<unknown> | null = null
    behaviour.unary = (call) => {
      cancelled = once(call, 'cancelled')
    }
    // On a slow machine the deadline may pass before the server is reached.
    for (let ms = 300; cancelled === null; ms *= 2) {
      const options = { deadline: Date.now() + ms }
      const outcome = await mesh.echo(index).unary(Buffer.from('x'), new grpc.Metadata(), options)
      assert.equal(outcome.code, grpc.status.DEADLINE_EXCEEDED)
    }
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
    const outcome = mesh.echo(index).unary(Buffer.from('x'), new grpc.Metadata(), {}, (started) => {
      call = started
    })
    await arrived
    call!.cancel()
    assert.equal((await outcome).code, grpc.status.CANCELLED)
    await cancelled
    assert.equal(mesh.lastRecord(index).flag, 'DC')
  })

  test(`a route's timeout is DEADLINE_EXCEEDED, whoever notices it first, ${where}`, async () => {
    behaviour.unary = () => {}
    mesh.rules(index, { timeoutMs: 50, retry: NO_RETRY })
    const byRoute = await mesh
      .echo(index)
      .unary(Buffer.from('x'), new grpc.Metadata(), { deadline: Date.now() + 60_000 })
    assert.equal(byRoute.code, grpc.status.DEADLINE_EXCEEDED)
  })

  test(`a status that the rule names is retried, others are not ${where}`, async () => {
    const codes = [grpc.status.UNAVAILABLE, grpc.status.UNAVAILABLE, grpc.status.OK]
    let calls = 0
    behaviour.unary = (call, callback) => {
      const code = codes[calls++]!
      if (code === grpc.status.OK) callback(null, call.request)
      else callback({ code, details: 'not now' })
    }
    mesh.rules(index, { retry: retry({ attempts: 2 }) })
    const outcome = await mesh.echo(index).unary(Buffer.from('again'))
    assert.equal(outcome.code, grpc.status.OK)
    assert.equal(outcome.message!.toString(), 'again')
    assert.equal(calls, 3)
    calls = 0
    codes[0] = grpc.status.ABORTED
    assert.equal((await mesh.echo(index).unary(Buffer.from('x'))).code, grpc.status.ABORTED)
    assert.equal(calls, 1)
  })

  test(`no matching rule is UNIMPLEMENTED ${where}`, async () => {
    mesh.rules(index, { matches: [pathIs('/other')] })
    const outcome = await mesh.echo(index).unary(Buffer.from('x'))
    assert.equal(outcome.code, grpc.status.UNIMPLEMENTED)
    assert.equal(mesh.lastRecord(0).flag, 'NR')
  })

  test(`an injected gRPC abort carries its status ${where}`, async () => {
    mesh.rules(index, { fault: abort({ abortStatus: 0, abortGrpcStatus: 8 }) })
    const outcome = await mesh.echo(index).unary(Buffer.from('x'))
    assert.equal(outcome.code, grpc.status.RESOURCE_EXHAUSTED)
    assert.equal(mesh.lastRecord(0).flag, 'FI')
    mesh.rules(index, { fault: abort({ abortStatus: 503, abortGrpcStatus: null }) })
    assert.equal((await mesh.echo(index).unary(Buffer.from('x'))).code, grpc.status.UNAVAILABLE)
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
    const call = mesh.echo(index).stub.expand(Buffer.from('go'), new grpc.Metadata())
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

  test(`health checks and watches pass ${where}`, async () => {
    const client = healthClient(mesh.target(index))
    try {
      assert.equal(await checkHealth(client), SERVING)
      assert.equal(await checkHealth(client, 'nobody'), -grpc.status.NOT_FOUND)
      const service = `shop-${index}`
      const watch = client.watch({ service })
      watch.on('error', () => {})
      const [unknown] = await once(watch, 'data')
      assert.equal(unknown, 3)
      for (const status of [SERVING, NOT_SERVING]) {
        const next = once(watch, 'data')
        health.set(service, status)
        assert.deepEqual(await next, [status])
      }
      watch.cancel()
      while (mesh.lastRecord(index).flag !== 'DC') await new Promise(setImmediate)
    } finally {
      client.close()
    }
  })

  test(`messages are counted on both sides ${where}`, async () => {
    const source = mesh.messages(0, 'source')
    const destination = mesh.messages(index, 'destination')
    const { stub } = mesh.echo(index)
    const call = stub.expand(Buffer.from('abcdef'), new grpc.Metadata())
    const status = statusOf(call)
    for await (const _message of call);
    await status
    await mesh.echo(index).unary(Buffer.alloc(100_000))
    const change = (after: readonly number[], before: readonly number[]): number[] =>
      after.map((count, i) => count - before[i]!)
    assert.deepEqual(change(mesh.messages(0, 'source'), source), [2, 7])
    assert.deepEqual(change(mesh.messages(index, 'destination'), destination), [2, 7])
  })

  test(`the log has the status of a call, also where only the trailers tell it ${where}`, async () => {
    behaviour.unary = (_call, callback) => callback({ code: grpc.status.ABORTED, details: 'no' })
    await mesh.echo(index).unary(Buffer.from('x'))
    assert.equal(mesh.lastRecord(index).http!.grpcStatus, grpc.status.ABORTED)
    behaviour.expand = (call) => {
      call.write(call.request)
      call.emit('error', { code: grpc.status.DATA_LOSS, details: 'half' })
    }
    const call = mesh.echo(index).stub.expand(Buffer.from('a'), new grpc.Metadata())
    const status = statusOf(call)
    call.resume()
    assert.equal((await status).code, grpc.status.DATA_LOSS)
    assert.equal(mesh.lastRecord(0).http!.grpcStatus, grpc.status.DATA_LOSS)
    assert.equal(mesh.lastRecord(index).http!.grpcStatus, grpc.status.DATA_LOSS)
  })

  test(`a thousand calls go on at once on one connection, to a server that takes a hundred on each ${where}`, async () => {
    const { stub } = mesh.echo(index)
    const calls = Array.from({ length: 1000 }, () => stub.chat(new grpc.Metadata()))
    const statuses = calls.map(statusOf)
    // All are open before any goes on.
    await Promise.all(
      calls.map((call) => {
        const back = once(call, 'data')
        call.write(Buffer.from('here'))
        return back
      }),
    )
    for (const call of calls) call.end()
    for (const status of await Promise.all(statuses)) assert.equal(status.code, grpc.status.OK)
  })

  test(`who is not read from stalls, at the server and at the client, and goes on when read ${where}`, async () => {
    const size = 48
    const chunk = Buffer.alloc(1 << 20)
    const down = new Pump(chunk, size)
    behaviour.expand = (call) => down.start(call)
    const expand = mesh.echo(index).stub.expand(Buffer.from('go'), new grpc.Metadata())
    const expanded = statusOf(expand)
    await once(expand, 'readable')
    await down.stalled()
    assert.ok(down.written < size - 8, `${down.written} MiB were written although nobody reads`)
    let received = 0
    for await (const message of expand) received += (message as Buffer).length
    assert.equal(received, size << 20)
    assert.equal((await expanded).code, grpc.status.OK)

    let total = 0
    const arrived = new Promise<grpc.ServerDuplexStream<Buffer, Buffer>>((resolve) => {
      behaviour.chat = resolve
    })
    const up = new Pump(chunk, size)
    const chat = mesh.echo(index).stub.chat(new grpc.Metadata())
    const chatted = statusOf(chat)
    chat.resume()
    up.start(chat)
    const server = await arrived
    await up.stalled()
    assert.ok(up.written < size - 8, `${up.written} MiB were written although nobody reads`)
    server.on('data', (message: Buffer) => {
      total += message.length
    })
    server.on('end', () => server.end())
    assert.equal((await chatted).code, grpc.status.OK)
    assert.equal(total, size << 20)
  })
}
