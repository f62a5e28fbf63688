/**
 * The agent's end of the control channel: one connection to the controller with one credential.
 *
 * A client is cheap and short-lived by design: whoever reconnects makes a new one, so that the newest credential is used
 * and no back-off state is left over from the last attempt.
 */
import { createSecureContext } from 'node:tls'
import { ChannelCredentials, Client, type ClientDuplexStream, Metadata, type ServiceError } from '@grpc/grpc-js'
import { describeError, WeftError } from '../base/errors.ts'
import { POD_MESHED, POD_OUTSIDE, POD_UNKNOWN, type PodMembership, type StartingPod } from '../model/pod-membership.ts'
import { FAILURE_BY_POLICY, FAILURE_CLOSED, FAILURE_OPEN } from '../model/workload.ts'
import {
  CallError,
  type Credential,
  KEEPALIVE_MS,
  KEEPALIVE_TIMEOUT_MS,
  MESSAGE_BYTES_MAX,
  statusName,
  type TrustOnly,
} from './channel.ts'
import { CERTIFICATE_SERVICE, DISCOVERY_SERVICE, IMPERSONATED_IDENTITY, MEMBERSHIP_SERVICE } from './discovery.ts'
import type {
  CertificateRequest,
  CertificateResponse,
  DeltaRequest,
  DeltaResponse,
  PodMembershipResponse,
} from './messages.ts'

/** Name sent as SNI. The controller's certificate is judged by its SPIFFE identity, not by this name. */
const SERVER_NAME = 'weft-controller'

const POD_STATES = [POD_OUTSIDE, POD_MESHED] as const
const FAILURE_MODES = [FAILURE_OPEN, FAILURE_CLOSED] as const

/** Where the controller is, and who we are to it. */
export interface ControlClientOptions {
  /** `host:port`; IPv6 addresses in brackets. */
  readonly address: string
  /** Without certificate and key the controller is proved to us and we are nobody to it, unless a call has a token. */
  readonly credential: Credential | TrustOnly
  /** Judges the controller's certificate (DER), whose chain is already verified; the reason of a refusal, or null. */
  readonly refusePeer: (certificate: Uint8Array) => string | null
}

/** Told what happens on a discovery stream. */
export interface DiscoveryListener {
  onResponse(response: DeltaResponse): void
  /** The stream has ended; it never ends by itself unless something failed. Comes once. */
  onEnd(error: WeftError): void
}

/** The agent's end of one discovery stream. */
export interface DiscoveryCall {
  send(request: DeltaRequest): void
  /** Ends the stream. `onEnd` does not follow. */
  close(): void
}

/** One gRPC connection to the controller. */
export class ControlClient {
  private readonly client: Client
  private readonly address: string

  /** Throws WeftError WEFT_CERTIFICATE when the credential is not usable. */
  constructor(options: ControlClientOptions) {
    this.address = options.address
    this.client = new Client(`dns:///${options.address}`, credentials(options), {
      'grpc.ssl_target_name_override': SERVER_NAME,
      'grpc.default_authority': SERVER_NAME,
      'grpc.max_receive_message_length': MESSAGE_BYTES_MAX,
      'grpc.max_send_message_length': MESSAGE_BYTES_MAX,
      'grpc.keepalive_time_ms': KEEPALIVE_MS,
      'grpc.keepalive_timeout_ms': KEEPALIVE_TIMEOUT_MS,
      'grpc.use_local_subchannel_pool': 1,
      'grpc.service_config_disable_resolution': 1,
      'grpc.enable_http_proxy': 0,
      'grpc.enable_retries': 0,
      'grpc.enable_channelz': 0,
    })
  }

  /** Opens the discovery stream. Failing to connect is reported by `onEnd`, too. */
  openDiscovery(listener: DiscoveryListener): DiscoveryCall {
    const method = DISCOVERY_SERVICE.deltaAggregatedResources
    const call = this.client.makeBidiStreamRequest(method.path, method.requestSerialize, method.responseDeserialize)
    return new ClientStream(call, listener, this.address)
  }

  /**
   * Resolves with PEM texts: leaf, intermediates, roots. Rejects with WeftError WEFT_CONTROLLER; its cause is a CallError.
   * A token is sent only to whom `refusePeer` has let pass.
   */
  async createCertificate(
    csr: string,
    identity: string,
    validitySeconds: number,
    timeoutMs: number,
    bearerToken: string | null = null,
  ): Promise<readonly string[]> {
    const method = CERTIFICATE_SERVICE.createCertificate
    const request: CertificateRequest = {
      csr,
      validityDuration: validitySeconds,
      metadata: { fields: { [IMPERSONATED_IDENTITY]: { stringValue: identity } } },
    }
    const headers = new Metadata()
    if (bearerToken !== null) headers.set('authorization', `Bearer ${bearerToken}`)
    const response = await new Promise<CertificateResponse>((resolve, reject) => {
      this.client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        request,
        headers,
        { deadline: Date.now() + timeoutMs },
        (error, value) => {
          if (error === null && value !== undefined) resolve(value)
          else reject(controllerError(`certificate for ${identity}`, this.address, error))
        },
      )
    })
    return response.certChain
  }

  /**
   * Whether a pod that starts on this node is its agent's to capture. What a newer controller says and nobody here
   * understands counts as unknown. Rejects with WeftError WEFT_CONTROLLER; its cause is a CallError.
   */
  async podMembership(pod: StartingPod, timeoutMs: number): Promise<PodMembership> {
    const method = MEMBERSHIP_SERVICE.getPodMembership
    const response = await new Promise<PodMembershipResponse>((resolve, reject) => {
      this.client.makeUnaryRequest(
        method.path,
        method.requestSerialize,
        method.responseDeserialize,
        pod,
        new Metadata(),
        { deadline: Date.now() + timeoutMs },
        (error, value) => {
          if (error === null && value !== undefined) resolve(value)
          else reject(controllerError(`pod ${pod.namespace}/${pod.name}`, this.address, error))
        },
      )
    })
    return {
      state: POD_STATES.find((state) => state === response.state) ?? POD_UNKNOWN,
      failureMode: FAILURE_MODES.find((mode) => mode === response.failureMode) ?? FAILURE_BY_POLICY,
    }
  }

  /** Closes the connection; calls under way fail. */
  close(): void {
    this.client.close()
  }
}

class ClientStream implements DiscoveryCall {
  private readonly call: ClientDuplexStream<DeltaRequest, DeltaResponse>
  private readonly listener: DiscoveryListener
  private readonly address: string
  private isEnded = false

  constructor(call: ClientDuplexStream<DeltaRequest, DeltaResponse>, listener: DiscoveryListener, address: string) {
    this.call = call
    this.listener = listener
    this.address = address
    call.on('data', (response: DeltaResponse) => {
      if (!this.isEnded) this.listener.onResponse(response)
    })
    call.on('error', (error: ServiceError) => this.end(error))
    call.on('end', () => this.end(null))
  }

  send(request: DeltaRequest): void {
    if (!this.isEnded) this.call.write(request)
  }

  close(): void {
    if (this.isEnded) return
    this.isEnded = true
    this.call.cancel()
  }

  private end(error: ServiceError | null): void {
    if (this.isEnded) return
    this.isEnded = true
    this.listener.onEnd(controllerError('configuration stream', this.address, error))
  }
}

function credentials(options: ControlClientOptions): ChannelCredentials {
  const { credential } = options
  const own = 'key' in credential ? { cert: credential.certificateChain, key: credential.key } : {}
  let secureContext: ReturnType<typeof createSecureContext>
  try {
    secureContext = createSecureContext({ ...own, ca: credential.bundle, minVersion: 'TLSv1.3' })
  } catch (error) {
    throw new WeftError('WEFT_CERTIFICATE', "the node's certificate, key or root is not usable: issue them anew", error)
  }
  return ChannelCredentials.createFromSecureContext(secureContext, {
    checkServerIdentity: (_name, certificate) => {
      const reason = options.refusePeer(certificate.raw)
      return reason === null ? undefined : new Error(reason)
    },
  })
}

function controllerError(what: string, address: string, error: ServiceError | null): WeftError {
  if (error === null) return new WeftError('WEFT_CONTROLLER', `${what}: the controller at ${address} ended the call`)
  const cause = new CallError(error.code, error.details === '' ? describeError(error) : error.details)
  return new WeftError(
    'WEFT_CONTROLLER',
    `${what}: the controller at ${address} answered ${statusName(error.code)}`,
    cause,
  )
}
