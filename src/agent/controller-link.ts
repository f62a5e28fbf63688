/**
 * Connections to the controller, always with the node's newest credential, and only to the controller: any workload has
 * a certificate of the same roots, so the identity in the server's certificate is what counts.
 */
import { X509Certificate } from 'node:crypto'
import { WeftError } from '../base/errors.ts'
import { formatControllerIdentity } from '../model/identity.ts'
import type { PodMembership, StartingPod } from '../model/pod-membership.ts'
import { uriNames } from '../model/subject-alt-name.ts'
import { CallError, type Credential, STATUS_UNAVAILABLE } from '../wire/channel.ts'
import { ControlClient } from '../wire/client.ts'

/** A certificate request that takes longer has failed. */
const REQUEST_TIMEOUT_MS = 10_000

/** Times that the controller is asked about a pod: a second time over a new connection. */
const MEMBERSHIP_TRIES = 2

/** Where the controller is, and who we are to it. */
export interface ControllerLinkOptions {
  /** `host:port`. */
  readonly address: string
  readonly trustDomain: string
  /** The node's credential; asked at every connection. */
  readonly credential: () => Credential
}

/** The way to the controller: opens connections, never keeps state of the protocol. */
export class ControllerLink {
  private readonly options: ControllerLinkOptions
  /** For certificate requests; replaced when the credential changes or a request fails. */
  private client: ControlClient | null = null
  private clientCredential: Credential | null = null

  constructor(options: ControllerLinkOptions) {
    this.options = options
  }

  /** A new connection, which the caller closes. Throws WEFT_CERTIFICATE when the credential is not usable. */
  connect(): ControlClient {
    return this.connectWith(this.options.credential())
  }

  /** Has `csr` signed for `identity`; PEM texts of leaf, intermediates and, last, roots. Rejects with WEFT_CONTROLLER. */
  async requestCertificate(csr: string, identity: string, validitySeconds: number): Promise<readonly string[]> {
    const client = this.currentClient()
    try {
      return await client.createCertificate(csr, identity, validitySeconds, REQUEST_TIMEOUT_MS)
    } catch (error) {
      // Not reached: the next try begins with a new connection, without the back-off of this one.
      if (isUnavailable(error)) this.drop(client)
      throw error
    }
  }

  /**
   * Whether a pod that starts here is this agent's to capture, as the controller's newest objects say; null when nobody can
   * tell in time. Never rejects.
   */
  async podMembership(pod: StartingPod, timeoutMs: number): Promise<PodMembership | null> {
    const deadline = performance.now() + timeoutMs
    // A replica that has just gone is no reason to let the pod start without the mesh: the second try finds another.
    for (let tries = 0; tries < MEMBERSHIP_TRIES; tries++) {
      let client: ControlClient
      try {
        client = this.currentClient()
      } catch {
        return null
      }
      try {
        return await client.podMembership(pod, Math.max(1, deadline - performance.now()))
      } catch (error) {
        if (!isUnavailable(error)) return null
        this.drop(client)
      }
    }
    return null
  }

  close(): void {
    this.client?.close()
    this.client = null
  }

  private drop(client: ControlClient): void {
    if (this.client === client) this.client = null
    client.close()
  }

  private currentClient(): ControlClient {
    const credential = this.options.credential()
    if (this.client === null || this.clientCredential !== credential) {
      this.client?.close()
      this.client = this.connectWith(credential)
      this.clientCredential = credential
    }
    return this.client
  }

  private connectWith(credential: Credential): ControlClient {
    const expected = formatControllerIdentity(this.options.trustDomain)
    return new ControlClient({
      address: this.options.address,
      credential,
      refusePeer: (certificate) => refusalOf(certificate, expected),
    })
  }
}

/** A request for a certificate by somebody who has none yet. */
export interface TokenRequest {
  /** The controller, `host:port`. */
  readonly address: string
  readonly trustDomain: string
  readonly csr: string
  readonly identity: string
  readonly token: string
  /** PEM; the controller must be proved by one of them before it sees the token. */
  readonly roots: string
}

/** Has a request signed for who shows a token; PEM texts of leaf, intermediates and, last, roots. Rejects with WEFT_CONTROLLER. */
export async function requestByToken(request: TokenRequest): Promise<readonly string[]> {
  const { address, trustDomain, csr, identity, token, roots } = request
  const expected = formatControllerIdentity(trustDomain)
  const client = new ControlClient({
    address,
    credential: { bundle: roots },
    refusePeer: (certificate) => refusalOf(certificate, expected),
  })
  try {
    // How long a node's certificate lives is the authority's to say.
    return await client.createCertificate(csr, identity, 0, REQUEST_TIMEOUT_MS, token)
  } finally {
    client.close()
  }
}

function isUnavailable(error: unknown): boolean {
  return error instanceof WeftError && error.cause instanceof CallError && error.cause.status === STATUS_UNAVAILABLE
}

/** Null when the certificate proves `expected` and nothing else. */
function refusalOf(certificate: Uint8Array, expected: string): string | null {
  const names = uriNames(new X509Certificate(certificate).subjectAltName ?? '')
  if (names.length === 1 && names[0] === expected) return null
  return `the server proved to be ${names.join(' and ') || 'nobody'}, not ${expected}`
}
