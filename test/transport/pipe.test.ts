/** Pipes keep the rules of conn.ts, one test each; the network of them keeps those of Transport. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { TimerWheel } from '../../src/base/timers.ts'
import {
  BACKLOG_HIGH,
  type Conn,
  type ConnectOptions,
  type Flushable,
  ORIGIN_ANY,
  type TlsContext,
  type TlsMaterial,
} from '../../src/transport/conn.ts'
import { AcceptRecorder, ConnRecorder, Echo, writeText } from '../support/conn-recorder.ts'
import { createPipe, type PipeConn, PipeLoop } from '../support/pipe.ts'
import { PipeTransport } from '../support/pipe-transport.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const TEST = { timeout: 20_000 }

/** Both ends with recorders, open. */
async function pair(loop = new PipeLoop()) {
  const [near, far] = createPipe(loop)
  const nearSide = new ConnRecorder()
  const farSide = new ConnRecorder()
  near.handler = nearSide
  far.handler = farSide
  await nearSide.seen('open')
  await farSide.seen('open')
  return { near, far, nearSide, farSide }
}

/** A turn or two of the event loop: whatever was going to happen has happened. */
async function settle(): Promise<void> {
  for (let i = 0; i < 6; i++) await new Promise<void>((resolve) => setImmediate(resolve))
}

describe('a pipe', TEST, () => {
  test('opens once, never inside the call that made it, and before anything else', async () => {
    const [near, far] = createPipe()
    const nearSide = new ConnRecorder()
    near.handler = nearSide
    far.handler = new Echo()
    writeText(near, 'early')
    assert.deepEqual(nearSide.events, [])
    await nearSide.until(() => nearSide.text === 'early')
    assert.equal(nearSide.events[0], 'open')
    assert.equal(nearSide.events.filter((event) => event === 'open').length, 1)
  })

  test('takes all bytes before write returns', async () => {
    const { near, farSide } = await pair()
    const bytes = Buffer.from('hello')
    near.write(bytes, 1, 3)
    bytes.fill(0)
    await farSide.until(() => farSide.text === 'ell')
  })

  test('overwrites lent bytes after the call that lent them', async () => {
    const { near, far } = await pair()
    let kept: Uint8Array | null = null
    const handler = new ConnRecorder()
    handler.onBytes = (_conn, bytes, offset, end) => {
      kept = bytes.subarray(offset, end)
      assert.equal(Buffer.from(kept).toString(), 'abc')
    }
    far.handler = handler
    writeText(near, 'abc')
    await settle()
    assert.deepEqual(Array.from(kept ?? []), [0xdd, 0xdd, 0xdd])
  })

  test('half-closes in both directions, then is closed without an error', async () => {
    const { near, far, nearSide, farSide } = await pair()
    writeText(near, 'question')
    near.end()
    await farSide.seen('end')
    assert.equal(farSide.text, 'question')
    assert.equal(near.isClosed, false)
    writeText(far, 'answer')
    far.end()
    await nearSide.seen('close')
    await farSide.seen('close')
    assert.equal(nearSide.text, 'answer')
    assert.deepEqual(nearSide.events, ['open', 'bytes', 'end', 'close'])
    assert.deepEqual([nearSide.error, farSide.error], [null, null])
  })

  test('abort is a reset for the peer, never an end, and drops what was not delivered', async () => {
    const { near, nearSide, farSide } = await pair()
    writeText(near, 'lost')
    near.abort()
    assert.equal(near.isClosed, true)
    assert.deepEqual(nearSide.events, ['open'], 'nothing is reported inside the call')
    await farSide.seen('close')
    await nearSide.seen('close')
    assert.deepEqual(farSide.events, ['open', 'close'])
    assert.equal(farSide.error?.code, 'WEFT_RESET')
    assert.equal(nearSide.error, null)
  })

  test('close delivers what was written and waits for nobody', async () => {
    const { near, nearSide, far, farSide } = await pair()
    writeText(near, 'last words')
    near.close()
    await nearSide.seen('close')
    await farSide.seen('end')
    assert.equal(farSide.text, 'last words')
    writeText(far, 'ignored')
    far.end()
    await farSide.seen('close')
    assert.equal(farSide.error, null)
    assert.deepEqual(nearSide.events, ['open', 'close'])
  })

  test('who goes on sending to a closed end is reset after a while', async () => {
    const { near, far, farSide } = await pair()
    near.close()
    await farSide.seen('end')
    const chunk = Buffer.alloc(65_536)
    for (let i = 0; i < 20; i++) {
      far.write(chunk, 0, chunk.length)
      await settle()
    }
    assert.equal(farSide.error?.code, 'WEFT_RESET')
  })

  test('calls on a closed end do nothing', async () => {
    const { near, nearSide } = await pair()
    near.abort()
    await nearSide.seen('close')
    assert.equal(writeText(near, 'x'), 0)
    near.end()
    near.close()
    near.abort()
    near.resumeReading()
    near.setIdleTimeout(5)
    await settle()
    assert.equal(nearSide.events.filter((event) => event === 'close').length, 1)
  })

  test('pauses are counted, and hold back the end as well', async () => {
    const { near, far, farSide } = await pair()
    far.pauseReading()
    far.pauseReading()
    writeText(near, 'x')
    near.end()
    await settle()
    far.resumeReading()
    await settle()
    assert.deepEqual(farSide.events, ['open'])
    far.resumeReading()
    assert.deepEqual(farSide.events, ['open'], 'nothing comes inside the call')
    await farSide.seen('end')
    assert.equal(farSide.text, 'x')
  })

  test('a pause inside onBytes stops at once', async () => {
    const { near, far } = await pair(new PipeLoop({ chunkBytesMax: 1 }))
    const handler = new ConnRecorder()
    const record = handler.onBytes.bind(handler)
    handler.onBytes = (conn, bytes, offset, end) => {
      record(conn, bytes, offset, end)
      conn.pauseReading()
    }
    far.handler = handler
    writeText(near, 'ab')
    await settle()
    assert.equal(handler.text, 'a')
    far.resumeReading()
    await settle()
    assert.equal(handler.text, 'ab')
  })

  test('reports the backlog of a slow reader, and its drain once', async () => {
    const { near, far, nearSide } = await pair()
    far.pauseReading()
    const chunk = Buffer.alloc(100_000)
    let backlog = 0
    while (backlog <= BACKLOG_HIGH) backlog = near.write(chunk, 0, chunk.length)
    assert.equal(near.backlog, 300_000)
    await settle()
    assert.equal(near.backlog, 300_000)
    far.resumeReading()
    await nearSide.seen('drain')
    assert.equal(near.backlog, 0)
    near.write(chunk, 0, chunk.length)
    await settle()
    assert.deepEqual(nearSide.events, ['open', 'drain'])
  })

  test('cuts everything everywhere when asked to', async () => {
    const { near, farSide } = await pair(new PipeLoop({ chunkBytesMax: 1 }))
    writeText(near, 'abc')
    await farSide.until(() => farSide.text === 'abc')
    assert.deepEqual(farSide.events, ['open', 'bytes', 'bytes', 'bytes'])
  })

  test('an idle pipe is reset after its time, a busy one is not', async () => {
    const timers = new TimerWheel()
    const { near, far, nearSide, farSide } = await pair(new PipeLoop({ chunkBytesMax: 65_536 }, timers))
    near.setIdleTimeout(1000)
    for (let i = 0; i < 20; i++) {
      for (let tick = 0; tick < 8; tick++) timers.advance()
      writeText(far, 'x')
      await settle()
    }
    assert.equal(near.isClosed, false)
    for (let tick = 0; tick < 13; tick++) timers.advance()
    await nearSide.seen('close')
    await farSide.seen('close')
    assert.equal(nearSide.error?.code, 'WEFT_TIMEOUT')
    assert.equal(farSide.error?.code, 'WEFT_RESET')
    timers.stop()
  })

  test('comes to rest, however it was closed', async () => {
    const ways: readonly ((end: PipeConn) => void)[] = [
      (end) => end.end(),
      (end) => end.close(),
      (end) => end.abort(),
      (end) => end.pauseReading(),
      (end) => {
        writeText(end, 'x')
        end.close()
      },
    ]
    for (const first of ways) {
      for (const second of ways) {
        const loop = new PipeLoop()
        const { near, far } = await pair(loop)
        first(near)
        second(far)
        await settle()
        assert.equal(loop.isIdle, true, `${first} ${second}`)
      }
    }
  })

  test('every byte arrives once and in order, whatever both ends do', async () => {
    const random = new SeededRandom(77)
    for (let round = 0; round < 20; round++) {
      const { near, far, nearSide, farSide } = await pair(new PipeLoop({ chunkBytesMax: random.integer(1, 3000) }))
      const sent = ['', '']
      const ends: PipeConn[] = [near, far]
      for (let step = 0; step < 60; step++) {
        const side = random.integer(0, 1)
        const text = String.fromCharCode(97 + (step % 26)).repeat(random.integer(1, 5000))
        if (random.next() < 0.7) {
          writeText(ends[side]!, text)
          sent[side] += text
        }
        if (random.next() < 0.2) ends[side]!.pauseReading()
        if (random.next() < 0.4) ends[side]!.resumeReading()
        if (random.next() < 0.3) await settle()
      }
      for (const end of ends) {
        for (let i = 0; i < 60; i++) end.resumeReading()
        end.end()
      }
      await nearSide.seen('close')
      await farSide.seen('close')
      assert.ok(farSide.text === sent[0] && nearSide.text === sent[1], `round ${round}`)
      assert.deepEqual([nearSide.error, farSide.error], [null, null])
    }
  })
})

const CLIENT = 'spiffe://cluster.local/ns/shop/sa/client'
const SERVER = 'spiffe://cluster.local/ns/shop/sa/server'

function material(identity: string, bundle = 'root'): TlsMaterial {
  return { identity, certificateChain: '', key: '', bundle, trustDomain: 'cluster.local' }
}

function options(
  port: number,
  tls: TlsContext | null = null,
  expectedIdentities: readonly string[] = [],
): ConnectOptions {
  return { address: '198.18.0.1', port, origin: ORIGIN_ANY, timeoutMs: 1000, tls, expectedIdentities }
}

describe('the network of pipes', TEST, () => {
  async function network(tls: TlsContext | null = null) {
    const transport = new PipeTransport()
    const acceptor = new AcceptRecorder(() => new Echo())
    const source = tls === null ? null : { current: () => tls }
    const listener = await transport.listen({ address: '198.18.0.1', port: 0, isShared: false }, source, acceptor)
    return { transport, acceptor, listener }
  }

  test('connects by address and port, and tells both', async () => {
    const { transport, acceptor, listener } = await network()
    const client = new ConnRecorder()
    const origin = { fd: null, localAddress: '198.18.0.9' }
    const conn = transport.connect({ ...options(listener.port), origin }, client)
    await client.seen('open')
    const server = (await acceptor.handler(0)).conn as Conn
    assert.deepEqual([conn.remoteAddress, conn.remotePort], ['198.18.0.1', listener.port])
    assert.deepEqual([server.remoteAddress, server.remotePort], ['198.18.0.9', conn.localPort])
    assert.deepEqual([server.localAddress, server.localPort], ['198.18.0.1', listener.port])
    writeText(conn, 'echo')
    await client.until(() => client.text === 'echo')
  })

  test('refuses where nobody listens, also after the listener was closed', async () => {
    const { transport, listener } = await network()
    listener.close()
    const client = new ConnRecorder()
    transport.connect(options(listener.port), client)
    await client.seen('close')
    assert.equal(client.error?.code, 'WEFT_CONNECT')
    assert.deepEqual(client.events, ['close'])
  })

  test('refuses a second listener unless both share', async () => {
    const { transport, acceptor, listener } = await network()
    const target = { address: '198.18.0.1', port: listener.port, isShared: false }
    await assert.rejects(transport.listen(target, null, acceptor), { code: 'WEFT_SYSCALL' })
    await transport.listen({ ...target, isShared: true }, null, acceptor)
    await assert.rejects(transport.listen({ fd: 3 }, null, acceptor), { code: 'WEFT_SYSCALL' })
  })

  test('proves identities both ways', async () => {
    const { transport, acceptor, listener } = await network(new PipeTransport().tlsContext(material(SERVER)))
    const client = new ConnRecorder()
    const conn = transport.connect(options(listener.port, transport.tlsContext(material(CLIENT)), [SERVER]), client)
    await client.seen('open')
    assert.equal(conn.peerIdentity, SERVER)
    assert.equal((await acceptor.handler(0)).conn?.peerIdentity, CLIENT)
  })

  const REFUSED: readonly (readonly [string, string, TlsMaterial | null, string])[] = [
    ['a server of another identity', 'WEFT_PEER_IDENTITY', material(CLIENT), 'spiffe://cluster.local/ns/x/sa/other'],
    ['a client of another root', 'WEFT_TLS', material(CLIENT, 'other root'), SERVER],
    ['a client of another trust domain', 'WEFT_TLS', material('spiffe://elsewhere/ns/a/sa/b'), SERVER],
    ['a client without TLS', 'WEFT_RESET', null, SERVER],
  ]
  for (const [name, code, client, expected] of REFUSED) {
    test(`refuses ${name}, and tells both sides`, async () => {
      const { transport, acceptor, listener } = await network(new PipeTransport().tlsContext(material(SERVER)))
      const recorder = new ConnRecorder()
      const tls = client === null ? null : transport.tlsContext(client)
      transport.connect(options(listener.port, tls, [expected]), recorder)
      await recorder.seen('close')
      assert.equal(recorder.error?.code, code)
      assert.equal((await acceptor.failure(0)).error.code, 'WEFT_TLS')
      assert.equal(acceptor.handlers.length, 0)
    })
  }

  test('refuses TLS towards a plain listener', async () => {
    const { transport, listener } = await network()
    const recorder = new ConnRecorder()
    transport.connect(options(listener.port, transport.tlsContext(material(CLIENT)), [SERVER]), recorder)
    await recorder.seen('close')
    assert.equal(recorder.error?.code, 'WEFT_TLS')
  })

  test('refuses material without a SPIFFE identity', () => {
    assert.throws(() => new PipeTransport().tlsContext(material('nobody')), { code: 'WEFT_CERTIFICATE' })
  })

  test('flushes once at the end of the batch, and again when asked during a flush', async () => {
    const transport = new PipeTransport()
    let flushes = 0
    const flushable: Flushable = {
      isFlushPending: false,
      flush(): void {
        flushes++
        if (flushes === 1) transport.atBatchEnd(this)
      },
    }
    transport.atBatchEnd(flushable)
    transport.atBatchEnd(flushable)
    assert.equal(flushes, 0)
    await settle()
    assert.equal(flushes, 2)
    assert.equal(flushable.isFlushPending, false)
  })
})
