/**
 * Forms of requests that no library sends, by hand, to servers that others wrote; and load from two generators, whose
 * every request must be answered.
 */
import assert from 'node:assert/strict'
import { constants } from 'node:http2'
import { after, before, test } from 'node:test'
import { connectFrom, Http2Call } from '../support/http2-call.ts'
import { lacks } from '../support/programs.ts'
import { SiteMesh } from '../support/site-mesh.ts'
import { Talk } from '../support/talk.ts'
import { nodeHttp2, runProgram } from '../support/web-clients.ts'
import { NODE_1, NODE_2, SITE_SERVERS, SMALL } from '../support/web-site.ts'

const { NGHTTP2_ENHANCE_YOUR_CALM } = constants

/** Nothing here waits for long. */
const TEST = { timeout: 30_000 }

/** Requests of one load run. */
const LOAD_COUNT = 1000

let site: SiteMesh

before(async () => {
  site = await SiteMesh.start()
})

after(async () => {
  await site.close()
})

for (const index of [0, 1]) {
  const where = index === 0 ? 'in one hop' : 'through a tunnel'

  for (const { name, port, version, programs } of SITE_SERVERS) {
    const server = `${name} (HTTP/${version})`

    test(`pipelined requests to ${server} are answered in order ${where}`, {
      ...TEST,
      skip: lacks(...programs),
    }, async () => {
      const talk = new Talk(site.target(index, port))
      const text = 'GET /small HTTP/1.1\r\nhost: web\r\n\r\nGET /missing HTTP/1.1\r\nhost: web\r\n\r\n'.repeat(10)
      talk.send(`${text}HEAD /small HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n`)
      await talk.end()
      const statuses = [...talk.text.matchAll(/HTTP\/1\.1 ([0-9]{3})/g)].map(([, status]) => status)
      assert.deepEqual(statuses, [...Array.from({ length: 20 }, (_, i) => (i % 2 === 0 ? '200' : '404')), '200'])
      assert.equal(talk.text.split(SMALL.toString()).length - 1, 10)
    })

    test(`a body waits for 100 Continue of ${server} ${where}`, { ...TEST, skip: lacks(...programs) }, async () => {
      const talk = new Talk(site.target(index, port))
      talk.send(`POST /echo HTTP/1.1\r\nhost: web\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n`)
      // nginx's HTTP/2, Envoy in front of it and nghttpd answer nothing before the body.
      if (version === 1 || port === NODE_2) await talk.expect(/^HTTP\/1\.1 100 Continue\r\n\r\n/)
      talk.send('body')
      await talk.expect(/HTTP\/1\.1 200 /)
      await talk.expect(/body/)
      talk.close()
    })

    test(`${server} gets requests in absolute form ${where}`, { ...TEST, skip: lacks(...programs) }, async () => {
      const talk = new Talk(site.target(index, port))
      talk.send('GET http://web/small HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n')
      await talk.end()
      assert.match(talk.text, /^HTTP\/1\.1 200 /)
    })

    test(`h2load's requests to ${server} are all answered ${where}`, {
      ...TEST,
      skip: lacks('h2load', ...programs),
    }, async () => {
      const door = await site.door(site.target(index, port))
      for (const protocol of [['--h1'], ['-m', '20']]) {
        const args = [...protocol, '-n', String(LOAD_COUNT), '-c', '8', `http://${door}/small`]
        const report = (await runProgram('h2load', args)).toString()
        assert.match(report, new RegExp(`${LOAD_COUNT} succeeded, 0 failed, 0 errored, 0 timeout`))
        assert.match(report, new RegExp(`${LOAD_COUNT} 2xx`))
      }
    })
  }

  test(`OPTIONS * stays what it is in both versions ${where}`, TEST, async () => {
    for (const port of [NODE_1, NODE_2]) {
      const talk = new Talk(site.target(index, port))
      talk.send('OPTIONS * HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n')
      await talk.end()
      assert.match(talk.text, /^HTTP\/1\.1 200 [\s\S]*x-target: \*\r\n/i)
      const client = nodeHttp2()
      const reply = await client.send(site.target(index, port), { method: 'OPTIONS', path: '*' })
      assert.equal(reply.headers.get('x-target'), '*')
      client.close()
    }
  })

  test(
    `a head above the limit is refused, with 431 or for its stream, and the next request is served ${where}`,
    TEST,
    async () => {
      for (const port of [NODE_1, NODE_2]) {
        const target = site.target(index, port)
        const talk = new Talk(target)
        talk.send(`GET /small HTTP/1.1\r\nhost: web\r\nx-big: ${'b'.repeat(70_000)}\r\n\r\n`)
        await talk.expect(/^HTTP\/1\.1 431 /)
        await talk.end()
        // Node's own limit on what it sends is the same.
        const session = connectFrom(target.localAddress, target.host, port, { maxSendHeaderBlockLength: 200_000 })
        const big = new Http2Call(session, { ':path': '/small', 'x-big': 'b'.repeat(70_000) })
        assert.equal(await big.code(), NGHTTP2_ENHANCE_YOUR_CALM)
        assert.equal(await new Http2Call(session, { ':path': '/small' }).text(), SMALL.toString())
        session.destroy()
      }
    },
  )

  test(`wrk gets nothing but good answers ${where}`, { ...TEST, skip: lacks('wrk') }, async () => {
    const door = await site.door(site.target(index, NODE_1))
    const report = (await runProgram('wrk', ['-t1', '-c16', '-d1s', `http://${door}/small`])).toString()
    assert.match(report, /[1-9][0-9]* requests in /)
    assert.doesNotMatch(report, /Socket errors|Non-2xx/)
  })
}
