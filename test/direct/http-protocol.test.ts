import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer as createHttpServer, type Server as HttpServer } from 'node:http'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { after, before, test } from 'node:test'
import { PROTOCOL_DETECT, PROTOCOL_HTTP1, type Service } from '../../src/model/service.ts'
import { TestMesh, type TestPod } from '../support/mesh.ts'

const WEB = 8080
const RAW = 8081

let mesh: TestMesh
let client: TestPod
const services: Service[] = []
const servers: (Server | HttpServer)[] = []
const sockets = new Set<Socket>()
/** What the raw app does with its connection. */
let rawApp: (socket: Socket) => void = () => {}

before(async () => {
  mesh = new TestMesh(2)
  client = await mesh.pod('client', { node: 0 })
  for (const [index, name] of ['local', 'remote'].entries()) {
    const pod = await mesh.pod(name, { node: index })
    services.push(
      await mesh.service(
        name,
        [
          { number: WEB, targetPort: WEB, protocol: PROTOCOL_HTTP1 },
          { number: RAW, targetPort: RAW, protocol: PROTOCOL_DETECT },
        ],
        [pod],
      ),
    )
    const web = createHttpServer((incoming, outgoing) => {
      if (incoming.url === '/early') outgoing.writeEarlyHints({ link: '</style.css>; rel=preload' })
      const chunks: Buffer[] = []
      incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
      incoming.on('end', () => {
        const body = Buffer.concat(chunks).toString()
        const delayMs = incoming.url === '/slow' ? 30 : 0
        setTimeout(
          () => outgoing.end(`${incoming.method} ${incoming.url} ${body} ${incoming.trailers['x-sum'] ?? ''}`),
          delayMs,
        )
      })
    })
    web.on('checkContinue', (incoming, outgoing) => {
      if (incoming.headers['x-refuse'] !== undefined) {
        outgoing.writeHead(417)
        outgoing.end('no')
        return
      }
      outgoing.writeContinue()
      web.emit('request', incoming, outgoing)
    })
    web.on('upgrade', (incoming, socket) => {
      socket.write(
        'HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-accept: 1\r\n\r\nhello',
      )
      socket.on('data', (chunk) => socket.write(chunk))
      socket.on('end', () => socket.end('bye'))
      incoming.resume()
    })
    web.listen(WEB, pod.appAddress)
    await once(web, 'listening')
    const raw = createServer({ allowHalfOpen: true }, (socket) => rawApp(socket))
    raw.listen(RAW, pod.appAddress)
    await once(raw, 'listening')
    servers.push(web, raw)
    for (const server of [web, raw]) {
      server.on('connection', (socket: Socket) => {
        sockets.add(socket)
        socket.on('error', () => {})
        socket.on('close', () => sockets.delete(socket))
      })
    }
  }
})

after(() => {
  mesh.close()
  for (const server of servers) server.close()
  for (const socket of sockets) socket.destroy()
})

class Talk {
  readonly socket: Socket
  text = ''
  isEnded = false
  private wake: () => void = () => {}

  constructor(service: Service, port = WEB) {
    this.socket = connect({ host: mesh.vip(service, 0), port, localAddress: client.address, allowHalfOpen: true })
    this.socket.setEncoding('latin1')
    this.socket.on('data', (chunk: string) => {
      this.text += chunk
      this.wake()
    })
    this.socket.on('end', () => {
      this.isEnded = true
      this.wake()
    })
    this.socket.on('error', () => {
      this.isEnded = true
      this.wake()
    })
  }

  send(text: string): this {
    this.socket.write(text, 'latin1')
    return this
  }

  /** Takes everything up to and including the first match. */
  async expect(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.text)
      if (match !== null) {
        this.text = this.text.slice(match.index + match[0].length)
        return match
      }
      assert.ok(!this.isEnded, `ended without ${pattern}; got ${JSON.stringify(this.text)}`)
      await new Promise<void>((resolve) => {
        this.wake = resolve
      })
    }
  }

  async end(): Promise<void> {
    while (!this.isEnded) {
      await new Promise<void>((resolve) => {
        this.wake = resolve
      })
    }
  }
}

const HEAD = 'host: web\r\n'

for (const index of [0, 1]) {
  const where = index === 0 ? 'in one hop' : 'through a tunnel'

  test(`pipelined requests are answered in order ${where}`, async () => {
    const talk = new Talk(services[index]!)
    talk.send(
      `GET /slow HTTP/1.1\r\n${HEAD}\r\nGET /two HTTP/1.1\r\n${HEAD}\r\nPOST /three HTTP/1.1\r\n${HEAD}content-length: 3\r\n\r\nabc`,
    )
    await talk.expect(/GET \/slow/)
    await talk.expect(/GET \/two/)
    await talk.expect(/POST \/three abc/)
    talk.socket.destroy()
  })

  test(`a chunked request with trailers arrives whole ${where}`, async () => {
    const talk = new Talk(services[index]!)
    talk.send(`POST /c HTTP/1.1\r\n${HEAD}transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n3\r\nabc\r\n`)
    talk.send('4\r\ndefg\r\n0\r\nx-sum: 7\r\n\r\n')
    await talk.expect(/POST \/c abcdefg 7/)
    talk.socket.destroy()
  })

  test(`Expect: 100-continue is the app's to answer ${where}`, async () => {
    const talk = new Talk(services[index]!)
    talk.send(`POST /e HTTP/1.1\r\n${HEAD}expect: 100-continue\r\ncontent-length: 4\r\n\r\n`)
    await talk.expect(/HTTP\/1\.1 100 [^\r]*\r\n\r\n/)
    talk.send('body')
    await talk.expect(/POST \/e body/)
    const refused = new Talk(services[index]!)
    refused.send(`POST /e HTTP/1.1\r\n${HEAD}expect: 100-continue\r\nx-refuse: 1\r\ncontent-length: 4\r\n\r\n`)
    await refused.expect(/^HTTP\/1\.1 417 /)
    talk.socket.destroy()
    refused.socket.destroy()
  })

  test(`early hints are passed on ${where}`, async () => {
    const talk = new Talk(services[index]!)
    talk.send(`GET /early HTTP/1.1\r\n${HEAD}\r\n`)
    await talk.expect(/^HTTP\/1\.1 103 [^\r]*\r\nlink: [^\r]+\r\n\r\n/i)
    await talk.expect(/HTTP\/1\.1 200/)
    talk.socket.destroy()
  })

  test(`HEAD has a length and no body, and the connection goes on ${where}`, async () => {
    const talk = new Talk(services[index]!)
    talk.send(`HEAD /h HTTP/1.1\r\n${HEAD}\r\nGET /g HTTP/1.1\r\n${HEAD}\r\n`)
    await talk.expect(/^HTTP\/1\.1 200 [\s\S]*?\r\n\r\n(?=HTTP)/)
    await talk.expect(/GET \/g/)
    talk.socket.destroy()
  })

  test(`HTTP/1.0 without keep-alive ends with the answer ${where}`, async () => {
    const talk = new Talk(services[index]!)
    talk.send('GET /old HTTP/1.0\r\n\r\n')
    await talk.expect(/GET \/old/)
    await talk.end()
  })

  test(`an upgrade becomes a tunnel with half-close ${where}`, async () => {
    const talk = new Talk(services[index]!)
    talk.send(`GET /ws HTTP/1.1\r\n${HEAD}connection: Upgrade\r\nupgrade: websocket\r\n\r\n`)
    await talk.expect(/^HTTP\/1\.1 101 [\s\S]*?x-accept: 1\r\n[\s\S]*?\r\n\r\nhello/i)
    talk.send('\x01\x02binary\xff')
    await talk.expect(/binary\xff/)
    talk.socket.end()
    await talk.expect(/bye/)
    await talk.end()
  })

  test(`a body without a length is complete at the app's end, and broken by its reset ${where}`, async () => {
    rawApp = (socket) => {
      socket.once('data', (chunk) => {
        socket.write('HTTP/1.1 200 OK\r\n\r\npartial ')
        const isReset = chunk.toString().startsWith('GET /reset')
        setTimeout(() => (isReset ? socket.resetAndDestroy() : socket.end('whole')), 10)
      })
    }
    const whole = new Talk(services[index]!, RAW)
    whole.send(`GET /end HTTP/1.0\r\n${HEAD}\r\n`)
    await whole.expect(/partial whole$/)
    await whole.end()
    const broken = new Talk(services[index]!, RAW)
    broken.send(`GET /reset HTTP/1.1\r\n${HEAD}\r\n`)
    await broken.expect(/partial /)
    await broken.end()
    assert.doesNotMatch(broken.text, /0\r\n\r\n/)
  })

  test(`both framings in one request are refused before any app sees them ${where}`, async () => {
    const talk = new Talk(services[index]!)
    talk.send(`POST / HTTP/1.1\r\n${HEAD}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n`)
    await talk.expect(/^HTTP\/1\.1 400 /)
    await talk.end()
  })

  test(`a large answer waits for a slow reader ${where}`, async () => {
    const size = 32 * 1_048_576
    let written = 0
    rawApp = (socket) => {
      socket.once('data', () => {
        socket.write(`HTTP/1.1 200 OK\r\ncontent-length: ${size}\r\n\r\n`)
        const chunk = Buffer.alloc(65_536)
        const pump = (): void => {
          while (written < size) {
            written += chunk.length
            if (!socket.write(chunk)) {
              socket.once('drain', pump)
              return
            }
          }
        }
        pump()
      })
    }
    const talk = new Talk(services[index]!, RAW)
    talk.send(`GET /big HTTP/1.1\r\n${HEAD}\r\n`)
    await talk.expect(/HTTP\/1\.1 200/)
    talk.socket.pause()
    let before = -1
    while (before !== written) {
      before = written
      await new Promise((resolve) => setTimeout(resolve, 100))
    }
    assert.ok(written < size, 'the app was stopped')
    let received = talk.text.length
    talk.text = ''
    talk.socket.removeAllListeners('data')
    talk.socket.on('data', (chunk: string) => {
      received += chunk.length
    })
    talk.socket.resume()
    while (received < size) await once(talk.socket, 'data')
    assert.equal(written, size)
    talk.socket.destroy()
  })
}
