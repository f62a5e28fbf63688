import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { after, before, test } from 'node:test'
import { AdminEndpoint, jsonAnswer, TYPE_TEXT } from '../../src/agent/admin.ts'
import { Logger } from '../../src/base/log.ts'

const logged: string[] = []
const log = new Logger('admin', 'debug', (line) => logged.push(line))
const endpoint = new AdminEndpoint(
  'admin',
  {
    '/plain': () => ({ status: 200, type: TYPE_TEXT, body: 'hello\n' }),
    '/json': async () => jsonAnswer({ map: new Map([['a', 1]]), big: 2n ** 63n }),
    '/broken': () => {
      throw new Error('out of order')
    },
    'POST /end': () => ({ status: 202, type: TYPE_TEXT, body: 'ending\n' }),
  },
  log,
)
let port = 0

before(async () => {
  port = await endpoint.listen({ address: '127.0.0.1', port: 0 })
})
after(() => endpoint.close())

async function ask(path: string, method = 'GET'): Promise<{ status: number; type: string | null; body: string }> {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, { method })
  return { status: response.status, type: response.headers.get('content-type'), body: await response.text() }
}

test('a path is answered with its status, type and body; a query is ignored', async () => {
  assert.deepEqual(await ask('/plain?verbose=1'), { status: 200, type: TYPE_TEXT, body: 'hello\n' })
})

test('maps become objects and large integers text', async () => {
  const { type, body } = await ask('/json')
  assert.equal(type, 'application/json')
  assert.deepEqual(JSON.parse(body), { map: { a: 1 }, big: '9223372036854775808' })
})

test('what changes something needs its method', async () => {
  assert.equal((await ask('/end')).status, 404)
  assert.equal((await ask('/end', 'POST')).status, 202)
  assert.equal((await ask('/plain', 'POST')).status, 404)
  assert.equal((await ask('/plain', 'HEAD')).status, 200)
})

test('an unknown path says what there is', async () => {
  for (const path of ['/', '/nothing', '/plain/more']) {
    const { status, body } = await ask(path)
    assert.equal(status, 404, path)
    assert.match(body, /there is: \/plain \/json \/broken POST \/end/)
  }
})

test('an answer that fails is a 500 and a line in the log, not the end of the agent', async () => {
  const { status, body } = await ask('/broken')
  assert.equal(status, 500)
  assert.match(body, /out of order/)
  assert.match(logged.at(-1)!, /"path":"\/broken".*out of order/)
})

test('an address that is taken is an error that names the endpoint and its flag', async () => {
  const second = new AdminEndpoint('readiness', {}, log)
  await assert.rejects(second.listen({ address: '127.0.0.1', port }), {
    code: 'WEFT_SYSCALL',
    message: /the readiness endpoint cannot listen on 127\.0\.0\.1:\d+; .*--readiness/,
  })
  await second.close()
})

test('a head that is too large is refused', async () => {
  const socket = connect(port, '127.0.0.1')
  let text = ''
  socket.setEncoding('latin1').on('data', (chunk: string) => {
    text += chunk
  })
  socket.write(`GET /plain HTTP/1.1\r\nhost: a\r\nx: ${'y'.repeat(10_000)}\r\n\r\n`)
  await new Promise((resolve) => socket.on('close', resolve))
  assert.match(text, /^HTTP\/1\.1 431 /)
})
