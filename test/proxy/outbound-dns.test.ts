/** Connections of pods to port 53 over TCP, with a name server that answers when the test says so. */
import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { beforeEach, test } from 'node:test'
import { silentLog } from '../../src/base/log.ts'
import { TimerWheel } from '../../src/base/timers.ts'
import { Connections } from '../../src/proxy/connections.ts'
import { frameMessage } from '../../src/proxy/dns-frames.ts'
import { type NameServer, OutboundDns, QUESTIONS_MAX } from '../../src/proxy/outbound-dns.ts'
import type { ProxyParts } from '../../src/proxy/parts.ts'
import { BACKLOG_HIGH } from '../../src/transport/conn.ts'
import { FakeConn } from '../support/fake-conn.ts'

const POD = { uid: 'test//Pod/shop/a', identity: 'spiffe://cluster.local/ns/shop/sa/a' }

class Names implements NameServer {
  readonly asked: string[] = []
  readonly answers: ((text: string) => void)[] = []

  answersFor(): boolean {
    return true
  }

  query(
    uid: string,
    resolver: string,
    bytes: Uint8Array,
    isTcp: boolean,
    respond: { answer(bytes: Uint8Array): void },
  ): void {
    assert.equal(uid, POD.uid)
    assert.ok(isTcp)
    this.asked.push(`${resolver} ${Buffer.from(bytes).toString('latin1')}`)
    this.answers.push((text) => respond.answer(Buffer.from(text, 'latin1')))
  }
}

let names: Names
let conn: FakeConn
let connections: Connections
let dns: OutboundDns

const framed = (...texts: readonly string[]): string =>
  texts.map((text) => Buffer.from(frameMessage(Buffer.from(text, 'latin1'))).toString('latin1')).join('')

beforeEach(() => {
  names = new Names()
  conn = new FakeConn()
  connections = new Connections()
  const parts = { connections, log: silentLog, timers: new TimerWheel(1000), nowMs: () => 0 }
  dns = new OutboundDns(parts as unknown as ProxyParts, names, POD, conn)
  conn.handler = dns
  dns.onOpen(conn)
})

test('questions go to the name server with the resolver that was asked; answers leave as they are found', () => {
  conn.deliver(framed('q1', 'q2', 'q3'))
  assert.deepEqual(names.asked, ['198.18.1.1 q1', '198.18.1.1 q2', '198.18.1.1 q3'])
  names.answers[2]!('a3')
  names.answers[0]!('a1')
  assert.equal(conn.take(), framed('a3', 'a1'))
  names.answers[1]!('a2')
  assert.equal(conn.take(), framed('a2'))
  assert.deepEqual(conn.endings, [])
})

test('a client that has ended still gets its answers, and then the end', () => {
  conn.deliver(framed('q1', 'q2'))
  conn.deliverEnd()
  names.answers[1]!('a2')
  assert.deepEqual(conn.endings, [])
  names.answers[0]!('a1')
  assert.equal(conn.take(), framed('a2', 'a1'))
  assert.deepEqual(conn.endings, ['end'])
})

test('a client that asks nothing and ends is ended', () => {
  conn.deliverEnd()
  assert.deepEqual(conn.endings, ['end'])
})

test('reading waits while too many questions are open', () => {
  conn.deliver(framed(...Array.from({ length: QUESTIONS_MAX - 1 }, (_, i) => `q${i}`)))
  assert.equal(conn.isPaused, false)
  conn.deliver(framed('last'))
  assert.equal(conn.isPaused, true)
  names.answers[5]!('a')
  assert.equal(conn.isPaused, false)
})

test('reading waits while the client does not take its answers', () => {
  conn.deliver(framed('q'))
  conn.backlog = BACKLOG_HIGH + 1
  names.answers[0]!('a')
  assert.equal(conn.isPaused, true)
  conn.backlog = 0
  dns.onDrain()
  assert.equal(conn.isPaused, false)
})

test('a message without bytes is no DNS: the connection is reset', () => {
  conn.deliver('\0\0')
  assert.deepEqual(conn.endings, ['abort'])
  assert.equal(connections.size, 0)
})

test('an idle connection is ended', () => {
  dns.onTimer()
  assert.deepEqual(conn.endings, ['close'])
})

test('a drained connection answers what it was asked and takes nothing new', () => {
  conn.deliver(framed('q'))
  dns.drain()
  assert.deepEqual(conn.endings, [])
  names.answers[0]!('a')
  assert.equal(conn.take(), framed('a'))
  assert.deepEqual(conn.endings, ['end'])
})

test('a drained connection on which nothing was asked is ended', () => {
  dns.drain()
  assert.deepEqual(conn.endings, ['close'])
})

test('answers that come after the end are dropped', () => {
  conn.deliver(framed('q'))
  conn.deliverClose()
  assert.equal(connections.size, 0)
  names.answers[0]!('a')
  assert.equal(conn.take(), '')
})
