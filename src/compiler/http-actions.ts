/** What an HTTP rule of a VirtualService does, in the model's form: the defaults of its fields are applied here. */
import {
  DEFAULT_RETRY,
  type DirectResponse,
  type Fault,
  type HeaderEdits,
  type HeaderPair,
  type Redirect,
  type Retry,
  type RetryCondition,
  type Rewrite,
} from '../model/route.ts'
import {
  decodeText,
  GRPC_STATUSES,
  type HeadersFields,
  hasVariable,
  RETRY_CONDITIONS,
  retryWords,
} from './http-action-fields.ts'
import type { HttpRuleFields } from './virtual-service-fields.ts'

/** Parts per million of a percentage. */
export function ppmOf(percent: number): number {
  return Math.round(percent * 10_000)
}

/** The redirect of a rule, or null. */
export function redirectOf(rule: HttpRuleFields): Redirect | null {
  const { redirect } = rule
  if (redirect === null) return null
  const derived = redirect.derivePort
  return {
    status: redirect.redirectCode ?? 301,
    path: redirect.uri,
    prefixRewrite: redirect.prefixRewrite,
    authority: redirect.authority,
    scheme: redirect.scheme,
    port: redirect.port,
    derivePort: derived === null ? null : derived === 'FROM_REQUEST_PORT' ? 'request' : 'protocol',
  }
}

/** The fixed answer of a rule, or null. */
export function directResponseOf(rule: HttpRuleFields): DirectResponse | null {
  const { directResponse } = rule
  if (directResponse === null) return null
  const { body } = directResponse
  const bytes = body?.bytes ?? null
  return { status: directResponse.status, body: body?.string ?? (bytes === null ? '' : (decodeText(bytes) ?? '')) }
}

/** A rewrite's own authority wins over one set as a header, and the rule's over its destination's. */
export function rewriteOf(rule: HttpRuleFields, headerAuthority: string | null): Rewrite | null {
  const authority = rule.rewrite?.authority ?? headerAuthority
  const path = rule.rewrite?.uri ?? null
  const regex = rule.rewrite?.uriRegexRewrite ?? null
  if (authority === null && path === null && regex === null) return null
  return { authority, path, regex: regex === null ? null : { pattern: regex.match, substitution: regex.rewrite } }
}

/** No block: the mesh's default. A block with attempts 0 (also `retries: {}`): off. */
export function retryOf(rule: HttpRuleFields): Retry {
  const { retries } = rule
  if (retries === null) return DEFAULT_RETRY
  const words = retryWords(retries.retryOn ?? '')
  const on = words.filter((word): word is RetryCondition => (RETRY_CONDITIONS as readonly string[]).includes(word))
  const statuses = words.filter((word) => /^[0-9]+$/.test(word)).map(Number)
  return {
    attempts: retries.attempts ?? 0,
    perTryTimeoutMs: retries.perTryTimeout,
    on: words.length === 0 ? DEFAULT_RETRY.on : on,
    statuses,
    backoffBaseMs: retries.backoff ?? DEFAULT_RETRY.backoffBaseMs,
    avoidsPreviousHosts: retries.retryIgnorePreviousHosts ?? true,
  }
}

/** A percentage that is not given is 0: nothing is injected. */
export function faultOf(rule: HttpRuleFields): Fault | null {
  const delay = rule.fault?.delay ?? null
  const abort = rule.fault?.abort ?? null
  const delayPercent =
    delay === null ? 0 : delay.percentage === null ? (delay.percent ?? 0) : (delay.percentage.value ?? 0)
  const hasStatus = abort !== null && (abort.httpStatus !== null || abort.grpcStatus !== null)
  const abortPercent = hasStatus ? (abort.percentage?.value ?? 0) : 0
  if (delayPercent === 0 && abortPercent === 0) return null
  return {
    delayMs: delayPercent === 0 ? 0 : (delay?.fixedDelay ?? 0),
    delayPpm: ppmOf(delayPercent),
    abortStatus: abortPercent === 0 ? 0 : (abort?.httpStatus ?? 0),
    abortGrpcStatus: abortPercent === 0 || abort?.grpcStatus == null ? null : GRPC_STATUSES.indexOf(abort.grpcStatus),
    abortPpm: ppmOf(abortPercent),
  }
}

// --- header operations ---

interface SplitEdits {
  readonly request: HeaderEdits | null
  readonly response: HeaderEdits | null
  /** What `host` or `:authority` was set to. */
  readonly authority: string | null
}

/** Setting the host is a rewrite of the authority, not a header edit. */
export function splitHostEdit(headers: HeadersFields | null): SplitEdits {
  let authority: string | null = null
  const pairsOf = (entries: ReadonlyMap<string, string | null>, isRequest: boolean): HeaderPair[] => {
    const pairs: HeaderPair[] = []
    for (const [name, value] of entries) {
      // Reported by the table: variables have no value yet.
      if (hasVariable(value ?? '')) continue
      const plain = (value ?? '').replaceAll('%%', '%')
      if (isRequest && /^(:authority|host)$/i.test(name)) authority = plain
      else pairs.push({ name: name.toLowerCase(), value: plain })
    }
    return pairs
  }
  const editsOf = (side: HeadersFields['request'], isRequest: boolean): HeaderEdits | null => {
    if (side === null) return null
    const edits: HeaderEdits = {
      set: pairsOf(side.set, isRequest),
      add: pairsOf(side.add, isRequest),
      remove: side.remove.map((name) => name.toLowerCase()),
    }
    return edits.set.length + edits.add.length + edits.remove.length === 0 ? null : edits
  }
  const request = editsOf(headers?.request ?? null, true)
  const response = editsOf(headers?.response ?? null, false)
  return { request, response, authority }
}
