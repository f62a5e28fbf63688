/** The protocol that a port of a Kubernetes Service speaks, from appProtocol, name and number. */
import {
  PROTOCOL_DETECT,
  PROTOCOL_GRPC,
  PROTOCOL_HTTP1,
  PROTOCOL_HTTP2,
  PROTOCOL_TCP,
  PROTOCOL_TLS,
  PROTOCOL_UDP,
  type Protocol,
} from '../model/service.ts'

/** Words of appProtocol and port names. Protocols that the mesh does not read are TCP. */
const PROTOCOLS: ReadonlyMap<string, Protocol> = new Map([
  ['http', PROTOCOL_HTTP1],
  ['http2', PROTOCOL_HTTP2],
  ['grpc', PROTOCOL_GRPC],
  ['grpc-web', PROTOCOL_HTTP1],
  ['https', PROTOCOL_TLS],
  ['tls', PROTOCOL_TLS],
  ['tcp', PROTOCOL_TCP],
  ['mongo', PROTOCOL_TCP],
  ['mysql', PROTOCOL_TCP],
  ['redis', PROTOCOL_TCP],
  ['udp', PROTOCOL_UDP],
  ['kubernetes.io/h2c', PROTOCOL_HTTP2],
  ['kubernetes.io/ws', PROTOCOL_HTTP1],
  ['kubernetes.io/wss', PROTOCOL_TLS],
])

/** Server-first protocols live on these (SMTP, DNS, MySQL, MongoDB): sniffing would wait for a client that waits. */
const SERVER_FIRST_PORTS: ReadonlySet<number> = new Set([25, 53, 3306, 27_017])

/** The protocol that a word says, alone or before its first `-`; null when it says none. */
export function protocolOfWord(word: string): Protocol | null {
  const text = word.toLowerCase()
  const whole = PROTOCOLS.get(text)
  if (whole !== undefined) return whole
  if (text.startsWith('grpc-web-')) return PROTOCOL_HTTP1
  if (text.includes('/')) return null
  return PROTOCOLS.get(text.split('-', 1)[0]!) ?? null
}

/** Protocol of a service port. `transport` is the Kubernetes field `protocol`; empty texts are absent. */
export function protocolOfPort(transport: string, appProtocol: string, name: string, port: number): Protocol {
  if (transport === 'UDP') return PROTOCOL_UDP
  // An appProtocol that is not understood is not overruled by the name: the user meant it.
  const said = protocolOfWord(appProtocol === '' ? name : appProtocol)
  if (said !== null && said !== PROTOCOL_UDP) return said
  return SERVER_FIRST_PORTS.has(port) ? PROTOCOL_TCP : PROTOCOL_DETECT
}

/** True when HTTP rules can apply to a port of this protocol. */
export function mayBeHttp(protocol: Protocol): boolean {
  return (
    protocol === PROTOCOL_HTTP1 ||
    protocol === PROTOCOL_HTTP2 ||
    protocol === PROTOCOL_GRPC ||
    protocol === PROTOCOL_DETECT
  )
}

/** True when TCP rules can apply to a port of this protocol. */
export function mayBeTcp(protocol: Protocol): boolean {
  return protocol === PROTOCOL_TCP || protocol === PROTOCOL_DETECT
}
