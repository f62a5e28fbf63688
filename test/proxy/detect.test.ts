import assert from 'node:assert/strict'
import { beforeEach, test } from 'node:test'
import { TimerWheel } from '../../src/base/timers.ts'
import {
  PROTOCOL_DETECT,
  PROTOCOL_HTTP1,
  PROTOCOL_HTTP2,
  PROTOCOL_TCP,
  PROTOCOL_TLS,
  type Protocol,
} from '../../src/model/service.ts'
import { DETECT_TIMEOUT_MS, Detection, type DetectTarget, sniff } from '../../src/proxy/detect.ts'
import { FakeConn } from '../support/fake-conn.ts'
import { latin1 } from '../support/h1-recorders.ts'

/** Never by itself: tests move the wheel. */
const TICK_MS = DETECT_TIMEOUT_MS

const LINES: readonly (readonly [string, Protocol])[] = [
  ['GET / HTTP/1.1\r\n', PROTOCOL_HTTP1],
  ['GET / HTTP/1.0\n', PROTOCOL_HTTP1],
  ['POST http://a/b?c HTTP/1.1\r\n', PROTOCOL_HTTP1],
  ['OPTIONS * HTTP/1.1\r\n', PROTOCOL_HTTP1],
  ['M-SEARCH * HTTP/1.1\r\n', PROTOCOL_HTTP1],
  ['PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', PROTOCOL_HTTP2],
  ['\x16\x03\x01\x02\x00', PROTOCOL_TLS],
  ['\x16\x02', PROTOCOL_TCP],
  ['EHLO mail.example\r\n', PROTOCOL_TCP],
  ['QUIT\r\n', PROTOCOL_TCP],
  ['AUTH PLAIN HTTP/2.0\r\n', PROTOCOL_TCP],
  ['SSH-2.0-OpenSSH_9\r\n', PROTOCOL_TCP],
  ['get / HTTP/1.1\r\n', PROTOCOL_TCP],
  [' GET / HTTP/1.1\r\n', PROTOCOL_TCP],
  ['GET  HTTP/1.1\r\n', PROTOCOL_TCP],
  ['*1\r\n$4\r\nPING\r\n', PROTOCOL_TCP],
  ['\x00\x00\x00\x08', PROTOCOL_TCP],
  [`${'A'.repeat(30)} / HTTP/1.1\r\n`, PROTOCOL_TCP],
]

class Found implements DetectTarget {
  readonly found: { protocol: Protocol; text: string; hasEnded: boolean }[] = []
  closed = 0

  onDetected(protocol: Protocol, held: Uint8Array, length: number, hasEnded: boolean): void {
    this.found.push({ protocol, text: Buffer.from(held.subarray(0, length)).toString('latin1'), hasEnded })
  }

  onDetectClosed(): void {
    this.closed++
  }
}

let timers: TimerWheel
let target: Found
let conn: FakeConn

beforeEach(() => {
  timers = new TimerWheel(TICK_MS)
  target = new Found()
  conn = new FakeConn()
})

function begin(waitsForClient: boolean): Detection {
  const detection = new Detection(target, timers, waitsForClient)
  conn.handler = detection
  return detection
}

/** More than the time-out, with the wheel's own lateness. */
function passTimeout(): void {
  for (let i = 0; i < 3; i++) timers.advance()
}

test('first bytes tell the protocol', () => {
  for (const [text, protocol] of LINES) assert.equal(sniff(latin1(text), text.length), protocol, JSON.stringify(text))
})

test('a beginning is undecided or right, never wrong, wherever it is cut', () => {
  for (const [text, protocol] of LINES) {
    for (let cut = 0; cut < text.length; cut++) {
      const seen = sniff(latin1(text), cut)
      assert.ok(seen === PROTOCOL_DETECT || seen === protocol, `${JSON.stringify(text)} cut at ${cut}`)
    }
  }
})

test('bytes that came one by one are handed over whole, as soon as they tell', () => {
  begin(true)
  for (const character of 'GET /a HTTP/1.1\r\n') conn.deliver(character)
  assert.deepEqual(target.found, [{ protocol: PROTOCOL_HTTP1, text: 'GET /a HTTP/1.1\r\n', hasEnded: false }])
  passTimeout()
  assert.equal(target.found.length, 1)
})

test('a client that says nothing waits for its server', () => {
  begin(true)
  passTimeout()
  assert.deepEqual(target.found, [{ protocol: PROTOCOL_TCP, text: '', hasEnded: false }])
})

test('with the server connected a silent client is left alone, but half a word is handed over in time', () => {
  begin(false)
  passTimeout()
  assert.deepEqual(target.found, [])
  conn.deliver('QUI')
  passTimeout()
  assert.deepEqual(target.found, [{ protocol: PROTOCOL_TCP, text: 'QUI', hasEnded: false }])
})

for (const [text, protocol] of [
  ['GET /long-pa', PROTOCOL_HTTP1],
  ['POST h', PROTOCOL_HTTP1],
  ['GET', PROTOCOL_TCP],
  ['PRI * HT', PROTOCOL_HTTP2],
  ['\x16', PROTOCOL_TCP],
] as const) {
  test(`${JSON.stringify(text)} and then silence is ${protocol}`, () => {
    begin(true)
    conn.deliver(text)
    passTimeout()
    assert.deepEqual(target.found, [{ protocol, text, hasEnded: false }])
  })
}

test('a client that ends at once is TCP, and its end is handed over', () => {
  begin(true)
  conn.deliver('GE')
  conn.deliverEnd()
  assert.deepEqual(target.found, [{ protocol: PROTOCOL_TCP, text: 'GE', hasEnded: true }])
})

test('a server that speaks first decides for TCP, unless it sends the settings of HTTP/2', () => {
  const detection = begin(false)
  detection.serverSpoke(latin1('\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64'))
  assert.deepEqual(target.found, [])
  detection.serverSpoke(latin1('220 ready\r\n'))
  assert.deepEqual(target.found, [{ protocol: PROTOCOL_TCP, text: '', hasEnded: false }])
})

test('a request line without an end is given up at a limit', () => {
  begin(false)
  conn.deliver(`GET /${'a'.repeat(65_530)}`)
  assert.equal(target.found.length, 0)
  conn.deliver('b')
  assert.equal(target.found[0]?.protocol, PROTOCOL_TCP)
})

test('a client that goes away is told once, and nothing is found any more', () => {
  begin(true)
  conn.deliver('GE')
  conn.deliverClose()
  passTimeout()
  assert.deepEqual([target.found.length, target.closed], [0, 1])
})
