/**
 * Where the controller accepts tokens, peers without a certificate get through the TLS handshake. This lets them no
 * further than to a certificate request whose token the controller has found good, before a byte of a message is read: a
 * stranger with any token costs a review, and no memory. Who is let in has to say soon what it wants.
 */
import { type Metadata, ServerInterceptingCall, type ServerInterceptor } from '@grpc/grpc-js'
import type { Clock } from '../base/clock.ts'
import { BEARER_TOKEN_LENGTH_MAX, type CallError, STATUS_DEADLINE_EXCEEDED, STATUS_UNAUTHENTICATED } from './channel.ts'
import { CERTIFICATE_SERVICE } from './discovery.ts'

/** The scheme is not case-sensitive (RFC 9110 section 11.1); the token is base64url in three parts, or at least no more than b64token (RFC 6750). */
const BEARER = /^bearer +([A-Za-z0-9._~+/-]+=*)$/i

/**
 * From the review of a token to the end of the message: an agent sends both at once. A token is worth nothing any more when
 * its pod is gone, and must not be kept good by a message that takes its time.
 */
export const MESSAGE_MS_MAX = 10_000

/** Resolves with the node whose agent has this token, or rejects with CallError. `address` is the peer's, for logs. */
export type TokenAdmission = (token: string, address: string) => Promise<string>

/** Nodes of calls that were let in by a token, by their headers: nothing that a peer can write. */
const nodes = new WeakMap<Metadata, string>()

/** The node that was let in by its token with these headers; null when it came otherwise. */
export function nodeByToken(headers: Metadata): string | null {
  return nodes.get(headers) ?? null
}

/** The token of an `authorization: Bearer` header; null when there is not exactly one, or it is malformed or too long. */
export function bearerTokenOf(headers: Metadata): string | null {
  const values = headers.get('authorization')
  const [value] = values
  if (values.length !== 1 || typeof value !== 'string' || value.length > BEARER_TOKEN_LENGTH_MAX) return null
  return BEARER.exec(value)?.[1] ?? null
}

/** Ends calls that have neither a verified certificate, nor a good token and ask for a certificate. */
export function admitCertificateOrToken(admit: TokenAdmission, clock: Clock): ServerInterceptor {
  return (method, call) => {
    const isSigning = method.path === CERTIFICATE_SERVICE.createCertificate.path
    let cancelDeadline = (): void => {}
    return new ServerInterceptingCall(call, {
      start: (next) =>
        next({
          onReceiveMetadata: (headers, pass) => {
            if (call.getAuthContext().sslPeerCertificate !== undefined) {
              pass(headers)
              return
            }
            const token = isSigning ? bearerTokenOf(headers) : null
            if (token === null) {
              const details = isSigning
                ? 'a client certificate of the mesh is required, or the token of an agent'
                : 'a client certificate of a node is required'
              call.sendStatus({ code: STATUS_UNAUTHENTICATED, details })
              return
            }
            admit(token, call.getPeer()).then(
              (node) => {
                nodes.set(headers, node)
                cancelDeadline = clock.after(MESSAGE_MS_MAX, () => {
                  const details = `the request did not come within ${MESSAGE_MS_MAX / 1000} s after its token`
                  call.sendStatus({ code: STATUS_DEADLINE_EXCEEDED, details })
                })
                pass(headers)
              },
              ({ status, message }: CallError) => call.sendStatus({ code: status, details: message }),
            )
          },
          onReceiveHalfClose: (pass) => {
            cancelDeadline()
            pass()
          },
          onCancel: () => cancelDeadline(),
        }),
    })
  }
}
