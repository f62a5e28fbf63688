import assert from 'node:assert/strict'
import { test } from 'node:test'
import { protocolOfPort } from '../../src/compiler/protocol.ts'
import {
  PROTOCOL_DETECT,
  PROTOCOL_GRPC,
  PROTOCOL_HTTP1,
  PROTOCOL_HTTP2,
  PROTOCOL_TCP,
  PROTOCOL_TLS,
  PROTOCOL_UDP,
} from '../../src/model/service.ts'

for (const [transport, appProtocol, name, port, protocol] of [
  ['TCP', '', 'http', 80, PROTOCOL_HTTP1],
  ['TCP', '', 'http-web', 80, PROTOCOL_HTTP1],
  ['TCP', '', 'HTTP', 80, PROTOCOL_HTTP1],
  ['TCP', '', 'http2-api', 80, PROTOCOL_HTTP2],
  ['TCP', '', 'grpc', 80, PROTOCOL_GRPC],
  ['TCP', '', 'grpc-api', 80, PROTOCOL_GRPC],
  ['TCP', '', 'grpc-web', 80, PROTOCOL_HTTP1],
  ['TCP', '', 'grpc-web-api', 80, PROTOCOL_HTTP1],
  ['TCP', '', 'https', 443, PROTOCOL_TLS],
  ['TCP', '', 'tls-x', 443, PROTOCOL_TLS],
  ['TCP', '', 'tcp-x', 80, PROTOCOL_TCP],
  ['TCP', '', 'mysql', 80, PROTOCOL_TCP],
  ['TCP', '', 'redis-x', 80, PROTOCOL_TCP],
  ['TCP', 'http', 'tcp', 80, PROTOCOL_HTTP1],
  ['TCP', 'kubernetes.io/h2c', '', 80, PROTOCOL_HTTP2],
  ['TCP', 'kubernetes.io/ws', '', 80, PROTOCOL_HTTP1],
  ['TCP', 'kubernetes.io/wss', '', 80, PROTOCOL_TLS],
  ['TCP', 'example.com/x', 'http', 80, PROTOCOL_DETECT],
  ['TCP', '', 'web', 80, PROTOCOL_DETECT],
  ['TCP', '', '', 80, PROTOCOL_DETECT],
  ['TCP', '', 'httpweb', 80, PROTOCOL_DETECT],
  ['TCP', '', '', 3306, PROTOCOL_TCP],
  ['TCP', '', 'db', 27_017, PROTOCOL_TCP],
  ['TCP', '', '', 25, PROTOCOL_TCP],
  ['TCP', '', '', 53, PROTOCOL_TCP],
  ['TCP', '', 'http', 3306, PROTOCOL_HTTP1],
  ['TCP', '', 'udp', 80, PROTOCOL_DETECT],
  ['UDP', '', 'http', 80, PROTOCOL_UDP],
] as const) {
  test(`port ${port}/${transport} named "${name}" with appProtocol "${appProtocol}" speaks ${protocol}`, () => {
    assert.equal(protocolOfPort(transport, appProtocol, name, port), protocol)
  })
}
