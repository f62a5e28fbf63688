/** gRPC through the proxy with a server that does what no gRPC library would, and calls that none would make. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import * as http from 'node:http'
import type * as http2 from 'node:http2'
import { after, afterEach, before, test } from 'node:test'
import {
  ACTION_DENY,
  EMPTY_POLICY_MATCH,
  POLICY_SCOPE_WORKLOAD,
  type Policy,
  policyKey,
} from '../../src/model/policy.ts'
import { PROTOCOL_GRPC } from '../../src/model/service.ts'
import { abort, GrpcMesh, NO_RETRY, pathIs, retry, WAYS } from '../support/grpc-mesh.ts'
import {
  answerWith,
  callGrpc,
  type GrpcAnswer,
  grpcHeadersOf,
  grpcMessage,
  ScriptedGrpcServer,
  trailersOnly,
} from '../support/grpc-script.ts'
import { connectFrom, Http2Call } from '../support/http2-call.ts'

const PORT = 8071

let mesh: GrpcMesh
const servers: ScriptedGrpcServer[] = []
const sessions: http2.ClientHttp2Session[] = []

before(async () => {
  mesh = await GrpcMesh.open(PORT)
  for (const [index, pod] of mesh.pods.entries()) {
    servers.push(await ScriptedGrpcServer.open(pod.appAddress, PORT))
    sessions.push(connectFrom(mesh.client.address, mesh.vip(index), PORT))
  }
})

afterEach(() => {
  for (const server of servers) server.reset()
  mesh.reset()
})

after(() => {
  for (const session of sessions) session.destroy()
  for (const server of servers) server.close()
  mesh.close()
})

/** Milliseconds that the server was told, of its n-th request. */
function toldMs(index: number, request: number): number {
  const told = servers[index]!.requests[request]!['grpc-timeout'] as string
  assert.match(told, /^[1-9][0-9]{0,7}[um]$/)
  return Number(told.slice(0, -1)) / (told.endsWith('u') ? 1000 : 1)
}

/** Status and message of a trailers-only answer. */
async function refusal(call: Http2Call): Promise<[status: string | undefined, message: string | undefined]> {
  const head = await call.head
  assert.equal(head[':status'], 200)
  assert.equal(await call.text(), '')
  assert.equal(call.trailers, null)
  return [head['grpc-status'] as string | undefined, head['grpc-message'] as string | undefined]
}

/** A server that answers the first message with one, and the second by `end`. */
function beginThen(end: (stream: http2.ServerHttp2Stream) => void): GrpcAnswer {
  return (stream) => {
    stream.respond({ ':status': 200, 'content-type': 'application/grpc' })
    stream.once('data', () => {
      stream.write(grpcMessage('first'))
      stream.once('data', () => end(stream))
    })
  }
}

/** A call to such a server that has its first message and has sent the second. */
async function begun(index: number): Promise<Http2Call> {
  const call = new Http2Call(sessions[index]!, grpcHeadersOf())
  call.stream.write(grpcMessage('first'))
  await once(call.stream, 'data')
  call.stream.write(grpcMessage('second'))
  return call
}

for (const [index, where] of WAYS) {
  test(`the server is told what is left of the client's deadline ${where}`, async () => {
    await callGrpc(sessions[index]!, { 'grpc-timeout': '5S' }).text()
    const told = toldMs(index, 0)
    assert.ok(told > 0 && told <= 5000, String(told))
  })

  test(`the server is told the route's timeout where that ends earlier, or the client sets none ${where}`, async () => {
    mesh.rules(index, { timeoutMs: 3000 })
    await callGrpc(sessions[index]!, { 'grpc-timeout': '1H' }).text()
    assert.ok(toldMs(index, 0) <= 3000)
    await callGrpc(sessions[index]!).text()
    assert.ok(toldMs(index, 1) <= 3000)
    await callGrpc(sessions[index]!, { 'grpc-timeout': '1S' }).text()
    assert.ok(toldMs(index, 2) <= 1000)
  })

  test(`without any deadline the server is told none, and a malformed one as it is ${where}`, async () => {
    await callGrpc(sessions[index]!).text()
    assert.equal(servers[index]!.requests[0]!['grpc-timeout'], undefined)
    mesh.rules(index, { timeoutMs: 3000 })
    await callGrpc(sessions[index]!, { 'grpc-timeout': '5 seconds' }).text()
    assert.equal(servers[index]!.requests[1]!['grpc-timeout'], '5 seconds')
  })

  test(`each try is told less than the one before ${where}`, async () => {
    servers[index]!.answer = trailersOnly(14)
    mesh.rules(index, { timeoutMs: 2000, retry: retry({ attempts: 2, backoffBaseMs: 20 }) })
    const [status] = await refusal(callGrpc(sessions[index]!, { 'grpc-timeout': '60S' }))
    assert.equal(status, '14')
    assert.equal(servers[index]!.requests.length, 3)
    assert.ok(toldMs(index, 0) <= 2000)
    // Beyond a tunnel the other proxy takes off what it spent itself, which differs from try to try.
    if (index !== 0) return
    for (const request of [1, 2]) assert.ok(toldMs(index, request) <= toldMs(index, request - 1) - 20)
  })

  test(`a try's own limit is told as well, and counts as a time-out whoever notices it ${where}`, async () => {
    servers[index]!.answer = trailersOnly(4)
    mesh.rules(index, { timeoutMs: 2000, retry: retry({ attempts: 1, on: ['5xx'], perTryTimeoutMs: 500 }) })
    const [status] = await refusal(callGrpc(sessions[index]!))
    assert.equal(status, '4')
    assert.equal(servers[index]!.requests.length, 2)
    for (const request of [0, 1]) assert.ok(toldMs(index, request) <= 500)
  })

  test(`a call without any time is not sent at all ${where}`, async () => {
    assert.deepEqual(await refusal(callGrpc(sessions[index]!, { 'grpc-timeout': '0n' })), ['4', 'deadline exceeded'])
    assert.equal(servers[index]!.requests.length, 0)
    assert.equal(mesh.lastRecord(0).flag, 'UT')
  })

  test(`a deadline ends an injected delay ${where}`, async () => {
    mesh.rules(index, {
      fault: { delayMs: 60_000, delayPpm: 1_000_000, abortStatus: 0, abortGrpcStatus: null, abortPpm: 0 },
    })
    assert.deepEqual(await refusal(callGrpc(sessions[index]!, { 'grpc-timeout': '20m' })), ['4', 'deadline exceeded'])
    mesh.rules(index, {
      timeoutMs: 20,
      fault: { delayMs: 60_000, delayPpm: 1_000_000, abortStatus: 0, abortGrpcStatus: null, abortPpm: 0 },
    })
    assert.deepEqual(await refusal(callGrpc(sessions[index]!)), ['4', 'upstream request timeout'])
    assert.equal(servers[index]!.requests.length, 0)
  })

  test(`a deadline during the response ends it with a status in the trailers ${where}`, async () => {
    servers[index]!.answer = (stream) => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' })
      stream.write(grpcMessage('first'))
    }
    const call = callGrpc(sessions[index]!, { 'grpc-timeout': '500m' })
    assert.equal(await call.text(), grpcMessage('first').toString())
    assert.equal(call.trailers?.['grpc-status'], '4')
  })

  test(`answers of the proxy keep the format that was asked for ${where}`, async () => {
    mesh.rules(index, { matches: [pathIs('/other')] })
    for (const type of ['application/grpc+proto', 'application/grpc']) {
      const call = callGrpc(sessions[index]!, { 'content-type': type })
      assert.equal((await call.head)['content-type'], type)
      assert.equal((await refusal(call))[0], '12')
    }
  })

  test(`grpc-web is ordinary HTTP ${where}`, async () => {
    mesh.rules(index, { matches: [pathIs('/other')] })
    const call = callGrpc(sessions[index]!, { 'content-type': 'application/grpc-web+proto' })
    assert.equal((await call.head)[':status'], 404)
    assert.equal(await call.text(), 'no route matches this request')
  })

  test(`a gRPC status of a rule is an HTTP status to other clients ${where}`, async () => {
    mesh.rules(index, { fault: abort({ abortStatus: 0, abortGrpcStatus: 8 }) })
    const call = new Http2Call(sessions[index]!, { ':path': '/' })
    const head = await call.head
    assert.equal(head[':status'], 429)
    assert.equal(head['grpc-status'], undefined)
    assert.equal(await call.text(), 'fault filter abort')
  })

  test(`a redirect or a direct response is a status to a gRPC client ${where}`, async () => {
    const redirect = {
      status: 301,
      path: '/',
      prefixRewrite: null,
      authority: null,
      scheme: null,
      port: null,
      derivePort: null,
    }
    mesh.rules(index, { redirect })
    const call = callGrpc(sessions[index]!)
    assert.deepEqual(await refusal(call), ['2', 'answered by a rule with HTTP status 301'])
    assert.ok((await call.head).location !== undefined)
    mesh.rules(index, { directResponse: { status: 401, body: 'gehört: 100 %' } })
    assert.deepEqual(await refusal(callGrpc(sessions[index]!)), ['16', 'geh%C3%B6rt: 100 %25'])
  })

  test(`a reset of the server is the status that its code stands for ${where}`, async () => {
    const codes: readonly [number, string][] = [
      [2, '13'],
      [8, '1'],
      [11, '8'],
    ]
    mesh.rules(index, { retry: NO_RETRY })
    for (const [code, status] of codes) {
      servers[index]!.answer = (stream) => stream.close(code)
      assert.equal((await refusal(callGrpc(sessions[index]!)))[0], status, `before an answer, ${code}`)
      assert.equal(mesh.lastRecord(index).flag, 'UC')
    }
    servers[index]!.answer = beginThen((stream) => stream.destroy(new Error('broken')))
    const call = await begun(index)
    await call.text()
    assert.equal(call.trailers?.['grpc-status'], '13', 'during the answer')
    assert.equal(mesh.lastRecord(index).flag, 'UC')
  })

  test(`a lost connection is UNAVAILABLE, before and during the answer ${where}`, async () => {
    mesh.rules(index, { retry: NO_RETRY })
    servers[index]!.answer = () => servers[index]!.breakOff()
    assert.equal((await refusal(callGrpc(sessions[index]!)))[0], '14')
    servers[index]!.answer = beginThen(() => servers[index]!.breakOff())
    const call = await begun(index)
    await call.text()
    assert.equal(call.trailers?.['grpc-status'], '14')
  })

  test(`an answer that is not gRPC goes on as it is: the client maps it ${where}`, async () => {
    servers[index]!.answer = (stream) => {
      stream.respond({ ':status': 502, 'content-type': 'text/html' })
      stream.end('<p>no</p>')
    }
    const [requests, responses] = mesh.messages(0, 'source')
    const call = callGrpc(sessions[index]!)
    const head = await call.head
    assert.equal(head[':status'], 502)
    assert.equal(head['content-type'], 'text/html')
    assert.equal(head['grpc-status'], undefined)
    assert.equal(await call.text(), '<p>no</p>')
    assert.equal(mesh.lastRecord(0).http!.grpcStatus, 14)
    assert.deepEqual(mesh.messages(0, 'source'), [requests! + 1, responses])
  })

  test(`trailers-only answers are retried by their status, and by nothing else ${where}`, async () => {
    const named = {
      cancelled: 1,
      'deadline-exceeded': 4,
      'resource-exhausted': 8,
      internal: 13,
      unavailable: 14,
    } as const
    for (const [on, code] of Object.entries(named)) {
      mesh.rules(index, { retry: retry({ attempts: 1, on: [on as keyof typeof named] }) })
      for (const status of [1, 2, 4, 8, 10, 13, 14]) {
        servers[index]!.reset()
        servers[index]!.answer = trailersOnly(status)
        assert.equal((await refusal(callGrpc(sessions[index]!)))[0], String(status))
        assert.equal(servers[index]!.requests.length, status === code ? 2 : 1, `${on}, status ${status}`)
      }
    }
  })

  test(`a call is not tried again once its response has begun ${where}`, async () => {
    mesh.rules(index, { retry: retry({ attempts: 3, on: ['unavailable', '5xx', 'reset'] }) })
    servers[index]!.answer = answerWith('half', 14)
    const call = callGrpc(sessions[index]!)
    assert.equal(await call.text(), grpcMessage('half').toString())
    assert.equal(call.trailers?.['grpc-status'], '14')
    // A head alone is a beginning as well.
    servers[index]!.answer = (stream) => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': 14 }))
      stream.end()
    }
    await callGrpc(sessions[index]!).text()
    assert.equal(servers[index]!.requests.length, 2)
  })

  test(`a request too long to keep is not tried again ${where}`, async () => {
    mesh.rules(index, { retry: retry({ attempts: 1 }) })
    servers[index]!.answer = (stream) => {
      stream.resume()
      stream.on('end', () => trailersOnly(14)(stream, {}))
    }
    await callGrpc(sessions[index]!, {}, Buffer.alloc(60_000)).text()
    assert.equal(servers[index]!.requests.length, 2)
    await callGrpc(sessions[index]!, {}, Buffer.alloc(70_000)).text()
    assert.equal(servers[index]!.requests.length, 3)
  })

  test(`a server that asks for no other try, or for a late one, is obeyed ${where}`, async () => {
    mesh.rules(index, { retry: retry({ attempts: 1 }) })
    for (const pushback of ['-1', 'soon', '60000']) {
      servers[index]!.reset()
      servers[index]!.answer = trailersOnly(14, { 'grpc-retry-pushback-ms': pushback })
      const call = callGrpc(sessions[index]!)
      assert.equal((await refusal(call))[0], '14')
      // The client's own policy learns of it.
      assert.equal((await call.head)['grpc-retry-pushback-ms'], pushback)
      assert.equal(servers[index]!.requests.length, 1)
    }
    servers[index]!.answer = trailersOnly(14, { 'grpc-retry-pushback-ms': '5' })
    await callGrpc(sessions[index]!).text()
    assert.equal(servers[index]!.requests.length, 3)
  })

  test(`reserved headers, the user agent, order and duplicates pass as they are ${where}`, async () => {
    const sent = {
      'user-agent': 'grpc-test/1',
      'grpc-previous-rpc-attempts': '3',
      'grpc-accept-encoding': 'identity,gzip',
      'grpc-encoding': 'identity',
      'grpc-tags-bin': 'AAEC/w',
      'x-two': ['b', 'a'],
      'x-long-bin': Buffer.alloc(6000, 0xfe).toString('base64'),
    }
    servers[index]!.answer = (stream, headers) => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
      const trailers = { 'grpc-status': 0, 'x-back-bin': ['AAE', '/w=='], 'x-long-bin': headers['x-long-bin'] }
      stream.on('wantTrailers', () => stream.sendTrailers(trailers))
      stream.end(grpcMessage(''))
    }
    const call = callGrpc(sessions[index]!, sent)
    await call.text()
    const { requests } = servers[index]!
    for (const [name, value] of Object.entries(sent)) {
      assert.equal(requests[0]![name], Array.isArray(value) ? value.join(', ') : value, name)
    }
    assert.equal(requests[0]!['te'], 'trailers')
    assert.equal(call.trailers?.['x-back-bin'], 'AAE, /w==')
    assert.equal(call.trailers?.['x-long-bin'], sent['x-long-bin'])
  })

  test(`a server that ends early takes the rest of the request from nobody ${where}`, async () => {
    const over: Promise<unknown>[] = []
    servers[index]!.answer = (stream) => {
      over.push(once(stream, 'close'))
      stream.once('data', () => trailersOnly(9)(stream, {}))
    }
    const call = new Http2Call(sessions[index]!, grpcHeadersOf())
    call.stream.write(grpcMessage('first'))
    assert.equal((await call.head)['grpc-status'], '9')
    assert.equal(await call.code(), 0)
    await Promise.all(over)
    assert.equal(mesh.lastRecord(index).flag, '-')
  })

  test(`a server may end its half long after the client did, and the client after the server's first words ${where}`, async () => {
    servers[index]!.answer = (stream) => {
      stream.respond({ ':status': 200, 'content-type': 'application/grpc' }, { waitForTrailers: true })
      stream.on('wantTrailers', () => stream.sendTrailers({ 'grpc-status': 0 }))
      stream.write(grpcMessage('before'))
      stream.resume()
      stream.on('end', () => stream.end(grpcMessage('after')))
    }
    const call = new Http2Call(sessions[index]!, grpcHeadersOf())
    await once(call.stream, 'data')
    call.stream.end(grpcMessage('last'))
    assert.equal(await call.text(), Buffer.concat([grpcMessage('before'), grpcMessage('after')]).toString())
    assert.equal(call.trailers?.['grpc-status'], '0')
  })

  test(`a client that cancels resets the stream at the server with CANCEL ${where}`, async () => {
    const reset = new Promise<number>((resolve) => {
      servers[index]!.answer = (stream) => {
        stream.on('close', () => resolve(stream.rstCode ?? -1))
        stream.respond({ ':status': 200, 'content-type': 'application/grpc' })
      }
    })
    const call = new Http2Call(sessions[index]!, grpcHeadersOf())
    await call.head
    call.stream.close(8)
    assert.equal(await reset, 8)
    assert.equal(mesh.lastRecord(0).flag, 'DC')
  })

  test(`an open call bears the keepalives of hours ${where}`, async () => {
    servers[index]!.answer = beginThen((stream) => stream.end())
    const call = new Http2Call(sessions[index]!, grpcHeadersOf())
    call.stream.write(grpcMessage('first'))
    await once(call.stream, 'data')
    for (let minute = 0; minute < 300; minute++) {
      await new Promise<void>((resolve, reject) => {
        sessions[index]!.ping((error) => (error === null ? resolve() : reject(error)))
      })
    }
    call.stream.end(grpcMessage('second'))
    assert.equal(await call.code(), 0)
  })

  test(`gRPC over HTTP/1 is refused, with the reason, and other HTTP/1 is not ${where}`, async () => {
    const ask = async (method: string, type: string): Promise<[number, string]> => {
      const options = { localAddress: mesh.client.address, host: mesh.vip(index), port: PORT, method, path: '/a/b' }
      const request = http.request({ ...options, headers: { 'content-type': type }, agent: false })
      request.end(method === 'POST' ? grpcMessage('x') : undefined)
      const [response] = (await once(request, 'response')) as [http.IncomingMessage]
      const chunks = await response.toArray()
      return [response.statusCode!, Buffer.concat(chunks).toString()]
    }
    assert.deepEqual(await ask('POST', 'application/grpc'), [505, 'gRPC needs HTTP/2, with prior knowledge'])
    assert.equal(servers[index]!.requests.length, 0)
    assert.equal(mesh.lastRecord(0).flag, 'DPE')
    servers[index]!.answer = (stream) => {
      stream.respond({ ':status': 415 })
      stream.end()
    }
    assert.equal((await ask('GET', 'text/plain'))[0], 415)
  })

  test(`a denied call is PERMISSION_DENIED ${where}`, async () => {
    const pod = mesh.pods[index]!
    const paths = [{ kind: 'exact', value: '/weft.test.Echo/Denied' }] as const
    const policy: Policy = {
      key: policyKey('default', 'nobody'),
      name: 'nobody',
      namespace: 'default',
      scope: POLICY_SCOPE_WORKLOAD,
      action: ACTION_DENY,
      isDryRun: false,
      rules: [{ clauses: [{ matches: [{ ...EMPTY_POLICY_MATCH, paths }] }] }],
    }
    mesh.mesh.policies(policy)
    mesh.mesh.apply({ workloads: [{ ...pod.workload, policies: [policy.key] }] })
    try {
      assert.deepEqual(await refusal(callGrpc(sessions[index]!, { ':path': '/weft.test.Echo/Denied' })), [
        '7',
        'RBAC: access denied',
      ])
    } finally {
      mesh.mesh.apply({ workloads: [pod.workload] })
    }
  })
}

test('a probe of a kubelet reaches the port of a pod in plaintext', async () => {
  const pod = mesh.pods[0]!
  const session = connectFrom('127.0.0.1', pod.address, PORT)
  try {
    const call = callGrpc(session, { ':path': '/grpc.health.v1.Health/Check' }, '')
    assert.equal((await call.head)[':status'], 200)
    await call.text()
    assert.equal(call.trailers?.['grpc-status'], '0')
    assert.equal(servers[0]!.requests[0]![':path'], '/grpc.health.v1.Health/Check')
  } finally {
    session.destroy()
  }
})

test('a port that serves HTTP/1 only is UNAVAILABLE to gRPC, and the log says why', async () => {
  const pod = await mesh.mesh.pod('old', { node: 1 })
  const port = PORT + 1
  const service = await mesh.mesh.service('old', [{ number: port, targetPort: port, protocol: PROTOCOL_GRPC }], [pod])
  const server = http.createServer((_request, response) => response.end('no'))
  server.listen(port, pod.appAddress)
  await once(server, 'listening')
  const session = connectFrom(mesh.client.address, mesh.mesh.vip(service, 0), port)
  try {
    assert.equal((await refusal(callGrpc(session)))[0], '14')
    assert.match(mesh.lastRecord(1).details, /broke HTTP\/2 rules/)
  } finally {
    session.destroy()
    server.close()
    server.closeAllConnections()
  }
})
