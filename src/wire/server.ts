/**
 * The controller's gRPC server: delta discovery, certificate signing and questions about new pods over mutual TLS.
 *
 * gRPC ends here: the controller sees streams and peers as plain interfaces. A peer without a certificate of the mesh
 * does not get through the TLS handshake; where tokens are accepted it does, but no further than to a certificate request
 * with a good token (token-admission.ts). `replaceCredential` takes effect for new connections; open ones live on until
 * they reach `CONNECTION_AGE_MS_MAX`, when the agent comes again (resuming costs next to nothing) and proves anew
 * who it is.
 */
import type { SecureContextOptions } from 'node:tls'
import {
  type handleBidiStreamingCall,
  type handleUnaryCall,
  Server,
  ServerCredentials,
  type ServerDuplexStream,
  type sendUnaryData,
} from '@grpc/grpc-js'
import { formatHostPort } from '../base/address.ts'
import { type Clock, systemClock } from '../base/clock.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { PodMembership, StartingPod } from '../model/pod-membership.ts'
import {
  CallError,
  type Credential,
  KEEPALIVE_MS,
  KEEPALIVE_TIMEOUT_MS,
  MESSAGE_BYTES_MAX,
  STATUS_INTERNAL,
  STATUS_INVALID_ARGUMENT,
  STATUS_UNAVAILABLE,
} from './channel.ts'
import { CERTIFICATE_SERVICE, DISCOVERY_SERVICE, IMPERSONATED_IDENTITY, MEMBERSHIP_SERVICE } from './discovery.ts'
import type {
  CertificateRequest,
  CertificateResponse,
  DeltaRequest,
  DeltaResponse,
  PodMembershipRequest,
  PodMembershipResponse,
} from './messages.ts'
import { admitCertificateOrToken, nodeByToken, type TokenAdmission } from './token-admission.ts'

/** A connection is ended in order after this time, give or take 10 %. One hour: a credential that was replaced or has run out is not used much longer. */
const CONNECTION_AGE_MS_MAX = 3_600_000
/** Time for calls under way when a connection reaches its age. */
const CONNECTION_AGE_GRACE_MS = 5_000
/** Calls at one time on one connection. One stream, a few certificate requests and a few new pods are what an agent has. */
const STREAMS_MAX = 64
/** Longest name or uid of a pod: Kubernetes has none above 253 characters. */
const NAME_LENGTH_MAX = 253
/** Longest certificate request, characters. A P-256 request has about 500. */
const CSR_LENGTH_MAX = 16_384

/** Who is at the other end. */
export interface Peer {
  /** DER of the certificate that the TLS handshake verified; null when there is none. */
  readonly certificate: Uint8Array | null
  /** `address:port`, for logs. */
  readonly address: string
}

/** Who asks for a certificate. */
export interface SigningPeer extends Peer {
  /** The node that `onToken` found to have the token of this call; null when it came otherwise. */
  readonly tokenNode: string | null
}

/** The controller's end of one discovery stream. */
export interface DiscoveryStream {
  readonly peer: Peer
  send(response: DeltaResponse): void
  /** Ends the stream; the peer sees the status. Nothing can be sent afterwards. */
  fail(error: CallError): void
}

/** What the controller does with a stream. */
export interface DiscoverySession {
  onRequest(request: DeltaRequest): void
  /** The stream has ended, for whatever reason. Comes once. */
  onClose(): void
}

/** A certificate request as the controller sees it. */
export interface SigningRequest {
  readonly csr: string
  /** 0 leaves it to the authority. */
  readonly validitySeconds: number
  /** Null when the request does not name one. */
  readonly impersonatedIdentity: string | null
}

/** Who answers its calls. */
export interface ControlHandlers {
  /**
   * Lets peers without a certificate ask for one with a token: resolves with the node whose agent has it. Throws CallError
   * to refuse, before anything else of the call is read. Left out: tokens are not accepted.
   */
  readonly onToken?: (token: string, address: string) => Promise<string>
  /** For how long a peer with a token has; the system's unless given. */
  readonly clock?: Clock
  /** Throws CallError to refuse the stream. */
  onStream(stream: DiscoveryStream): DiscoverySession
  /** Resolves with PEM texts: leaf, intermediates, roots. Throws CallError to refuse. */
  onSigningRequest(request: SigningRequest, peer: SigningPeer): Promise<readonly string[]>
  /** Says whether a pod that starts on the peer's node is its to capture. Throws CallError. Left out: nobody can say. */
  onMembershipRequest?(pod: StartingPod, peer: Peer): Promise<PodMembership>
}

/** The controller's gRPC server. */
export class ControlServer {
  private readonly server: Server
  private readonly credentials: ReplaceableCredentials

  constructor(credential: Credential, handlers: ControlHandlers) {
    const { onToken, clock = systemClock } = handlers
    this.credentials = new ReplaceableCredentials(contextOptions(credential), onToken !== undefined)
    this.server = new Server({
      'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
      'grpc.max_send_message_length': MESSAGE_BYTES_MAX,
      'grpc.max_concurrent_streams': STREAMS_MAX,
      'grpc.keepalive_time_ms': KEEPALIVE_MS,
      'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MS,
      'grpc.max_connection_age_ms': CONNECTION_AGE_MS_MAX,
      'grpc.max_connection_age_grace_ms': CONNECTION_AGE_GRACE_MS,
      ...(onToken === undefined ? {} : { interceptors: [admitCertificateOrToken(admissionBy(onToken), clock)] }),
      // Channelz stays on, its default: without it grpc-js 1.14 does not know its sessions, and stopping leaves them open.
    })
    this.server.addService(DISCOVERY_SERVICE, { deltaAggregatedResources: discoveryCall(handlers) })
    this.server.addService(CERTIFICATE_SERVICE, { createCertificate: certificateCall(handlers) })
    this.server.addService(MEMBERSHIP_SERVICE, { getPodMembership: membershipCall(handlers) })
  }

  /** Resolves with the bound port; rejects with WeftError WEFT_SYSCALL when the address cannot be bound. */
  async listen(address: string, port: number): Promise<number> {
    const target = formatHostPort(address, port)
    return new Promise((resolve, reject) => {
      this.server.bindAsync(target, this.credentials, (error, boundPort) => {
        if (error === null) resolve(boundPort)
        else reject(new WeftError('WEFT_SYSCALL', `cannot listen on ${target}: is another controller running?`, error))
      })
    })
  }

  /** New connections are served with `credential` from now on. */
  replaceCredential(credential: Credential): void {
    this.credentials.replace(contextOptions(credential))
  }

  /** Stops accepting, ends every stream and closes all connections. */
  stop(): void {
    this.server.forceShutdown()
  }
}

/** Server credentials that can be replaced while the server runs. */
class ReplaceableCredentials extends ServerCredentials {
  /**
   * Where peers need no certificate, one that does not verify does not end the handshake either. It counts as none: gRPC
   * tells of a certificate only when OpenSSL has verified it.
   */
  constructor(options: SecureContextOptions, isCertificateOptional: boolean) {
    super({ requestCert: true, rejectUnauthorized: !isCertificateOptional }, options)
  }

  replace(options: SecureContextOptions): void {
    this.updateSecureContextOptions(options)
  }

  override _equals(other: ServerCredentials): boolean {
    return this === other
  }
}

function contextOptions(credential: Credential): SecureContextOptions {
  return { cert: credential.certificateChain, key: credential.key, ca: credential.bundle, minVersion: 'TLSv1.3' }
}

type DiscoveryCall = ServerDuplexStream<DeltaRequest, DeltaResponse>

function discoveryCall(handlers: ControlHandlers): handleBidiStreamingCall<DeltaRequest, DeltaResponse> {
  return (call) => {
    const stream = new ServerStream(call)
    let session: DiscoverySession
    try {
      session = handlers.onStream(stream)
    } catch (error) {
      stream.fail(toCallError(error))
      // A stream whose handler takes no events must still be read to its end.
      call.on('error', () => {}).resume()
      return
    }
    let isClosed = false
    const close = (): void => {
      if (isClosed) return
      isClosed = true
      session.onClose()
    }
    call.on('data', (request: DeltaRequest) => {
      if (!isClosed) session.onRequest(request)
    })
    call.on('cancelled', close)
    call.on('error', close)
    call.on('close', close)
    call.on('end', () => {
      close()
      call.end()
    })
  }
}

class ServerStream implements DiscoveryStream {
  readonly peer: Peer
  private readonly call: DiscoveryCall
  private isEnded = false

  constructor(call: DiscoveryCall) {
    this.call = call
    this.peer = peerOf(call)
  }

  send(response: DeltaResponse): void {
    if (!this.isEnded && !this.call.cancelled) this.call.write(response)
  }

  fail(error: CallError): void {
    if (this.isEnded) return
    this.isEnded = true
    this.call.emit('error', { code: error.status, details: error.message })
  }
}

function certificateCall(handlers: ControlHandlers): handleUnaryCall<CertificateRequest, CertificateResponse> {
  return (call, callback) => {
    const answer = async (): Promise<CertificateResponse> => {
      const request = signingRequest(call.request)
      const tokenNode = nodeByToken(call.metadata)
      return { certChain: await handlers.onSigningRequest(request, { ...peerOf(call), tokenNode }) }
    }
    answerCall(answer, callback)
  }
}

function membershipCall(handlers: ControlHandlers): handleUnaryCall<PodMembershipRequest, PodMembershipResponse> {
  return (call, callback) => {
    const { namespace, name, uid } = call.request
    const answer = async (): Promise<PodMembershipResponse> => {
      if ([namespace, name, uid].some((text) => text.length > NAME_LENGTH_MAX)) {
        throw new CallError(STATUS_INVALID_ARGUMENT, `no pod's name or uid has more than ${NAME_LENGTH_MAX} characters`)
      }
      if (handlers.onMembershipRequest === undefined) throw new CallError(STATUS_UNAVAILABLE, 'nobody knows any pods')
      return await handlers.onMembershipRequest({ namespace, name, uid }, peerOf(call))
    }
    answerCall(answer, callback)
  }
}

function answerCall<T>(answer: () => Promise<T>, callback: sendUnaryData<T>): void {
  answer().then(
    (response) => callback(null, response),
    (error) => {
      const { status, message } = toCallError(error)
      callback({ code: status, details: message })
    },
  )
}

function signingRequest(message: CertificateRequest): SigningRequest {
  if (message.csr.length > CSR_LENGTH_MAX) {
    throw new CallError(STATUS_INVALID_ARGUMENT, `the certificate request is longer than ${CSR_LENGTH_MAX} characters`)
  }
  const validitySeconds = Number(message.validityDuration)
  if (!(validitySeconds >= 0)) throw new CallError(STATUS_INVALID_ARGUMENT, 'the validity is negative')
  const named = message.metadata?.fields[IMPERSONATED_IDENTITY]?.stringValue
  return { csr: message.csr, validitySeconds, impersonatedIdentity: named === undefined || named === '' ? null : named }
}

function peerOf(call: { getPeer(): string; getAuthContext(): { sslPeerCertificate?: { raw: Buffer } } }): Peer {
  return { certificate: call.getAuthContext().sslPeerCertificate?.raw ?? null, address: call.getPeer() }
}

function admissionBy(onToken: TokenAdmission): TokenAdmission {
  return async (token, address) => {
    try {
      return await onToken(token, address)
    } catch (error) {
      throw toCallError(error)
    }
  }
}

/** What the peer is told. Only errors that were meant for it carry their text. */
function toCallError(error: unknown): CallError {
  if (error instanceof CallError) return error
  if (error instanceof WeftError) return new CallError(STATUS_INTERNAL, describeError(error))
  return new CallError(STATUS_INTERNAL, 'the controller failed at this request; its log says why')
}
