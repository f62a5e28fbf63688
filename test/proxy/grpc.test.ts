import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FLAG_UPSTREAM_CLOSED, FLAG_UPSTREAM_PROTOCOL } from '../../src/base/errors.ts'
import { TimerWheel } from '../../src/base/timers.ts'
import { HeaderList } from '../../src/http/headers.ts'
import type { Exchange } from '../../src/proxy/exchange.ts'
import {
  encodeGrpcMessage,
  formatGrpcTimeout,
  grpcContentTypeOf,
  grpcStatusFor,
  grpcStatusOf,
  grpcStatusOfReset,
  grpcTimeoutOf,
  httpReplyStatusFor,
  httpStatusFor,
  isGrpcRequest,
} from '../../src/proxy/grpc.ts'
import { GrpcCall } from '../../src/proxy/grpc-call.ts'
import { MessageCounter } from '../../src/proxy/message-counter.ts'
import {
  faultReply,
  grpcFaultReply,
  grpcStatusOfReply,
  grpcTrailers,
  REPLY_CONNECT_FAILED,
  REPLY_DEADLINE,
  REPLY_DENIED,
  REPLY_NO_ACTION,
  REPLY_NO_CLUSTER,
  REPLY_NO_ENDPOINT,
  REPLY_NO_ROUTE,
  REPLY_OVERFLOW,
  REPLY_TIMEOUT,
  type Reply,
  resetReply,
} from '../../src/proxy/reply.ts'
import { addRequestId } from '../../src/proxy/request-id.ts'
import { grpcMessage } from '../support/grpc-script.ts'
import { requestHead } from '../support/h1-recorders.ts'

const types: readonly [string | null, boolean][] = [
  ['application/grpc', true],
  ['application/grpc+proto', true],
  ['application/grpc;x=1', true],
  ['application/grpc ; x=1', true],
  ['application/grpc-web', false],
  ['application/grpc-web+proto', false],
  ['application/grpcx', false],
  ['application/json', false],
  [null, false],
]

for (const [type, isGrpc] of types) {
  test(`a POST of ${type} is ${isGrpc ? '' : 'not '}gRPC, and nothing else is`, () => {
    const headers = (): HeaderList => HeaderList.of(type === null ? [] : [['content-type', type]])
    assert.equal(isGrpcRequest(requestHead({ method: 'POST', headers: headers() })), isGrpc)
    assert.equal(isGrpcRequest(requestHead({ method: 'GET', headers: headers() })), false)
  })
}

const timeouts: readonly [string, number][] = [
  ['1H', 3_600_000],
  ['2M', 120_000],
  ['3S', 3000],
  ['4m', 4],
  ['1500u', 1.5],
  ['1n', 0.000001],
  ['0m', 0],
  ['99999999H', 99_999_999 * 3_600_000],
  ['', -1],
  ['m', -1],
  ['5', -1],
  ['5x', -1],
  ['-5m', -1],
  ['1.5S', -1],
  ['123456789m', -1],
  [' 5m', -1],
]

test('a grpc-timeout is read by its units, and one that is not well formed is none', () => {
  for (const [text, timeoutMs] of timeouts) {
    const headers = new HeaderList()
    headers.append('grpc-timeout', text)
    assert.equal(grpcTimeoutOf(headers), timeoutMs, text)
  }
  assert.equal(grpcTimeoutOf(new HeaderList()), -1)
})

test('a grpc-status is a number; anything else is unknown, nothing is none', () => {
  const status = (text: string): number => grpcStatusOf(HeaderList.of([['grpc-status', text]]))
  assert.equal(status('0'), 0)
  assert.equal(status('14'), 14)
  assert.equal(status(''), 2)
  assert.equal(status('x'), 2)
  assert.equal(status('-1'), 2)
  assert.equal(status('99999'), 2)
  assert.equal(grpcStatusOf(null), -1)
  assert.equal(grpcStatusOf(new HeaderList()), -1)
})

test('statuses of HTTP and gRPC stand for each other', () => {
  const pairs: readonly [number, number][] = [
    [400, 13],
    [401, 16],
    [403, 7],
    [404, 12],
    [429, 14],
    [500, 2],
    [502, 14],
    [503, 14],
    [504, 14],
    [200, 2],
  ]
  for (const [http, grpc] of pairs) assert.equal(grpcStatusFor(http), grpc, String(http))
  assert.deepEqual(
    Array.from({ length: 17 }, (_, grpc) => httpStatusFor(grpc)),
    [200, 200, 500, 200, 504, 200, 200, 200, 200, 200, 200, 200, 200, 500, 503, 500, 200],
  )
  assert.deepEqual(
    Array.from({ length: 18 }, (_, grpc) => httpReplyStatusFor(grpc)),
    [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401, 500],
  )
})

test('each reply of the proxy has its gRPC status', () => {
  const replies: readonly [Reply, number][] = [
    [REPLY_DENIED, 7],
    [REPLY_NO_ROUTE, 12],
    [REPLY_NO_ACTION, 14],
    [REPLY_NO_CLUSTER, 14],
    [REPLY_NO_ENDPOINT, 14],
    [REPLY_OVERFLOW, 14],
    [REPLY_CONNECT_FAILED, 14],
    [REPLY_TIMEOUT, 4],
    [REPLY_DEADLINE, 4],
    [resetReply(FLAG_UPSTREAM_CLOSED, -1), 14],
    [resetReply(FLAG_UPSTREAM_PROTOCOL, -1), 14],
    [faultReply(401), 16],
    [faultReply(418), 2],
    [grpcFaultReply(9), 9],
  ]
  for (const [reply, status] of replies) assert.equal(grpcStatusOfReply(reply), status, reply.body)
  assert.equal(grpcFaultReply(8).status, 429)
})

test('a reset is the gRPC status that its code stands for, a lost connection is UNAVAILABLE', () => {
  const statuses = Array.from({ length: 16 }, (_, index) => grpcStatusOfReset(index - 1))
  assert.deepEqual(statuses, [14, 13, 13, 13, 13, 13, 13, 13, 14, 1, 13, 13, 8, 7, 13, 13])
  assert.equal(grpcStatusOfReply(resetReply(FLAG_UPSTREAM_CLOSED, 8)), 1)
  // Codes that nobody has defined.
  assert.equal(grpcStatusOfReply(resetReply(FLAG_UPSTREAM_CLOSED, 99)), 13)
})

const contentTypes: readonly [string | null, string][] = [
  ['application/grpc', 'application/grpc'],
  ['application/grpc+proto', 'application/grpc+proto'],
  ['application/grpc+json; charset=utf-8', 'application/grpc+json'],
  ['application/grpc ; x=1', 'application/grpc'],
  [null, 'application/grpc'],
]

for (const [type, answer] of contentTypes) {
  test(`a request of ${type} is answered with ${answer}`, () => {
    assert.equal(grpcContentTypeOf(HeaderList.of(type === null ? [] : [['content-type', type]])), answer)
  })
}

test('a deadline is told in at most eight digits, never longer than it is, never as none', () => {
  const told: readonly [number, string][] = [
    [0.0015, '1u'],
    [0, '1u'],
    [-20, '1u'],
    [1.2345, '1234u'],
    [99.9999, '99999u'],
    [100, '100m'],
    [14_999.9, '14999m'],
    [99_999_999, '99999999m'],
    [100_000_000, '100000S'],
    [99_999_999_000, '99999999S'],
    [99_999_999_001, '27777H'],
    [99_999_999 * 3_600_000, '99999999H'],
    [Number.MAX_SAFE_INTEGER * 1000, '99999999H'],
  ]
  for (const [timeoutMs, text] of told) {
    assert.equal(formatGrpcTimeout(timeoutMs), text)
    if (timeoutMs >= 0.001) assert.ok(grpcTimeoutOf(HeaderList.of([['grpc-timeout', text]])) <= timeoutMs, text)
  }
})

function call(timeout: string | null, atMs = 1000): { call: GrpcCall; told: (nowMs: number) => string | null } {
  const headers = HeaderList.of(timeout === null ? [] : [['grpc-timeout', timeout]])
  const made = new GrpcCall(null as unknown as Exchange, headers, atMs)
  return {
    call: made,
    told: (nowMs) => {
      made.tellDeadline(headers, nowMs)
      return headers.getJoined('grpc-timeout')
    },
  }
}

test('the upstream is told what is left of the deadline, try after try', () => {
  const { call: one, told } = call('2S')
  assert.equal(one.clientTimeoutMs, 2000)
  assert.equal(told(1000), '2000m')
  assert.equal(told(1400.5), '1599m')
  assert.equal(told(2999.5), '500u')
  assert.equal(told(3050), '1u')
})

test('the earlier one of the client’s deadline and the route’s timeout counts', () => {
  const { call: one, told } = call('2S')
  assert.equal(one.limitTo(1000 + 5000), false)
  assert.equal(one.isClientDeadline, true)
  assert.equal(one.limitTo(1000 + 500), true)
  assert.equal(one.isClientDeadline, false)
  assert.equal(told(1100), '400m')
})

test('a call without a deadline is told the route’s timeout, and nothing when there is none', () => {
  const { call: one, told } = call(null)
  assert.equal(one.isClientDeadline, false)
  assert.equal(told(1500), null)
  one.limitTo(1000 + 800)
  assert.equal(told(1500), '300m')
})

test('a try is told its own limit where that is shorter', () => {
  const { call: one, told } = call('2S')
  one.limitTryTo(1000 + 300)
  assert.equal(told(1000), '300m')
  one.limitTryTo(2800 + 300)
  assert.equal(told(2800), '200m')
})

test('a malformed grpc-timeout sets no deadline and is the server’s to judge', () => {
  const { call: one, told } = call('soon')
  assert.equal(one.clientTimeoutMs, -1)
  assert.equal(one.limitTo(1500), true)
  assert.equal(told(1000), 'soon')
})

test('a grpc-message is percent-encoded UTF-8', () => {
  assert.equal(encodeGrpcMessage('plain text, ~!'), 'plain text, ~!')
  assert.equal(encodeGrpcMessage('100 % nö\r\n'), '100 %25 n%C3%B6%0D%0A')
  assert.equal(grpcTrailers({ ...REPLY_DENIED, body: '\u20ac' }).get('grpc-message'), '%E2%82%AC')
})

test('a request id is a random UUID, and one that is there stays', () => {
  const values = [0.1, 0.5, 0.999, 0]
  const headers = new HeaderList()
  addRequestId(headers, () => values.shift()!)
  assert.match(headers.get('x-request-id')!, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  const mine = HeaderList.of([['x-request-id', 'mine']])
  addRequestId(mine, Math.random)
  assert.equal(mine.getJoined('x-request-id'), 'mine')
  const ids = new Set(
    Array.from({ length: 1000 }, () => {
      const list = new HeaderList()
      addRequestId(list, Math.random)
      return list.get('x-request-id')
    }),
  )
  assert.equal(ids.size, 1000)
})

test('messages are counted by their prefixes, wherever they are cut', () => {
  const lengths = [0, 1, 0, 300, 7, 0]
  const bytes = Buffer.concat(lengths.map((length) => grpcMessage(Buffer.alloc(length, 0xff))))
  for (let cut = 0; cut <= bytes.length; cut++) {
    const counter = new MessageCounter()
    counter.add(bytes, 0, cut)
    assert.equal(counter.add(bytes, cut, bytes.length), lengths.length, `cut at ${cut}`)
  }
  const single = new MessageCounter()
  for (let i = 0; i < bytes.length; i++) single.add(bytes, i, i + 1)
  assert.equal(single.count, lengths.length)
})

test('a message of any length that a prefix can tell is one message', () => {
  const counter = new MessageCounter()
  const prefix = Uint8Array.of(1, 0xff, 0xff, 0xff, 0xff)
  counter.add(prefix, 0, 5)
  const chunk = Buffer.alloc(1 << 20)
  for (let passed = 0; passed < 0xffff_ffff - chunk.length; passed += chunk.length) counter.add(chunk, 0, chunk.length)
  assert.equal(counter.add(chunk, 0, chunk.length - 1), 1)
  assert.equal(counter.add(prefix, 0, 5), 2)
})

test('messages of a stream are told every five seconds while some pass, those of a unary call at its end', () => {
  const timers = new TimerWheel(1000)
  const told: number[] = []
  const exchange = {
    parts: { timers },
    origin: { recordMessages: () => told.push(one.requests.take() + one.responses.take()) },
  }
  const one = new GrpcCall(exchange as unknown as Exchange, new HeaderList(), 0)
  const turn = (count: number): void => {
    for (let i = 0; i < count; i++) timers.advance()
  }
  const message = grpcMessage('x')
  one.addRequest(message, 0, message.length)
  one.addResponse(message, 0, message.length)
  turn(20)
  assert.deepEqual(told, [])
  one.addResponse(message, 0, message.length)
  one.addResponse(message, 0, message.length)
  turn(20)
  assert.deepEqual(told, [4])
  one.addResponse(message, 0, message.length)
  turn(20)
  assert.deepEqual(told, [4, 1])
  one.addResponse(message, 0, message.length)
  one.close()
  turn(20)
  assert.deepEqual(told, [4, 1])
  assert.equal(one.responses.take(), 1)
})
