/**
 * The SPIFFE identities in a certificate's subject alternative name, read from the text form that node:crypto and
 * node:tls give (`URI:spiffe://..., DNS:...`).
 *
 * In that form a name with a comma, a quote or a control character is a JSON string. No SPIFFE ID needs one, so a
 * quoted name is never an identity, and a name made to look like two cannot become two.
 */
import { parseIdentity } from './identity.ts'

/** Characters that SPIFFE allows in a trust domain and in path segments; no segment is empty, `.` or `..`. */
const SPIFFE_ID = /^spiffe:\/\/[a-z0-9._-]{1,255}(\/(?!\.{1,2}(\/|$))[A-Za-z0-9._-]+)+$/

/** Longest SPIFFE ID (SPIFFE-ID section 2.3). */
const SPIFFE_ID_LENGTH_MAX = 2_048

/** Every URI name, in order. Quoted names are left out. */
export function uriNames(subjectAltName: string): string[] {
  const names: string[] = []
  let position = 0
  while (position < subjectAltName.length) {
    const end = endOfName(subjectAltName, position)
    const name = subjectAltName.slice(position, end)
    if (name.startsWith('URI:') && !name.startsWith('URI:"')) names.push(name.slice(4))
    position = end + 2
  }
  return names
}

/** The workload identities among the names: five pieces, allowed characters. */
export function workloadIdentities(subjectAltName: string): string[] {
  return uriNames(subjectAltName).filter((name) => isSpiffeId(name) && parseIdentity(name) !== null)
}

/** True when `uri` is a well-formed SPIFFE ID with a path, of whatever kind. */
export function isSpiffeId(uri: string): boolean {
  return uri.length <= SPIFFE_ID_LENGTH_MAX && SPIFFE_ID.test(uri)
}

/** Index of the `, ` that ends the name at `start`, quoted parts skipped; the text's length for the last name. */
function endOfName(text: string, start: number): number {
  let isQuoted = false
  for (let i = start; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (isQuoted && code === 0x5c) i++
    else if (code === 0x22) isQuoted = !isQuoted
    else if (!isQuoted && code === 0x2c && text.charCodeAt(i + 1) === 0x20) return i
  }
  return text.length
}
