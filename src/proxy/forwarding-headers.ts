// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * The headers in which proxies talk to apps and to one another: who may say what, and what each proxy adds.
 *
 *     app --FROM_APP--> client's proxy --FROM_MESH--> server's proxy --> app        (one hop: FROM_APP, then the app)
 *                                      outside --FROM_OUTSIDE--^
 *
 *  - Facts that only a proxy can vouch for are taken out wherever somebody else could have written them.
 *  - Requests of an app to its own proxy (request-overrides.ts) are obeyed there and end there.
 *  - Everything else passes as it is: x-forwarded-for, -host and -port, forwarded, via, and all trace context
 *    (traceparent, b3, baggage ...). An interception proxy is no hop that anybody has configured.
 *
 * One pass over the names that begin with `x-` tells everything; a request without such names costs no more than that.
 */
import { ConstantFields } from '../http/constant-fields.ts'
import type { HeaderList } from '../http/headers.ts'
import { CLIENT_CERTIFICATE } from './client-certificate-header.ts'
import { newRequestId } from './request-id.ts'
import { MAX_RETRIES, RETRIABLE_STATUSES, RETRY_GRPC_ON, RETRY_ON, TIMEOUT, TRY_TIMEOUT } from './request-overrides.ts'

/** A local app speaks to its own proxy. */
export const FROM_APP = 1
/** A tunnel: somebody in the mesh, and perhaps a proxy that knows nothing of HTTP. */
export const FROM_MESH = 2
/** Plaintext: anybody. */
export const FROM_OUTSIDE = 4
/** Where a request comes from. */
export type Origin = typeof FROM_APP | typeof FROM_MESH | typeof FROM_OUTSIDE

const ANYBODY = FROM_APP | FROM_MESH | FROM_OUTSIDE

/** What a pass has met. */
const SAW_REQUEST_ID = 1
const SAW_PROTO = 2
const SAW_OVERRIDE = 4

const REQUEST_ID = 'x-request-id'
const FORWARDED_PROTO = 'x-forwarded-proto'
const ATTEMPT_COUNT = 'x-envoy-attempt-count'
const EXPECTED_TIMEOUT = 'x-envoy-expected-rq-timeout-ms'
const ORIGINAL_PATH = 'x-envoy-original-path'
const ORIGINAL_HOST = 'x-envoy-original-host'
const SERVICE_TIME = 'x-envoy-upstream-service-time'

/** One header that is looked at. */
interface Rule {
  readonly name: string
  /** From whom it is not believed: it is taken out. */
  readonly refused: number
  readonly seen: number
}

const RULES: readonly Rule[] = [
  { name: REQUEST_ID, refused: 0, seen: SAW_REQUEST_ID },
  { name: FORWARDED_PROTO, refused: 0, seen: SAW_PROTO },
  // Who the caller is: only ever said by the proxy in front of the app that reads it.
  { name: CLIENT_CERTIFICATE, refused: ANYBODY, seen: 0 },
  // That a request comes from inside: nobody here finds that out, so nobody may claim it.
  { name: 'x-envoy-internal', refused: ANYBODY, seen: 0 },
  // What the client's proxy tells the server.
  { name: ATTEMPT_COUNT, refused: FROM_APP | FROM_OUTSIDE, seen: 0 },
  { name: EXPECTED_TIMEOUT, refused: FROM_APP | FROM_OUTSIDE, seen: 0 },
  { name: ORIGINAL_PATH, refused: FROM_APP | FROM_OUTSIDE, seen: 0 },
  { name: ORIGINAL_HOST, refused: FROM_APP | FROM_OUTSIDE, seen: 0 },
  { name: 'x-envoy-is-timeout-retry', refused: FROM_APP | FROM_OUTSIDE, seen: 0 },
  // What an app asks of its own proxy. An app that copies headers from one request to the next must not pass them on.
  { name: TIMEOUT, refused: FROM_MESH | FROM_OUTSIDE, seen: SAW_OVERRIDE },
  { name: TRY_TIMEOUT, refused: FROM_MESH | FROM_OUTSIDE, seen: SAW_OVERRIDE },
  { name: MAX_RETRIES, refused: FROM_MESH | FROM_OUTSIDE, seen: SAW_OVERRIDE },
  { name: RETRY_ON, refused: FROM_MESH | FROM_OUTSIDE, seen: SAW_OVERRIDE },
  { name: RETRY_GRPC_ON, refused: FROM_MESH | FROM_OUTSIDE, seen: SAW_OVERRIDE },
  { name: RETRIABLE_STATUSES, refused: FROM_MESH | FROM_OUTSIDE, seen: SAW_OVERRIDE },
  // The same, but not done here.
  { name: 'x-envoy-retriable-header-names', refused: ANYBODY, seen: 0 },
  { name: 'x-envoy-hedge-on-per-try-timeout', refused: ANYBODY, seen: 0 },
  { name: 'x-envoy-upstream-rq-timeout-alt-response', refused: ANYBODY, seen: 0 },
  { name: 'x-envoy-upstream-stream-duration-ms', refused: ANYBODY, seen: 0 },
  { name: 'x-envoy-upstream-alt-stat-name', refused: ANYBODY, seen: 0 },
  { name: 'x-envoy-force-trace', refused: ANYBODY, seen: 0 },
  { name: 'x-envoy-ip-tags', refused: ANYBODY, seen: 0 },
]

/** Rules by the length of their name: nearly every other header is told apart by it. */
const rulesByLength: (readonly Rule[] | null)[] = []
for (let length = 0; length <= Math.max(...RULES.map(({ name }) => name.length)); length++) {
  const rules = RULES.filter(({ name }) => name.length === length)
  rulesByLength.push(rules.length === 0 ? null : rules)
}

const PREFIX = 'x-'

/** Apps speak plaintext to their proxy. The first try is number 1. */
const FIRST_TRY = new ConstantFields([ATTEMPT_COUNT, '1'])
const HTTP_AND_FIRST_TRY = new ConstantFields([FORWARDED_PROTO, 'http', ATTEMPT_COUNT, '1'])
const HTTP = new ConstantFields([FORWARDED_PROTO, 'http'])

/** Answers are mostly that quick, milliseconds; a slower one costs a string. */
const USUAL_MS = 100
const serviceTimes: readonly ConstantFields[] = Array.from(
  { length: USUAL_MS },
  (_, timeMs) => new ConstantFields([SERVICE_TIME, String(timeMs)]),
)

/** Times that are remembered as fields. 256: rules name a few; what apps ask for beyond that costs a string each. */
const EXPECTED_TIMEOUTS_MAX = 256
const expectedTimeouts = new Map<number, ConstantFields>()

/** Takes out what `origin` must not say. Returns what was met, as bits. */
function clean(headers: HeaderList, origin: Origin): number {
  let seen = 0
  let at = headers.indexOfPrefix(PREFIX, 0)
  while (at >= 0) {
    const rule = ruleFor(headers, at)
    if (rule !== null && (rule.refused & origin) !== 0) {
      headers.removeAt(at)
    } else {
      if (rule !== null) seen |= rule.seen
      at++
    }
    at = headers.indexOfPrefix(PREFIX, at)
  }
  return seen
}

function ruleFor(headers: HeaderList, index: number): Rule | null {
  const length = headers.nameLengthAt(index)
  const rules = length < rulesByLength.length ? rulesByLength[length]! : null
  if (rules === null) return null
  for (let i = 0; i < rules.length; i++) if (headers.isNamed(index, rules[i]!.name)) return rules[i]!
  return null
}

/** At the client's proxy, before routing. True when the app overrides something: see RequestOverrides. */
export function leaveApp(headers: HeaderList, random: () => number): boolean {
  const seen = clean(headers, FROM_APP)
  if ((seen & SAW_REQUEST_ID) === 0) headers.append(REQUEST_ID, newRequestId(random))
  headers.appendConstant((seen & SAW_PROTO) === 0 ? HTTP_AND_FIRST_TRY : FIRST_TRY)
  return (seen & SAW_OVERRIDE) !== 0
}

/** At the server's proxy, before policies. `certificate` says who calls; null when that is not known. */
export function reachApp(
  headers: HeaderList,
  origin: Origin,
  certificate: ConstantFields | null,
  random: () => number,
): void {
  const seen = clean(headers, origin)
  if ((seen & SAW_REQUEST_ID) === 0) headers.append(REQUEST_ID, newRequestId(random))
  if ((seen & SAW_PROTO) === 0) headers.appendConstant(HTTP)
  if (certificate !== null) headers.appendConstant(certificate)
}

/** Tells the server how long the client's proxy will wait; 0 is not said. */
export function tellTimeout(headers: HeaderList, timeoutMs: number, tryTimeoutMs: number): void {
  const expectedMs = tryTimeoutMs > 0 ? tryTimeoutMs : timeoutMs
  if (expectedMs <= 0) return
  let fields = expectedTimeouts.get(expectedMs)
  if (fields === undefined) {
    if (expectedTimeouts.size >= EXPECTED_TIMEOUTS_MAX) {
      headers.append(EXPECTED_TIMEOUT, String(expectedMs))
      return
    }
    fields = new ConstantFields([EXPECTED_TIMEOUT, String(expectedMs)])
    expectedTimeouts.set(expectedMs, fields)
  }
  headers.appendConstant(fields)
}

/**
 * Before another try, which may take another way: the server is told the number of it (2 is the second), unless a rule
 * has taken the number out.
 */
export function prepareRetry(headers: HeaderList, number: number): void {
  headers.remove(CLIENT_CERTIFICATE)
  if (headers.has(ATTEMPT_COUNT)) headers.set(ATTEMPT_COUNT, String(number))
}

/** Tells the server what the client asked for, where a rule has changed it. */
export function tellRewrite(headers: HeaderList, path: string | null, host: string | null): void {
  if (path !== null) headers.append(ORIGINAL_PATH, path)
  if (host !== null) headers.append(ORIGINAL_HOST, host)
}

/** Tells the client how long the answer took, whole milliseconds. */
export function tellServiceTime(headers: HeaderList, timeMs: number): void {
  headers.remove(SERVICE_TIME)
  if (timeMs < USUAL_MS) headers.appendConstant(serviceTimes[Math.max(0, timeMs)]!)
  else headers.append(SERVICE_TIME, String(timeMs))
}

/** Fields that recipients might take for headers (RFC 9110 section 6.5.1), but that nobody may say at the end. */
const NEVER_TRAILERS: readonly string[] = ['authorization', 'cookie', 'forwarded', 'proxy-authorization', REQUEST_ID]

/** Takes out of a request's trailers what has been judged, or was taken out, among its headers. */
export function cleanTrailers(trailers: HeaderList): void {
  for (let at = trailers.indexOfPrefix('x-forwarded-', 0); at >= 0; ) {
    trailers.removeAt(at)
    at = trailers.indexOfPrefix('x-forwarded-', at)
  }
  for (let at = trailers.indexOfPrefix('x-envoy-', 0); at >= 0; ) {
    trailers.removeAt(at)
    at = trailers.indexOfPrefix('x-envoy-', at)
  }
  for (const name of NEVER_TRAILERS) trailers.remove(name)
}
