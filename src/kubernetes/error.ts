/** What the API server, or the way to it, says instead of an answer. */
import { describeError, WeftError } from '../base/errors.ts'

/** Longest part of an answer that is no `Status` object and is quoted all the same, characters. */
const QUOTED_CHARACTERS_MAX = 300

/** A request that failed. `message` is a sentence for the operator. */
export class KubernetesError extends WeftError {
  /** HTTP status; 0 when there was no answer at all. */
  readonly status: number
  /** The API's machine-readable reason: `NotFound`, `Conflict`, `Expired`; empty when it gave none. */
  readonly reason: string
  /** What the API server said, without our words around it. */
  readonly apiMessage: string
  /** The API's `details`: causes, and what they are about. */
  readonly details: unknown
  /** How long the server wants to be left alone; null when it did not say. */
  readonly retryAfterMs: number | null

  constructor(
    message: string,
    answer: {
      readonly status: number
      readonly reason: string
      readonly apiMessage: string
      readonly details?: unknown
      readonly retryAfterMs?: number | null
    },
    cause?: unknown,
  ) {
    super('WEFT_KUBERNETES', message, cause)
    this.name = 'KubernetesError'
    this.status = answer.status
    this.reason = answer.reason
    this.apiMessage = answer.apiMessage
    this.details = answer.details ?? null
    this.retryAfterMs = answer.retryAfterMs ?? null
  }

  /** There is no such object, or no such resource. */
  get isNotFound(): boolean {
    return this.status === 404
  }

  /** The object was changed by somebody else meanwhile, or exists already. */
  get isConflict(): boolean {
    return this.status === 409
  }

  /** RBAC does not allow it. */
  get isForbidden(): boolean {
    return this.status === 403
  }

  /** The resourceVersion is too old to go on from, or a page is too old to be followed by the next. */
  get isExpired(): boolean {
    return this.status === 410
  }

  /** No answer came: nobody there, TLS failed, or it took too long. */
  get isUnreachable(): boolean {
    return this.status === 0
  }

  /** The server is away, as far as one request can tell: no answer came, or somebody on the way gave one in its place. */
  get isAway(): boolean {
    return this.isUnreachable || this.status === 502 || this.status === 503
  }
}

/** What a failed request was, for messages. */
export interface FailedRequest {
  readonly server: string
  readonly method: string
  readonly path: string
}

/** The error of an answer with a status that is not 2xx. */
export function answerError(
  request: FailedRequest,
  status: number,
  body: string,
  retryAfterMs: number | null,
): KubernetesError {
  const parsed = statusObject(body)
  const reason = textOf(parsed?.reason)
  const apiMessage = textOf(parsed?.message) || body.slice(0, QUOTED_CHARACTERS_MAX).trim()
  const { server, method, path } = request
  const said = apiMessage === '' ? '' : `: ${apiMessage}`
  const text = `the API server ${server} answered ${method} ${path} with ${status}${said}${adviceFor(status)}`
  return new KubernetesError(text, { status, reason, apiMessage, details: parsed?.details, retryAfterMs })
}

/** The error of a `Status` object that arrived in the stream of a watch. */
export function statusError(request: FailedRequest, object: unknown): KubernetesError {
  const code = (object as { code?: unknown } | null)?.code
  return answerError(request, typeof code === 'number' ? code : 500, JSON.stringify(object ?? null), null)
}

/** The error of a request that got no answer. */
export function unreachableError(request: FailedRequest, cause: unknown): KubernetesError {
  const { server, method, path } = request
  const text = `the API server ${server} cannot be reached for ${method} ${path}; check its address and the network to it`
  return new KubernetesError(text, { status: 0, reason: '', apiMessage: describeError(cause) }, cause)
}

/** The error of a request whose answer took too long. */
export function timeoutError(request: FailedRequest, timeoutMs: number): KubernetesError {
  const { server, method, path } = request
  const text = `the API server ${server} did not answer ${method} ${path} within ${timeoutMs} ms; check its load and the network to it`
  return new KubernetesError(text, { status: 0, reason: 'Timeout', apiMessage: `no answer within ${timeoutMs} ms` })
}

function adviceFor(status: number): string {
  if (status === 401) return '; check the user of the kubeconfig, or the token of the ServiceAccount'
  if (status === 403) return '; grant it with a Role or ClusterRole'
  return ''
}

function statusObject(body: string): Readonly<Record<string, unknown>> | null {
  try {
    const parsed: unknown = JSON.parse(body)
    return typeof parsed === 'object' && parsed !== null ? (parsed as Record<string, unknown>) : null
  } catch {
    // A proxy in between answered, in words of its own.
    return null
  }
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : ''
}
