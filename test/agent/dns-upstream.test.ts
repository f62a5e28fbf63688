/** Forwarding of questions to the resolvers of pods, with sockets that the test plays. */
import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { beforeEach, test } from 'node:test'
import type { PodDialing } from '../../src/agent/capture.ts'
import { DnsUpstream } from '../../src/agent/dns-upstream.ts'
import { WeftError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import type { ForwardFailure, ReplyHandler } from '../../src/dns/upstream.ts'
import type { Addon } from '../../src/kernel/addon.ts'
import { frameMessage } from '../../src/proxy/dns-frames.ts'
import type { Conn, ConnectOptions, Handler, Transport } from '../../src/transport/conn.ts'
import { type DatagramHandler, type DatagramSocket, type Datagrams, ENDS_BYTES } from '../../src/transport/datagram.ts'
import { FakeConn } from '../support/fake-conn.ts'

const POD = 'test//Pod/shop/a'
const RESOLVER = '198.18.0.53'
const DIALING: PodDialing = { netnsFd: 7, exemptMapFd: 8, netnsCookie: 9n, localAddress: null, appAddress: null }

class Replies implements ReplyHandler {
  private readonly kept: (Uint8Array | string)[] = []

  /** Read late: the bytes of a reply are the handler's, and must not change any more. */
  get seen(): string[] {
    return this.kept.map((one) => (typeof one === 'string' ? one : Buffer.from(one).toString('latin1')))
  }

  onReply(bytes: Uint8Array): void {
    this.kept.push(bytes)
  }

  onFailure(reason: ForwardFailure): void {
    this.kept.push(`failed: ${reason}`)
  }
}

class Socket implements DatagramSocket {
  readonly sent: string[] = []
  isTaking = true
  isClosed = false

  send(bytes: Uint8Array): boolean {
    this.sent.push(Buffer.from(bytes).toString('latin1'))
    return this.isTaking
  }

  reply(): void {
    assert.fail('a connected socket answers nobody')
  }

  close(): void {
    this.isClosed = true
  }
}

let socket: Socket
let heard: DatagramHandler
let conn: FakeConn
let dialled: ConnectOptions[]
let connected: [number, string, number][]
let openError: Error | null
let replies: Replies
let upstream: DnsUpstream

function errno(code: string): Error {
  return Object.assign(new Error(code), { code, errno: 1, syscall: 'socket', object: '' })
}

beforeEach(() => {
  socket = new Socket()
  conn = new FakeConn()
  dialled = []
  connected = []
  openError = null
  replies = new Replies()
  const datagrams: Partial<Datagrams> = {
    connect: (fd, address, port, handler) => {
      connected.push([fd, address, port])
      heard = handler
      return socket
    },
  }
  const transport: Partial<Transport> = {
    connect: (options: ConnectOptions, handler: Handler): Conn => {
      dialled.push(options)
      conn.handler = handler
      return conn
    },
  }
  const addon: Partial<Addon> = {
    datagramInNetns: (netnsFd, cookie, _family, port, exemptMapFd) => {
      if (openError !== null) throw openError
      assert.deepEqual([netnsFd, cookie, port, exemptMapFd], [7, 9n, 0, 8])
      return 33
    },
  }
  upstream = new DnsUpstream({
    transport: transport as Transport,
    datagrams: datagrams as Datagrams,
    addon: addon as Addon,
    sockets: {
      originIn: () => ({ fd: 44, localAddress: null }),
      appAddress: (_uid, address) => address,
    },
    dialingOf: (uid) => (uid === POD ? DIALING : null),
    log: silentLog,
  })
})

const ask = (isTcp: boolean, pod = POD) => upstream.forward(pod, RESOLVER, Buffer.from('question'), isTcp, replies)

function deliver(text: string): void {
  // No Buffer, whose slices are views: the arena of the reactor is none either.
  const bytes = Uint8Array.from(Buffer.from(`${'e'.repeat(ENDS_BYTES)}${text}`, 'latin1'))
  heard.onDatagram(socket, bytes, 0, ENDS_BYTES, bytes.length)
  bytes.fill(0x58)
}

test('a question over UDP leaves from a socket of its own, which hears the resolver alone', () => {
  const forward = ask(false)
  assert.deepEqual(connected, [[33, RESOLVER, 53]])
  assert.deepEqual(socket.sent, ['question'])
  deliver('one')
  deliver('two')
  assert.equal(socket.isClosed, false)
  forward.cancel()
  assert.ok(socket.isClosed)
  deliver('three')
  assert.deepEqual(replies.seen, ['one', 'two'])
})

for (const [code, reason] of [
  ['ECONNREFUSED', 'refused'],
  ['EHOSTUNREACH', 'unreachable'],
] as const) {
  test(`${code} of a resolver over UDP is "${reason}", told once`, () => {
    ask(false)
    heard.onDatagramError(socket, code)
    heard.onDatagramError(socket, code)
    assert.deepEqual(replies.seen, [`failed: ${reason}`])
    assert.ok(socket.isClosed)
  })
}

test('what the kernel refuses to send is told at once', () => {
  socket.isTaking = false
  ask(false).cancel()
  assert.deepEqual(replies.seen, ['failed: unreachable'])
  assert.ok(socket.isClosed)
})

for (const [code, reason] of [
  ['EMFILE', 'exhausted'],
  ['ESTALE', 'unreachable'],
] as const) {
  test(`no socket because of ${code} is "${reason}"`, () => {
    openError = errno(code)
    ask(false).cancel()
    assert.deepEqual(replies.seen, [`failed: ${reason}`])
  })
}

test('a pod that is not enrolled any more asks nobody', () => {
  ask(false, 'test//Pod/shop/gone').cancel()
  assert.deepEqual(replies.seen, ['failed: unreachable'])
})

test('a question over TCP is framed, and its reply put together from pieces', () => {
  const forward = ask(true)
  assert.deepEqual(
    [dialled[0]!.address, dialled[0]!.port, dialled[0]!.origin.fd, dialled[0]!.tls],
    [RESOLVER, 53, 44, null],
  )
  conn.handler.onOpen(conn)
  assert.equal(conn.text, '\0\x08question')
  const framed = Buffer.from(frameMessage(Buffer.from('an answer'))).toString('latin1')
  conn.deliver(framed.slice(0, 5))
  conn.deliver(framed.slice(5))
  assert.deepEqual(replies.seen, ['an answer'])
  forward.cancel()
  assert.deepEqual(conn.endings, ['close'])
  conn.deliverClose()
  assert.deepEqual(replies.seen, ['an answer'])
})

test('a resolver that ends a TCP connection without a reply has closed it', () => {
  ask(true)
  conn.handler.onOpen(conn)
  conn.deliverEnd()
  conn.deliverClose()
  assert.deepEqual(replies.seen, ['failed: closed'])
})

for (const [code, reason] of [
  ['ECONNREFUSED', 'refused'],
  ['ENETUNREACH', 'unreachable'],
] as const) {
  test(`a TCP connection that fails with ${code} is "${reason}"`, () => {
    ask(true)
    conn.deliverClose(new WeftError('WEFT_CONNECT', 'no connection', errno(code)))
    assert.deepEqual(replies.seen, [`failed: ${reason}`])
  })
}
