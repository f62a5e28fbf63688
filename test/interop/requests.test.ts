/**
 * Requests of clients that others wrote, through the proxy, to servers that others wrote: every client with every server,
 * so every combination of versions, in one hop and through a tunnel. Ports declare what their servers speak.
 */
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { lacks } from '../support/programs.ts'
import { SiteMesh } from '../support/site-mesh.ts'
import {
  curl,
  nghttp,
  nodeHttp1,
  nodeHttp2,
  type Target,
  type WebClient,
  type WebReply,
} from '../support/web-clients.ts'
import { type Feature, LARGE, SITE_SERVERS, type SiteServer, SMALL, ZIPPED } from '../support/web-site.ts'

let site: SiteMesh

const CLIENTS: readonly WebClient[] = [
  curl(1),
  curl(2),
  nghttp((target) => site.door(target)),
  nodeHttp1(),
  nodeHttp2(),
]

before(async () => {
  site = await SiteMesh.start()
})

after(async () => {
  for (const one of CLIENTS) one.close()
  await site.close()
})

/** Body first: it is what a mistake shows in. */
function expectBody(reply: WebReply, status: number, body: Buffer, what: string): void {
  assert.equal(reply.status, status, what)
  assert.equal(reply.body.length, body.length, what)
  assert.ok(reply.body.equals(body), what)
}

/** Everything that the client and the server can both do. */
async function exerciseAll(one: WebClient, server: SiteServer, target: Target, isShort: boolean): Promise<void> {
  const has = (feature: Feature): boolean => !server.lacks.includes(feature)
  expectBody(await one.send(target, { path: '/small' }), 200, SMALL, 'a small page')
  const echo = { method: 'POST', path: '/echo' }
  expectBody(await one.send(target, { ...echo, body: LARGE }), 200, LARGE, 'a large upload')
  if (has('trailers')) {
    const reply = await one.send(target, { path: '/trailers' })
    assert.equal(reply.status, 200, 'trailers')
    assert.equal(reply.trailers.get('x-sum'), '42', 'trailers')
  }
  if (server.name === 'nghttpd' && one.seesTrailersAfterLength) {
    assert.equal((await one.send(target, { path: '/small' })).trailers.get('x-sum'), '42', 'trailers')
  }
  if (isShort) return
  const head = await one.send(target, { method: 'HEAD', path: '/large' })
  assert.equal(head.status, 200, 'HEAD')
  assert.equal(head.body.length, 0, 'HEAD')
  assert.equal(head.headers.get('content-length'), String(LARGE.length), 'HEAD')
  expectBody(await one.send(target, { path: '/large' }), 200, LARGE, 'a large page')
  expectBody(await one.send(target, { ...echo, body: SMALL, isStreamed: true }), 200, SMALL, 'without a length')
  const big = { 'x-big': 'b'.repeat(32_000) }
  expectBody(await one.send(target, { path: '/small', headers: big }), 200, SMALL, 'a head of 32 KB')
  if (has('zipped')) {
    const headers = { 'accept-encoding': 'gzip' }
    const zipped = await one.send(target, { path: '/zipped', headers })
    expectBody(zipped, 200, ZIPPED, 'compressed')
    assert.equal(zipped.headers.get('content-encoding'), 'gzip', 'compressed')
  }
  if (has('empty')) assert.equal((await one.send(target, { path: '/empty' })).status, 204)
  if (has('unchanged')) {
    const unchanged = await one.send(target, { path: '/unchanged' })
    assert.equal(unchanged.status, 304)
    assert.equal(unchanged.headers.get('etag'), '"1"')
  }
  if (has('request-trailers') && one.sendsTrailers) {
    const trailers = { 'x-up': '7' }
    const request = { method: 'POST', path: '/request-trailers', body: SMALL, isStreamed: true, trailers }
    assert.equal((await one.send(target, request)).body.toString(), 'got 7', 'trailers of the request')
  }
  if (has('early-hints')) {
    const hinted = await one.send(target, { path: '/hints' })
    assert.equal(hinted.body.toString(), 'hinted')
    assert.deepEqual(hinted.informational, [103], 'early hints')
  }
}

for (const index of [0, 1]) {
  const where = index === 0 ? 'in one hop' : 'through a tunnel'
  for (const one of CLIENTS) {
    for (const server of SITE_SERVERS) {
      const name = `${one.name} (HTTP/${one.version}) and ${server.name} (HTTP/${server.version}) understand each other ${where}`
      test(name, { timeout: 30_000, skip: lacks(...one.programs, ...server.programs) }, async () => {
        // Programs cost a process a request: what they do beyond bodies and trailers, they do through a tunnel only.
        const isShort = one.isSlow || (one.programs.length > 0 && index === 0)
        await exerciseAll(one, server, site.target(index, server.port), isShort)
      })
    }
  }
}
