/**
 * The same small web site from servers that others wrote: nginx, nghttpd, haproxy and Envoy in front of nginx, and Node's
 * own. What each of them cannot do is said in its `lacks`.
 */
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { createServer as createHttp1Server, type Server as Http1Server } from 'node:http'
import * as http2 from 'node:http2'
import type { Socket } from 'node:net'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { type Listening, Program, startEnvoy, startHaproxy, startNginx } from './programs.ts'

/** What a server of the site may not be able to do. */
export type Feature = 'empty' | 'unchanged' | 'zipped' | 'trailers' | 'request-trailers' | 'early-hints' | 'options'

/** One kilobyte, ten megabytes, and the first of them compressed. */
export const SMALL = Buffer.alloc(1024, 'weft ')
export const LARGE = patternedBytes(10_000_000)
export const ZIPPED = gzipSync(SMALL)

/** Limits of the servers on heads: above what the proxy takes, so that it is the proxy that refuses. */
const HEAD_KB_MAX = 96

/** Bytes without a period, so that no lost or repeated piece stays unseen. */
export function patternedBytes(length: number): Buffer {
  const bytes = Buffer.allocUnsafe(Math.ceil(length / 4) * 4)
  for (let at = 0, value = 1; at < bytes.length; at += 4) {
    value = (Math.imul(value, 1_664_525) + 1_013_904_223) >>> 0
    bytes.writeUInt32LE(value, at)
  }
  return bytes.subarray(0, length)
}

export function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex')
}

/** Ports of the site; the same at every address. */
export const NGINX_1 = 8101
export const NGINX_2 = 8102
export const NGHTTPD_2 = 8103
export const HAPROXY_1 = 8104
export const HAPROXY_2 = 8105
export const ENVOY_1 = 8106
export const ENVOY_2 = 8107
export const NODE_1 = 8108
export const NODE_2 = 8109

/** One server of the site. */
export interface SiteServer {
  readonly name: string
  readonly port: number
  readonly version: 1 | 2
  /** Programs that it needs. */
  readonly programs: readonly string[]
  readonly lacks: readonly Feature[]
}

const BEHIND_NGINX: readonly Feature[] = ['request-trailers', 'early-hints', 'options']

export const SITE_SERVERS: readonly SiteServer[] = [
  { name: 'nginx', port: NGINX_1, version: 1, programs: ['nginx'], lacks: BEHIND_NGINX },
  { name: 'nginx', port: NGINX_2, version: 2, programs: ['nginx'], lacks: BEHIND_NGINX },
  {
    name: 'nghttpd',
    port: NGHTTPD_2,
    version: 2,
    programs: ['nghttpd'],
    // Its trailers follow bodies that have a length.
    lacks: [...BEHIND_NGINX, 'empty', 'unchanged', 'zipped', 'trailers'],
  },
  { name: 'haproxy', port: HAPROXY_1, version: 1, programs: ['haproxy', 'nginx'], lacks: BEHIND_NGINX },
  { name: 'haproxy', port: HAPROXY_2, version: 2, programs: ['haproxy', 'nginx'], lacks: BEHIND_NGINX },
  { name: 'Envoy', port: ENVOY_1, version: 1, programs: ['envoy', 'nginx'], lacks: BEHIND_NGINX },
  { name: 'Envoy', port: ENVOY_2, version: 2, programs: ['envoy', 'nginx'], lacks: BEHIND_NGINX },
  { name: 'node:http', port: NODE_1, version: 1, programs: [], lacks: [] },
  { name: 'node:http2', port: NODE_2, version: 2, programs: [], lacks: [] },
]

/** Writes the files that the programs serve. */
function writeFiles(directory: string): void {
  const files = join(directory, 'files')
  mkdirSync(files, { recursive: true })
  writeFileSync(join(files, 'small'), SMALL)
  writeFileSync(join(files, 'large'), LARGE)
  writeFileSync(join(files, 'zipped'), ZIPPED)
}

/** Starts every server of the site whose programs are there, at each of `addresses`. Returns what ends them. */
export async function startSite(
  directory: string,
  addresses: readonly string[],
  hasProgram: (name: string) => boolean,
): Promise<() => Promise<void>> {
  writeFiles(directory)
  const programs: Promise<Program>[] = []
  const at = (...ports: readonly number[]): Listening[] =>
    addresses.flatMap((host) => ports.map((port) => ({ host, port })))
  if (hasProgram('nginx')) {
    const echo = 'load_module /usr/lib/nginx/modules/ngx_http_echo_module.so;'
    programs.push(startNginx(directory, nginxServers(addresses), at(NGINX_1, NGINX_2), echo))
  }
  if (hasProgram('nghttpd')) {
    for (const host of addresses) {
      const args = ['-a', host, '--no-tls', '-d', join(directory, 'files'), '--echo-upload', '--trailer', 'x-sum: 42']
      programs.push(Program.start('nghttpd', [...args, String(NGHTTPD_2)], directory, [{ host, port: NGHTTPD_2 }]))
    }
  }
  if (hasProgram('haproxy')) {
    programs.push(startHaproxy(directory, haproxySections(addresses), at(HAPROXY_1, HAPROXY_2)))
  }
  if (hasProgram('envoy')) programs.push(startEnvoy(directory, envoyConfig(addresses), at(ENVOY_1, ENVOY_2)))
  const closers = await Promise.all(addresses.flatMap((host) => [serveNode1(host), serveNode2(host)]))
  const started = await Promise.allSettled(programs)
  const end = async (): Promise<void> => {
    for (const close of closers) close()
    await Promise.all(started.map((one) => (one.status === 'fulfilled' ? one.value.end() : null)))
  }
  const failed = started.find((one) => one.status === 'rejected')
  if (failed === undefined) return end
  await end()
  throw failed.reason
}

// --- nginx ---

function nginxServers(addresses: readonly string[]): string {
  const server = (listen: string): string => `server {
    ${listen}
    large_client_header_buffers 8 ${HEAD_KB_MAX}k;
    client_max_body_size 0;
    client_body_buffer_size 16m;
    location / { root files; }
    location = /zipped { root files; add_header content-encoding gzip; }
    location = /empty { return 204; }
    location = /unchanged { add_header etag '"1"' always; return 304; }
    location = /trailers { add_trailer x-sum 42; echo part; }
    location = /echo { echo_read_request_body; echo_request_body; }
  }`
  const listen = (port: number, options: string): string =>
    addresses.map((address) => `listen ${address}:${port}${options} backlog=1024;`).join('\n    ')
  return `${server(listen(NGINX_1, ''))}
  ${server(listen(NGINX_2, ' http2'))}`
}

// --- haproxy ---

function haproxySections(addresses: readonly string[]): string {
  const bind = (port: number, options: string): string =>
    addresses.map((address) => `  bind ${address}:${port}${options}`).join('\n')
  const origin = addresses[0]
  return `frontend one
${bind(HAPROXY_1, '')}
  default_backend nginx-one
frontend two
${bind(HAPROXY_2, ' proto h2')}
  default_backend nginx-two
backend nginx-one
  server origin ${origin}:${NGINX_1}
backend nginx-two
  server origin ${origin}:${NGINX_2} proto h2
`
}

// --- Envoy ---

const TYPE = 'type.googleapis.com'

function envoyConfig(addresses: readonly string[]): object {
  const listeners = addresses.flatMap((host, index) => [
    envoyListener(`one-${index}`, { host, port: ENVOY_1 }, 'HTTP1', 'nginx-one'),
    envoyListener(`two-${index}`, { host, port: ENVOY_2 }, 'HTTP2', 'nginx-two'),
  ])
  const clusters = [
    envoyCluster('nginx-one', { host: addresses[0]!, port: NGINX_1 }, 1),
    envoyCluster('nginx-two', { host: addresses[0]!, port: NGINX_2 }, 2),
  ]
  return { static_resources: { listeners, clusters } }
}

export function envoyListener(name: string, address: Listening, codec: string, cluster: string): object {
  const manager = {
    '@type': `${TYPE}/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager`,
    stat_prefix: name,
    codec_type: codec,
    generate_request_id: false,
    max_request_headers_kb: HEAD_KB_MAX,
    http_protocol_options: { enable_trailers: true },
    route_config: {
      virtual_hosts: [
        {
          name: 'all',
          domains: ['*'],
          routes: [
            {
              match: { path: '/small' },
              direct_response: { status: 200, body: { inline_string: SMALL.toString() } },
            },
            { match: { prefix: '/' }, route: { cluster, timeout: '60s' } },
          ],
        },
      ],
    },
    http_filters: [
      { name: 'router', typed_config: { '@type': `${TYPE}/envoy.extensions.filters.http.router.v3.Router` } },
    ],
  }
  return {
    name,
    address: envoyAddress(address),
    filter_chains: [{ filters: [{ name: 'http', typed_config: manager }] }],
  }
}

export function envoyCluster(name: string, address: Listening, version: 1 | 2): object {
  return {
    name,
    type: 'STATIC',
    connect_timeout: '10s',
    load_assignment: {
      cluster_name: name,
      endpoints: [{ lb_endpoints: [{ endpoint: { address: envoyAddress(address) } }] }],
    },
    typed_extension_protocol_options: {
      'envoy.extensions.upstreams.http.v3.HttpProtocolOptions': {
        '@type': `${TYPE}/envoy.extensions.upstreams.http.v3.HttpProtocolOptions`,
        explicit_http_config:
          version === 2 ? { http2_protocol_options: {} } : { http_protocol_options: { enable_trailers: true } },
      },
    },
  }
}

export function envoyAddress({ host, port }: Listening): object {
  return { socket_address: { address: host, port_value: port } }
}

// --- Node ---

/** Answers of the site that have no body of the client's in them. */
function pageOf(path: string): { status: number; headers: Record<string, string>; body: Buffer | null } {
  switch (path) {
    case '/small':
      return { status: 200, headers: {}, body: SMALL }
    case '/large':
      return { status: 200, headers: {}, body: LARGE }
    case '/zipped':
      return { status: 200, headers: { 'content-encoding': 'gzip' }, body: ZIPPED }
    case '/empty':
      return { status: 204, headers: {}, body: null }
    case '/unchanged':
      return { status: 304, headers: { etag: '"1"' }, body: null }
    case '/hints':
      return { status: 200, headers: {}, body: Buffer.from('hinted') }
    default:
      return { status: 404, headers: {}, body: null }
  }
}

async function serveNode1(host: string): Promise<() => void> {
  const server: Http1Server = createHttp1Server({ maxHeaderSize: HEAD_KB_MAX * 1024 }, (incoming, outgoing) => {
    const path = incoming.url!
    if (path === '/echo') {
      outgoing.writeHead(200)
      incoming.pipe(outgoing)
      return
    }
    incoming.resume()
    if (incoming.method === 'OPTIONS') {
      outgoing.writeHead(200, { allow: 'GET', 'x-target': path, 'content-length': 0 })
      outgoing.end()
    } else if (path === '/trailers' || path === '/request-trailers') {
      incoming.on('end', () => {
        outgoing.writeHead(200, { trailer: 'x-sum' })
        outgoing.write(path === '/trailers' ? 'part\n' : `got ${incoming.trailers['x-up'] ?? 'none'}`)
        outgoing.addTrailers({ 'x-sum': '42' })
        outgoing.end()
      })
    } else {
      const page = pageOf(path)
      if (path === '/hints') outgoing.writeEarlyHints({ link: '</style.css>; rel=preload' })
      const length: Record<string, number> = page.body === null ? {} : { 'content-length': page.body.length }
      outgoing.writeHead(page.status, { ...page.headers, ...length })
      outgoing.end(page.body ?? undefined)
    }
  })
  return await listen(server, { host, port: NODE_1 })
}

async function serveNode2(host: string): Promise<() => void> {
  const server = http2.createServer({ settings: { maxHeaderListSize: HEAD_KB_MAX * 1024 } })
  server.on('sessionError', () => {})
  server.on('stream', (stream, headers) => {
    const path = headers[':path']!
    stream.on('error', () => {})
    if (path === '/echo') {
      if (headers.expect === '100-continue') stream.additionalHeaders({ ':status': 100 })
      stream.respond({ ':status': 200 })
      stream.pipe(stream)
      return
    }
    let trailers: http2.IncomingHttpHeaders = {}
    stream.on('trailers', (received) => {
      trailers = received
    })
    stream.resume()
    if (headers[':method'] === 'OPTIONS') {
      stream.respond({ ':status': 200, allow: 'GET', 'x-target': path }, { endStream: true })
    } else if (path === '/trailers' || path === '/request-trailers') {
      stream.on('end', () => {
        stream.respond({ ':status': 200 }, { waitForTrailers: true })
        stream.on('wantTrailers', () => stream.sendTrailers({ 'x-sum': '42' }))
        stream.end(path === '/trailers' ? 'part\n' : `got ${trailers['x-up'] ?? 'none'}`)
      })
    } else {
      const page = pageOf(path)
      if (path === '/hints') stream.additionalHeaders({ ':status': 103, link: '</style.css>; rel=preload' })
      const hasBody = page.body !== null && headers[':method'] !== 'HEAD'
      const length: Record<string, number> = page.body === null ? {} : { 'content-length': page.body.length }
      stream.respond({ ':status': page.status, ...page.headers, ...length }, { endStream: !hasBody })
      if (hasBody) stream.end(page.body)
    }
  })
  return await listen(server, { host, port: NODE_2 })
}

async function listen(server: Http1Server | http2.Http2Server, { host, port }: Listening): Promise<() => void> {
  const sockets = new Set<Socket>()
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => {})
    socket.on('close', () => sockets.delete(socket))
  })
  server.listen(port, host)
  await once(server, 'listening')
  return () => {
    server.close()
    for (const socket of sockets) socket.destroy()
  }
}
