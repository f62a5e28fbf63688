/** Which node is calling: read from the certificate that the TLS handshake verified, never from a message. */
import { X509Certificate } from 'node:crypto'
import { parseNodeIdentity } from '../model/identity.ts'
import { uriNames } from '../model/subject-alt-name.ts'
import { CallError, STATUS_PERMISSION_DENIED, STATUS_UNAUTHENTICATED } from '../wire/channel.ts'
import type { Peer } from '../wire/server.ts'

/**
 * The node whose agent is calling. Throws CallError: UNAUTHENTICATED without a certificate or when it has expired since
 * the handshake, PERMISSION_DENIED when it is of a workload or of another trust domain.
 */
export function nodeOf(peer: Peer, trustDomain: string, nowMs: number): string {
  if (peer.certificate === null)
    throw new CallError(STATUS_UNAUTHENTICATED, 'a client certificate of a node is required')
  const certificate = new X509Certificate(peer.certificate)
  if (Date.parse(certificate.validTo) <= nowMs) {
    throw new CallError(STATUS_UNAUTHENTICATED, 'the client certificate has expired: connect again with a new one')
  }
  const names = uriNames(certificate.subjectAltName ?? '')
  const node = names.length === 1 ? parseNodeIdentity(names[0]!, trustDomain) : null
  if (node === null) {
    const who = names.length === 0 ? 'nobody' : names.join(' and ')
    throw new CallError(
      STATUS_PERMISSION_DENIED,
      `${who} is no node of trust domain ${trustDomain}: only agents may call`,
    )
  }
  return node
}
