/**
 * CreateCertificate: decides who may have which certificate.
 *
 * The caller is a node, by its TLS certificate. It may have its own identity, and those of workloads that run on it;
 * anything else is PERMISSION_DENIED and logged. One compromised node can thus act for its own pods and for nobody else.
 * An agent that has no certificate yet may show a token instead, where there is somebody to review it: that gets the
 * node's own certificate and nothing else.
 */
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { formatIdentity, formatNodeIdentity } from '../model/identity.ts'
import type { Workload } from '../model/workload.ts'
import { parseCertificates } from '../security/certificate.ts'
import {
  CallError,
  STATUS_INVALID_ARGUMENT,
  STATUS_PERMISSION_DENIED,
  STATUS_UNAUTHENTICATED,
} from '../wire/channel.ts'
import type { SigningPeer, SigningRequest } from '../wire/server.ts'
import type { CertificateAuthority } from './authority.ts'
import { nodeOf } from './peer-node.ts'
import type { ScheduledPod } from './scheduled-pods.ts'

/** What the service needs of the controller. */
export interface CertificateServerOptions {
  readonly authority: Pick<CertificateAuthority, 'bundle' | 'sign' | 'identitiesIn'>
  /** Reviews agents' tokens; null accepts none. */
  readonly tokens: TokenReviewer | null
  readonly trustDomain: string
  /** Longest and default lifetime of a workload's certificate. */
  readonly workloadLifetimeMs: number
  /** The same of a node's own. */
  readonly nodeLifetimeMs: number
  /** Counts; nobody unless given. */
  readonly observer?: CertificateObserver
  readonly log: Logger
  readonly now: () => number
}

/** Told of every request. */
export interface CertificateObserver {
  certificateIssued(kind: 'node' | 'workload'): void
  certificateRefused(why: 'authentication' | 'request' | 'denied' | 'failed'): void
}

/** Says whose a token is. */
export interface TokenReviewer {
  /** The node whose agent has this token. Rejects with CallError when it is nobody's, or cannot be reviewed now. */
  nodeOf(token: string): Promise<string>
}

/** Counts since the start, for /status. */
export interface CertificateStatus {
  readonly issued: number
  readonly denied: number
}

/** Decides who gets which certificate: a node for itself and for the workloads that run on it. */
export class CertificateServer {
  private readonly options: CertificateServerOptions
  private identitiesByNode: ReadonlyMap<string, ReadonlySet<string>> = new Map()
  private issued = 0
  private denied = 0

  constructor(options: CertificateServerOptions) {
    this.options = options
  }

  /**
   * From now on these workloads decide who may have what. With `pods` only those that are scheduled as the workload says;
   * null where there is nothing that knows it better.
   */
  setWorkloads(workloads: readonly Workload[], pods: ReadonlyMap<string, ScheduledPod> | null = null): void {
    const identitiesByNode = new Map<string, Set<string>>()
    for (const { name, node, trustDomain, namespace, serviceAccount } of workloads) {
      if (node === '') continue
      if (pods !== null) {
        const pod = pods.get(`${namespace}/${name}`)
        if (pod?.node !== node || pod.serviceAccount !== serviceAccount) continue
      }
      const identity = formatIdentity(trustDomain, namespace, serviceAccount)
      const identities = identitiesByNode.get(node)
      if (identities === undefined) identitiesByNode.set(node, new Set([identity]))
      else identities.add(identity)
    }
    this.identitiesByNode = identitiesByNode
  }

  /** Answers one request: PEM texts of leaf, intermediates and, last, the trusted roots. Throws CallError. */
  async sign(request: SigningRequest, peer: SigningPeer): Promise<readonly string[]> {
    const { authority, trustDomain, nodeLifetimeMs, workloadLifetimeMs, log } = this.options
    const tokenNode = peer.certificate === null ? peer.tokenNode : null
    let node = ''
    try {
      node = tokenNode ?? nodeOf(peer, trustDomain, this.options.now())
      const identity = this.requestedIdentity(request)
      const isOwn = identity === formatNodeIdentity(trustDomain, node)
      if (tokenNode !== null && !isOwn) {
        throw new CallError(
          STATUS_PERMISSION_DENIED,
          `the token of node ${node} is good for the node's own certificate only`,
        )
      }
      if (!isOwn && this.identitiesByNode.get(node)?.has(identity) !== true) {
        throw new CallError(STATUS_PERMISSION_DENIED, `no workload of node ${node} has the identity ${identity}`)
      }
      const longestMs = isOwn ? nodeLifetimeMs : workloadLifetimeMs
      const lifetimeMs = request.validitySeconds === 0 ? longestMs : Math.min(longestMs, request.validitySeconds * 1000)
      const chain = invalidArgument(() => authority.sign(request.csr, identity, lifetimeMs))
      this.issued++
      this.options.observer?.certificateIssued(isOwn ? 'node' : 'workload')
      log.debug('certificate issued', { node, identity, lifetimeMs })
      return [...parseCertificates(chain, 'the issued chain').map((certificate) => certificate.pem), authority.bundle]
    } catch (error) {
      this.onRefused(node, peer.address, error)
      throw error
    }
  }

  /** The node whose agent at `address` shows this token; the certificate is asked for afterwards. Rejects with CallError. */
  async admit(token: string, address: string): Promise<string> {
    try {
      return await this.options.tokens!.nodeOf(token)
    } catch (error) {
      this.onRefused('', address, error)
      throw error
    }
  }

  private onRefused(node: string, peer: string, error: unknown): void {
    this.denied++
    this.options.observer?.certificateRefused(refusalOf(error))
    this.options.log.warn('certificate refused', { node, peer, reason: describeError(error) })
  }

  status(): CertificateStatus {
    return { issued: this.issued, denied: this.denied }
  }

  /** The one identity asked for: by the request, and, if it says so, by the call. */
  private requestedIdentity(request: SigningRequest): string {
    const identities = invalidArgument(() => this.options.authority.identitiesIn(request.csr))
    const [identity] = identities
    if (identity === undefined || identities.length > 1) {
      throw new CallError(STATUS_INVALID_ARGUMENT, `the request names ${identities.length} SPIFFE identities, not one`)
    }
    const { impersonatedIdentity } = request
    if (impersonatedIdentity !== null && impersonatedIdentity !== identity) {
      throw new CallError(
        STATUS_INVALID_ARGUMENT,
        `the request is for ${identity}, the call for ${impersonatedIdentity}`,
      )
    }
    return identity
  }
}

function refusalOf(error: unknown): Parameters<CertificateObserver['certificateRefused']>[0] {
  if (!(error instanceof CallError)) return 'failed'
  if (error.status === STATUS_UNAUTHENTICATED) return 'authentication'
  if (error.status === STATUS_INVALID_ARGUMENT) return 'request'
  return error.status === STATUS_PERMISSION_DENIED ? 'denied' : 'failed'
}

/** What the request itself brought about is the caller's mistake, not ours. */
function invalidArgument<T>(action: () => T): T {
  try {
    return action()
  } catch (error) {
    if (error instanceof WeftError) throw new CallError(STATUS_INVALID_ARGUMENT, describeError(error))
    throw error
  }
}
