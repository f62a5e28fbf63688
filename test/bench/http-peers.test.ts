import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { ENVOY_VERSION, envoyConfigs } from '../../bench/peers/envoy.ts'
import { haproxyConfigs } from '../../bench/peers/haproxy.ts'
import { nginxConfigs } from '../../bench/peers/nginx.ts'
import { ADDED_HEADERS, LOAD_PATH, ROUTE_COUNT, routePrefix, type Site, type Topology } from '../../bench/peers/work.ts'

function site(topology: Topology): Site {
  const leaf = (name: string) => ({
    certificate: `/c/${name}.pem`,
    key: `/c/${name}.key`,
    identity: `spiffe://${name}`,
  })
  return {
    topology,
    listen: { host: '127.9.0.1', port: 18_000 },
    middle: { host: '127.9.0.2', port: 15_008 },
    upstream: { host: '127.9.0.3', port: 18_080 },
    directory: '/d',
    certificates: { root: '/c/root.pem', client: leaf('client'), server: leaf('server') },
  }
}

const HTTP_TOPOLOGIES: readonly Topology[] = ['http', 'http2', 'grpc', 'http-pair']

test('all peers do the same work: sixteen routes, two headers, and the load takes a route in the middle', () => {
  assert.ok(LOAD_PATH.startsWith(routePrefix(ROUTE_COUNT / 2)))
  for (const topology of HTTP_TOPOLOGIES) {
    const texts = [
      JSON.stringify(envoyConfigs(site(topology))[0]),
      nginxConfigs(site(topology), true)![0]!,
      haproxyConfigs(site(topology))![0]!,
    ]
    for (const text of texts) {
      for (let index = 0; index < ROUTE_COUNT; index++) assert.ok(text.includes(routePrefix(index)), topology)
      for (const [name, value] of ADDED_HEADERS) assert.ok(text.includes(name) && text.includes(value), topology)
    }
  }
})

test('a pair is two processes with mutual TLS between them on both sides', () => {
  for (const topology of ['http-pair', 'tcp-pair'] as const) {
    const [client, server] = envoyConfigs(site(topology)).map((config) => JSON.stringify(config))
    assert.ok(client!.includes('/c/client.key') && server!.includes('/c/server.key'))
    assert.ok(server!.includes('"require_client_certificate":true'))
    const [nginxClient, nginxServer] = nginxConfigs(site(topology), true)!
    assert.match(nginxClient!, /proxy_ssl_verify on/)
    assert.match(nginxServer!, /ssl_verify_client on/)
  }
})

test('a peer that cannot do the work has no configuration for it', () => {
  assert.equal(haproxyConfigs(site('tcp-pair')), null)
  assert.equal(nginxConfigs(site('tcp-pair'), false), null)
})

test('nginx keeps its upstream connections: each location clears Connection itself, as it inherits no header', () => {
  const [text] = nginxConfigs(site('http'), true)!
  const locations = text!.split('\n').filter((line) => line.includes('location /service-'))
  assert.equal(locations.length, ROUTE_COUNT)
  for (const line of locations) assert.match(line, /proxy_set_header Connection "";/)
})

test('the Envoy that tests install is the one that the bench compares with', () => {
  const script = readFileSync(new URL('../../deploy/setup.sh', import.meta.url), 'utf8')
  assert.equal(/^ENVOY_VERSION=(.*)$/m.exec(script)![1], ENVOY_VERSION)
})
