/**
 * Whose a ServiceAccount token is, by the API server's word (TokenReview), and which node its agent runs on.
 *
 * A token counts only when the API server says so for our audience, its ServiceAccount is the agent's, and the pod it is
 * bound to exists now, with the same uid and ServiceAccount, on a node. What the token itself claims is looked at only to
 * refuse early what the API server would refuse.
 */
import { createHash } from 'node:crypto'
import type { Clock } from '../base/clock.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { isTree, own } from '../compiler/object.ts'
import { type KubernetesApi, KubernetesError } from '../kubernetes/api.ts'
import { collectionPath, objectPath, type ResourceType } from '../kubernetes/object.ts'
import {
  CallError,
  STATUS_PERMISSION_DENIED,
  STATUS_RESOURCE_EXHAUSTED,
  STATUS_UNAUTHENTICATED,
  STATUS_UNAVAILABLE,
} from '../wire/channel.ts'
import type { TokenReviewer } from './ca-server.ts'

/** Whom agents' tokens are for. */
export const TOKEN_AUDIENCE = 'weft-ca'

/** Keys of a reviewed user's `extra` that say to what a token is bound. */
const POD_NAME = 'authentication.kubernetes.io/pod-name'
const POD_UID = 'authentication.kubernetes.io/pod-uid'
const NODE_NAME = 'authentication.kubernetes.io/node-name'

const TOKEN_REVIEWS: ResourceType = {
  group: 'authentication.k8s.io',
  version: 'v1',
  plural: 'tokenreviews',
  isNamespaced: false,
}
const PODS: ResourceType = { group: '', version: 'v1', plural: 'pods', isNamespaced: true }

/** How long a review is believed again: an agent that asks twice. The pod is looked at every time. */
const REVIEW_MS = 10_000
/** Reviews that are kept: more nodes than that do not start within ten seconds, and the oldest goes first. */
const REVIEWS_KEPT_MAX = 2_048
/** Tokens under review at one time. Strangers can reach us; the API server must not feel it. */
const REVIEWS_AT_ONCE_MAX = 32
/** Of one request to the API server; two of them fit into an agent's patience of 10 s. */
const REQUEST_TIMEOUT_MS = 4_000

/** Whose tokens are taken, and who reviews them. */
export interface NodeTokensOptions {
  readonly api: Pick<KubernetesApi, 'request'>
  /** Of the agents' ServiceAccount. */
  readonly namespace: string
  readonly serviceAccount: string
  readonly audience?: string
  readonly clock: Clock
  readonly log: Logger
}

/** The pod that a token is bound to, as the API server reviewed it. */
interface BoundPod {
  readonly name: string
  readonly uid: string
  /** Null where the cluster does not say it (before 1.30). */
  readonly node: string | null
}

interface KeptReview {
  readonly pod: BoundPod
  readonly untilMs: number
}

/** Counts since the start. */
export interface TokenCounts {
  readonly reviewed: number
  readonly refused: number
  /** Neither good nor bad: the API server could not be asked. */
  readonly failed: number
}

/** See the head of the file. */
export class NodeTokens implements TokenReviewer {
  private readonly options: NodeTokensOptions
  private readonly audience: string
  private readonly username: string
  /** By hash: tokens themselves are not kept. */
  private readonly kept = new Map<string, KeptReview>()
  private underReview = 0
  private reviewed = 0
  private refused = 0
  private failed = 0

  constructor(options: NodeTokensOptions) {
    this.options = options
    this.audience = options.audience ?? TOKEN_AUDIENCE
    this.username = `system:serviceaccount:${options.namespace}:${options.serviceAccount}`
  }

  async nodeOf(token: string): Promise<string> {
    try {
      const pod = await this.boundPod(token)
      return await this.nodeOfPod(pod)
    } catch (error) {
      if (error instanceof CallError) {
        if (error.status === STATUS_UNAVAILABLE || error.status === STATUS_RESOURCE_EXHAUSTED) this.failed++
        else this.refused++
      }
      throw error
    }
  }

  counts(): TokenCounts {
    return { reviewed: this.reviewed, refused: this.refused, failed: this.failed }
  }

  // --- the token ---

  private async boundPod(token: string): Promise<BoundPod> {
    const nowMs = this.options.clock.now()
    const key = createHash('sha256').update(token).digest('base64')
    const kept = this.kept.get(key)
    if (kept !== undefined && kept.untilMs > nowMs) return kept.pod
    this.refuseByClaims(token, nowMs)
    if (this.underReview >= REVIEWS_AT_ONCE_MAX) {
      throw new CallError(STATUS_RESOURCE_EXHAUSTED, 'too many tokens are under review: try again later')
    }
    this.underReview++
    try {
      const pod = this.readReview(await this.review(token))
      this.keep(key, { pod, untilMs: nowMs + REVIEW_MS })
      return pod
    } finally {
      this.underReview--
    }
  }

  private async review(token: string): Promise<unknown> {
    this.reviewed++
    const body = {
      apiVersion: 'authentication.k8s.io/v1',
      kind: 'TokenReview',
      spec: { token, audiences: [this.audience] },
    }
    return await this.ask('POST', collectionPath(TOKEN_REVIEWS, null), body)
  }

  private readReview(answer: unknown): BoundPod {
    const status = treeAt(answer, 'status')
    if (status === null || own(status, 'authenticated') !== true) {
      const reason = status === null ? undefined : own(status, 'error')
      const said = typeof reason === 'string' ? `: ${reason.slice(0, 200)}` : ''
      throw new CallError(STATUS_UNAUTHENTICATED, `the API server does not accept the token${said}`)
    }
    // A server that does not know audiences answers without them, and has not looked at ours.
    const audiences = own(status, 'audiences')
    if (!Array.isArray(audiences) || !audiences.includes(this.audience)) {
      throw new CallError(STATUS_UNAUTHENTICATED, `the token is not for the audience ${this.audience}`)
    }
    const user = treeAt(status, 'user')
    const username = user === null ? undefined : own(user, 'username')
    if (username !== this.username) {
      throw new CallError(STATUS_PERMISSION_DENIED, `the token is of ${String(username)}, not of ${this.username}`)
    }
    const extra = treeAt(user, 'extra')
    const [name, uid] = [onlyText(extra, POD_NAME), onlyText(extra, POD_UID)]
    if (name === null || uid === null) {
      throw new CallError(STATUS_PERMISSION_DENIED, 'the token is not bound to a pod: mount a projected one')
    }
    return { name, uid, node: onlyText(extra, NODE_NAME) }
  }

  private keep(key: string, review: KeptReview): void {
    this.kept.delete(key)
    this.kept.set(key, review)
    if (this.kept.size <= REVIEWS_KEPT_MAX) return
    const [oldest] = this.kept.keys()
    this.kept.delete(oldest!)
  }

  /** Throws for what cannot be right, so that strangers do not cost the API server anything. Proves nothing. */
  private refuseByClaims(token: string, nowMs: number): void {
    const claims = claimsOf(token)
    if (claims === null) throw new CallError(STATUS_UNAUTHENTICATED, 'the token is not one of a ServiceAccount')
    const audience = own(claims, 'aud')
    const audiences = Array.isArray(audience) ? audience : [audience]
    if (!audiences.includes(this.audience)) {
      throw new CallError(STATUS_UNAUTHENTICATED, `the token is not for the audience ${this.audience}`)
    }
    const expiry = own(claims, 'exp')
    if (typeof expiry !== 'number' || expiry * 1000 <= nowMs) {
      throw new CallError(STATUS_UNAUTHENTICATED, 'the token has expired: the kubelet should have brought another one')
    }
    const subject = own(claims, 'sub')
    if (subject !== this.username) {
      throw new CallError(STATUS_PERMISSION_DENIED, `the token is of ${String(subject)}, not of ${this.username}`)
    }
  }

  // --- the pod ---

  private async nodeOfPod({ name, uid, node }: BoundPod): Promise<string> {
    const { namespace, serviceAccount } = this.options
    const pod = await this.ask('GET', objectPath(PODS, namespace, name))
    const [metadata, spec, status] = [treeAt(pod, 'metadata'), treeAt(pod, 'spec'), treeAt(pod, 'status')]
    const refuse = (reason: string): never => {
      throw new CallError(STATUS_PERMISSION_DENIED, `the pod of the token, ${namespace}/${name}, ${reason}`)
    }
    if (metadata === null || spec === null || own(metadata, 'uid') !== uid) return refuse('is gone')
    const phase = status === null ? undefined : own(status, 'phase')
    if (phase === 'Succeeded' || phase === 'Failed') return refuse('has ended')
    if (own(spec, 'serviceAccountName') !== serviceAccount) return refuse(`is not of ServiceAccount ${serviceAccount}`)
    const real = own(spec, 'nodeName')
    if (typeof real !== 'string' || real === '') return refuse('is on no node')
    if (node !== null && node !== real) return refuse(`is on node ${real}, the token was made for ${node}`)
    return real
  }

  // --- requests ---

  /** The API server's answer; null when there is no such object. Rejects with CallError UNAVAILABLE when it has none. */
  private async ask(method: string, path: string, body?: unknown): Promise<unknown> {
    try {
      return await this.options.api.request(method, path, body, { timeoutMs: REQUEST_TIMEOUT_MS })
    } catch (error) {
      if (method === 'GET' && error instanceof KubernetesError && error.isNotFound) return null
      this.options.log.error('the token of an agent cannot be reviewed', { error: describeError(error) })
      throw new CallError(STATUS_UNAVAILABLE, 'the API server cannot be asked about the token now: try again later')
    }
  }
}

/** Claims of a JWT, not verified; null when it is none. */
function claimsOf(token: string): Readonly<Record<string, unknown>> | null {
  const parts = token.split('.')
  if (parts.length !== 3) return null
  try {
    const claims: unknown = JSON.parse(Buffer.from(parts[1]!, 'base64url').toString('utf8'))
    return isTree(claims) ? claims : null
  } catch {
    return null
  }
}

function treeAt(value: unknown, key: string): Readonly<Record<string, unknown>> | null {
  const found = isTree(value) ? own(value, key) : undefined
  return isTree(found) ? found : null
}

/** The one text of a list; null unless there is exactly one. */
function onlyText(extra: Readonly<Record<string, unknown>> | null, key: string): string | null {
  const values = extra === null ? undefined : own(extra, key)
  const value: unknown = Array.isArray(values) && values.length === 1 ? values[0] : null
  return typeof value === 'string' && value !== '' ? value : null
}
