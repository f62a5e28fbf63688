import assert from 'node:assert/strict'
import { once } from 'node:events'
import { afterEach, test } from 'node:test'
import { KubernetesApi, KubernetesError } from '../../src/kubernetes/api.ts'
import { askPod } from '../../src/kubernetes/pod-http.ts'
import { portForward } from '../../src/kubernetes/port-forward.ts'
import { FRAME_BYTES_MAX } from '../../src/kubernetes/web-socket.ts'
import { channelMessage, FakeKubelet, frame, type PodConnection, portMessages } from '../support/fake-kubelet.ts'

const TARGET = { namespace: 'weft-system', pod: 'weft-agent-x', port: 15_000 }

let kubelet: FakeKubelet | null = null
let api: KubernetesApi | null = null

async function start(...args: Parameters<typeof FakeKubelet.start>): Promise<KubernetesApi> {
  kubelet = await FakeKubelet.start(...args)
  api = await KubernetesApi.open({ kubeconfig: kubelet.kubeconfig })
  return api
}

afterEach(async () => {
  api?.close()
  await kubelet?.stop()
  api = null
  kubelet = null
})

/** Answers every HTTP request in the tunnel with `answer`, and closes. */
function answering(answer: (head: string) => string | Buffer): (connection: PodConnection) => void {
  return (connection) => {
    connection.socket.write(portMessages(TARGET.port))
    let head = ''
    connection.onMessage = (opcode, payload) => {
      if (opcode !== 2) return
      head += payload.subarray(1).toString()
      if (!head.includes('\r\n\r\n')) return
      const bytes = Buffer.from(answer(head))
      for (let i = 0; i < bytes.length; i += 30_000) {
        connection.socket.write(channelMessage(0, bytes.subarray(i, i + 30_000)))
      }
      connection.socket.write(frame(8, Buffer.alloc(0)))
    }
  }
}

function http(body: string, status = 200): string {
  return `HTTP/1.1 ${status} X\r\ncontent-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`
}

test('a request reaches the port of the pod with the credentials of the kubeconfig', async () => {
  let asked: PodConnection | null = null
  const open = await start((connection) => {
    asked = connection
    answering((head) => http(head.split('\r\n')[0]!))(connection)
  })
  assert.deepEqual(await askPod(open, TARGET, '/config_dump'), { status: 200, body: 'GET /config_dump HTTP/1.1' })
  const { url, headers } = asked!['request'] as PodConnection['request']
  assert.equal(url, '/api/v1/namespaces/weft-system/pods/weft-agent-x/portforward?ports=15000')
  assert.equal(headers.authorization, 'Bearer secret-token')
})

test('an answer of many megabytes arrives whole', async () => {
  const body = Buffer.alloc(5_000_000, 'abcdefghij').toString()
  const open = await start(answering(() => http(body)))
  assert.equal((await askPod(open, TARGET, '/')).body, body)
})

test('an answer that is too large ends with its limit', async () => {
  const open = await start(answering(() => http('x'.repeat(100_000))))
  await assert.rejects(askPod(open, TARGET, '/x', { bytesMax: 1000 }), /GET \/x is larger than 1000 bytes/)
})

test('a pod that is silent ends with the time that was given it', async () => {
  const open = await start(() => undefined)
  await assert.rejects(askPod(open, TARGET, '/x', { timeoutMs: 50 }), /did not answer GET \/x within 50 ms/)
})

test('that nobody listens on the port is told in our words', async () => {
  const open = await start(({ socket }) => {
    socket.write(portMessages(TARGET.port))
    socket.write(channelMessage(1, 'dial tcp4 127.0.0.1:15000: connect: connection refused'))
    socket.write(frame(8, Buffer.alloc(0)))
  })
  await assert.rejects(
    askPod(open, TARGET, '/'),
    /port 15000 of the pod weft-system\/weft-agent-x .*: nobody listens there/,
  )
})

test('a refusal says what the API server says, and which permission is missing', async () => {
  const status = { kind: 'Status', reason: 'Forbidden', message: 'pods "x" is forbidden: User "u" cannot' }
  const open = await start(
    () => undefined,
    () => [403, JSON.stringify(status)],
  )
  const error: unknown = await portForward(open, TARGET).catch((reason: unknown) => reason)
  assert.ok(error instanceof KubernetesError)
  assert.equal(error.status, 403)
  assert.match(error.message, /User "u" cannot.*"get" and "create" on pods\/portforward/)
})

test('an answer that is no WebSocket of that protocol is refused', async () => {
  const open = await start(
    () => undefined,
    () => [101, ''],
  )
  await assert.rejects(portForward(open, TARGET), KubernetesError)
})

test('messages are understood however they are cut, pings and fragments between them', async () => {
  const bytes = Buffer.concat([
    portMessages(TARGET.port),
    frame(9, Buffer.from('ping')),
    channelMessage(0, 'one '),
    // A message in two frames: only the first has the channel.
    frame(2, Buffer.from('\0two '), false),
    frame(0, Buffer.from('three ')),
    channelMessage(0, Buffer.alloc(70_000, 'x')),
    frame(8, Buffer.alloc(0)),
  ])
  const expected = `one two three ${'x'.repeat(70_000)}`
  const interesting = [...Array(60).keys(), 65_000, bytes.length - 1]
  for (const cut of interesting) {
    const open = await start(({ socket }) => {
      socket.write(bytes.subarray(0, cut))
      setImmediate(() => socket.write(bytes.subarray(cut)))
    })
    let text = ''
    for await (const piece of await portForward(open, TARGET)) text += piece
    assert.equal(text, expected, `cut at ${cut}`)
    open.close()
    await kubelet!.stop()
  }
  kubelet = null
})

test('a reader that does not read slows the sender down', async () => {
  let socket: PodConnection['socket'] | null = null
  const open = await start((connection) => {
    socket = connection.socket
    socket.write(portMessages(TARGET.port))
    for (let i = 0; i < 2000; i++) socket.write(channelMessage(0, Buffer.alloc(30_000)))
  })
  const stream = await portForward(open, TARGET)
  await once(stream, 'readable')
  assert.ok(stream.readableLength < 2_000_000, `${stream.readableLength} bytes are held`)
  assert.ok(socket!['writableLength'] > 10_000_000, 'the rest waits with the sender')
  stream.destroy()
})

test('frames that the protocol forbids end the connection with a reason', async () => {
  const huge = Buffer.from([0x82, 127, 0, 0, 0, 0, 0, 0, 0, 0])
  huge.writeBigUInt64BE(BigInt(FRAME_BYTES_MAX + 1), 2)
  for (const [bytes, reason] of [
    [Buffer.from([0x82 | 0x40, 0]), /reserved bits/],
    [Buffer.from([0x82, 0x80, 0, 0, 0, 0]), /reserved bits/],
    [Buffer.from([0x89, 126, 0, 200]), /a control frame/],
    [Buffer.from([0x09, 0]), /a control frame/],
    [Buffer.from([0x83, 0]), /unknown kind 3/],
    [huge, /more than 1048576 bytes/],
  ] as const) {
    const open = await start(({ socket }) => {
      socket.write(bytes)
    })
    const stream = await portForward(open, TARGET)
    const [error] = (await once(stream, 'error')) as [Error]
    assert.match(error.message, reason)
    open.close()
    await kubelet!.stop()
  }
  kubelet = null
})

test('a connection that breaks is an error, not an end', async () => {
  const open = await start(({ socket }) => {
    socket.write(portMessages(TARGET.port))
    socket.write(channelMessage(0, 'half'))
    setImmediate(() => socket.destroy())
  })
  await assert.rejects(async () => {
    for await (const _ of await portForward(open, TARGET));
  }, /cannot be reached: the connection ended without a close/)
})
