import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HeaderList } from '../../src/http/headers.ts'
import {
  encodeGrpcMessage,
  grpcStatusFor,
  grpcStatusOf,
  grpcTimeoutOf,
  httpStatusFor,
  isGrpcRequest,
} from '../../src/proxy/grpc.ts'
import { grpcHeaders, grpcStatusOfReply, REPLY_DEADLINE, REPLY_DENIED, REPLY_NO_ROUTE } from '../../src/proxy/reply.ts'
import { addRequestId } from '../../src/proxy/request-id.ts'
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
  ['1500u', 2],
  ['1n', 1],
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
  assert.equal(grpcStatusOfReply(REPLY_DENIED), 7)
  assert.equal(grpcStatusOfReply(REPLY_NO_ROUTE), 12)
  assert.equal(grpcStatusOfReply(REPLY_DEADLINE), 4)
})

test('a grpc-message is percent-encoded UTF-8', () => {
  assert.equal(encodeGrpcMessage('plain text, ~!'), 'plain text, ~!')
  assert.equal(encodeGrpcMessage('100 % nö\r\n'), '100 %25 n%C3%B6%0D%0A')
  assert.equal(grpcHeaders(2, '\u20ac').get('grpc-message'), '%E2%82%AC')
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
