/** TLS: the rules of conn.ts and of tls-identity.ts, by subject. Every transport that opens sockets must pass them. */
import { after } from 'node:test'
import { TlsPeers } from '../support/tls-peers.ts'
import type { TransportKind } from '../support/transports.ts'
import { testProtocolChoice } from './tls-alpn-suite.ts'
import { testTlsConnections } from './tls-connection-suite.ts'
import { testForeignTls } from './tls-foreign-suite.ts'
import { testTlsRefusals } from './tls-refusal-suite.ts'

/** Tests of TLS. */
export function testTls(kind: TransportKind): void {
  const peers = new TlsPeers(kind)
  after(() => peers.close())
  testTlsConnections(peers)
  testTlsRefusals(peers)
  testProtocolChoice(peers)
  testForeignTls(peers)
}
