// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * `x-forwarded-client-cert`, by which an app learns who calls it: `By=<its own identity>;URI=<the caller's identity>`,
 * in Envoy's grammar.
 *
 * Exactly one element, and only from what was proved: by TLS to the proxy of the destination, by the kernel for a caller
 * on the same node. What a client says of itself in this header is taken out (forwarding-headers.ts), so an app may
 * trust any element that it finds. `Hash` is left out: the proxy of one hop has no certificate of the caller to hash.
 */
import { ConstantFields } from '../http/constant-fields.ts'
import type { Workload } from '../model/workload.ts'
import { identityOf } from './local-pods.ts'

/** The name of the header. */
export const CLIENT_CERTIFICATE = 'x-forwarded-client-cert'

/** Destinations that one connection remembers. 64: more pods on a node are rarely behind one service. */
const DESTINATIONS_MAX = 64

/** The header that tells the app `by` that `source` calls; null when an identity cannot be written in a header. */
export function clientCertificateFields(by: string, source: string): ConstantFields | null {
  if (!isVisible(by) || !isVisible(source)) return null
  return new ConstantFields([CLIENT_CERTIFICATE, `By=${quoted(by)};URI=${quoted(source)}`])
}

/** The headers of one caller's connection, by whom it calls on its own node. */
export class ClientCertificates {
  private readonly source: string
  private byDestination: Map<Workload, ConstantFields | null>

  constructor(source: string) {
    this.source = source
    this.byDestination = new Map()
  }

  fieldsFor(destination: Workload): ConstantFields | null {
    let fields = this.byDestination.get(destination)
    if (fields === undefined) {
      if (this.byDestination.size === DESTINATIONS_MAX) this.byDestination = new Map()
      fields = clientCertificateFields(identityOf(destination), this.source)
      this.byDestination.set(destination, fields)
    }
    return fields
  }
}

/** Quoted where a comma, semicolon or equals sign would end the value or begin another. */
function quoted(identity: string): string {
  let needsQuotes = false
  let escaped = ''
  for (let i = 0; i < identity.length; i++) {
    const character = identity.charAt(i)
    if (character === ',' || character === ';' || character === '=' || character === '"') needsQuotes = true
    escaped += character === '"' || character === '\\' ? `\\${character}` : character
  }
  return needsQuotes ? `"${escaped}"` : identity
}

function isVisible(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code < 0x21 || code > 0x7e) return false
  }
  return text !== ''
}
