/**
 * Where the controller accepts tokens, peers without a certificate get through the TLS handshake. This lets them no
 * further than to a certificate request that carries a token, before a byte of a message is read; whether the token is
 * any good is for the controller to find out.
 */
import { type Metadata, ServerInterceptingCall, type ServerInterceptor } from '@grpc/grpc-js'
import { BEARER_TOKEN_LENGTH_MAX, STATUS_UNAUTHENTICATED } from './channel.ts'
import { CERTIFICATE_SERVICE } from './discovery.ts'

/** The scheme is not case-sensitive (RFC 9110 section 11.1); the token is base64url in three parts, or at least no more than b64token (RFC 6750). */
const BEARER = /^bearer +([A-Za-z0-9._~+/-]+=*)$/i

/** The token of an `authorization: Bearer` header; null when there is not exactly one, or it is malformed or too long. */
export function bearerTokenOf(headers: Metadata): string | null {
  const values = headers.get('authorization')
  const [value] = values
  if (values.length !== 1 || typeof value !== 'string' || value.length > BEARER_TOKEN_LENGTH_MAX) return null
  return BEARER.exec(value)?.[1] ?? null
}

/** Ends a call with UNAUTHENTICATED that has neither a verified certificate, nor a token and asks for a certificate. */
export const admitCertificateOrToken: ServerInterceptor = (method, call) =>
  new ServerInterceptingCall(call, {
    start: (next) =>
      next({
        onReceiveMetadata: (headers, pass) => {
          const isSigning = method.path === CERTIFICATE_SERVICE.createCertificate.path
          if (
            call.getAuthContext().sslPeerCertificate !== undefined ||
            (isSigning && bearerTokenOf(headers) !== null)
          ) {
            pass(headers)
            return
          }
          const details = isSigning
            ? 'a client certificate of the mesh is required, or the token of an agent'
            : 'a client certificate of a node is required'
          call.sendStatus({ code: STATUS_UNAUTHENTICATED, details })
        },
      }),
  })
