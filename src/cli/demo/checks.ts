/**
 * What the demo promises, as checks that a program can make: each asks the running mesh from inside its pods and says
 * what it saw. A check that cannot be made on this machine is left out, never passed.
 */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { describeError } from '../../base/errors.ts'
import { formatIdentity } from '../../model/identity.ts'
import type { Sample } from './exposition.ts'
import { parseExposition } from './exposition.ts'
import type { HttpAnswer } from './hands.ts'
import { type CaptureKind, podNamed, serviceNamed } from './plan.ts'
import type { Stage } from './stage.ts'
import { shareDeviations } from './statistics.ts'

export interface CheckResult {
  readonly name: string
  readonly ok: boolean
  readonly detail: string
}

type Outcome = Omit<CheckResult, 'name'>

interface Check {
  readonly name: string
  /** Kinds of capture with which it can be made. */
  readonly kinds: readonly CaptureKind[]
  run(stage: Stage): Promise<Outcome>
}

const BOTH: readonly CaptureKind[] = ['ebpf', 'loopback']

/** Requests of the sample of the weighted split: 3 sigma are then some 6 % of all. */
const SPLIT_SAMPLE = 600
/** As written in deploy/demo/mesh/routing.yaml. */
const SPLIT_WEIGHTS: ReadonlyMap<string, number> = new Map([
  ['reviews-v1', 50],
  ['reviews-v2', 30],
  ['reviews-v3', 20],
])
const MATCH_SAMPLE = 60
/** How long a changed file may take to be in force everywhere; half a second is usual. */
const CHANGE_TIMEOUT_MS = 15_000
/** A series appears with the next flush of the data workers. */
const METRICS_TIMEOUT_MS = 10_000

const CHECKS: readonly Check[] = [
  { name: 'weighted split', kinds: BOTH, run: weightedSplit },
  { name: 'header route', kinds: BOTH, run: headerRoute },
  { name: 'deny policy', kinds: BOTH, run: denyPolicy },
  { name: 'strict namespace refuses outsider', kinds: BOTH, run: strictRefuses },
  { name: 'permissive namespace serves outsider', kinds: BOTH, run: permissiveServes },
  { name: 'tcp echo', kinds: BOTH, run: tcpEcho },
  { name: 'server speaks first', kinds: BOTH, run: serverFirst },
  { name: 'ipv6', kinds: ['ebpf'], run: ipv6 },
  { name: 'policy change without restart', kinds: BOTH, run: policyChange },
  { name: 'both reporters', kinds: BOTH, run: bothReporters },
  { name: 'identities', kinds: BOTH, run: identities },
]

/** Makes all checks that this capture allows, one after the other. `tell` hears each result at once. */
export async function runChecks(stage: Stage, signal: AbortSignal, tell: (result: CheckResult) => void): Promise<void> {
  for (const check of CHECKS) {
    if (!check.kinds.includes(stage.plan.kind)) continue
    signal.throwIfAborted()
    tell({ name: check.name, ...(await outcomeOf(check, stage)) })
  }
}

/** Names of the checks that are left out with this kind of capture. */
export function checksLeftOut(kind: CaptureKind): readonly string[] {
  const names = CHECKS.filter((check) => !check.kinds.includes(kind)).map((check) => check.name)
  return kind === 'loopback' ? [...names, WIRE_CHECK] : names
}

async function outcomeOf(check: Check, stage: Stage): Promise<Outcome> {
  try {
    return await check.run(stage)
  } catch (error) {
    return { ok: false, detail: describeError(error) }
  }
}

// --- routing ---

const REVIEWS = { host: 'reviews', port: 9080, path: '/reviews/0' }

async function weightedSplit(stage: Stage): Promise<Outcome> {
  const first = await splitSample(stage, SPLIT_SAMPLE)
  if (first.ok) return first
  // One sample in some hundred lies outside by chance. A second one of twice the size decides.
  return await splitSample(stage, 2 * SPLIT_SAMPLE)
}

async function splitSample(stage: Stage, repeat: number): Promise<Outcome> {
  const answers = await stage.hands('productpage').http({ ...REVIEWS, repeat })
  const counts = countBy(answers, servedBy)
  const strangers = [...counts.keys()].filter((name) => !SPLIT_WEIGHTS.has(name))
  const deviations = shareDeviations(counts, SPLIT_WEIGHTS)
  const parts = deviations.map(
    ({ name, expected, observed, sigmas }) =>
      `${name} ${observed} (${Math.round(expected)} expected, ${sigmas.toFixed(1)} sigma)`,
  )
  const others = strangers.map((name) => `, ${counts.get(name)} answered by ${name}`)
  return {
    ok: strangers.length === 0 && deviations.every(({ sigmas }) => sigmas <= 3),
    detail: `of ${repeat} requests: ${parts.join(', ')}${others.join('')}`,
  }
}

async function headerRoute(stage: Stage): Promise<Outcome> {
  const ask = (user: string) =>
    stage.hands('client').http({ ...REVIEWS, headers: { 'end-user': user }, repeat: MATCH_SAMPLE })
  const matched = countBy(await ask('jason'), servedBy)
  const other = countBy(await ask('mary'), servedBy)
  return {
    // That v2 alone serves sixty requests of others by chance has a probability of 10^-31.
    ok: matched.size === 1 && matched.has('reviews-v2') && other.size > 1 && [...other.keys()].every(isReviews),
    detail: `end-user jason: ${describeCounts(matched)}; end-user mary: ${describeCounts(other)}`,
  }
}

function servedBy(answer: HttpAnswer): string {
  if (answer.status !== 200) return answer.error ?? `status ${answer.status}`
  return (JSON.parse(answer.body) as { podname?: string }).podname ?? 'nobody'
}

function isReviews(name: string): boolean {
  return SPLIT_WEIGHTS.has(name)
}

// --- policy ---

const DETAILS = { host: 'details', port: 9080, path: '/details/0' }

async function denyPolicy(stage: Stage): Promise<Outcome> {
  const client = stage.hands('client')
  const denied = await client.get({ ...DETAILS, method: 'DELETE' })
  const allowed = await client.get(DETAILS)
  return {
    ok: denied.status === 403 && allowed.status === 200,
    detail: `DELETE ${DETAILS.path}: ${describeAnswer(denied)}; GET: ${describeAnswer(allowed)}`,
  }
}

async function strictRefuses(stage: Stage): Promise<Outcome> {
  const host = podNamed(stage.plan, 'tcp-echo').addresses[0]!
  const order = { port: 9000, line: 'let me in\n', timeoutMs: 3000 }
  const outside = await stage.hands('outsider').tcp({ ...order, host })
  const inside = await stage.hands('client').tcp({ ...order, host: 'tcp-echo.vault' })
  return {
    ok: outside.received === '' && inside.received === 'hello let me in\n',
    detail: `outsider: ${describeTcp(outside)}; client: ${describeTcp(inside)}`,
  }
}

async function permissiveServes(stage: Stage): Promise<Outcome> {
  const host = podNamed(stage.plan, 'details').addresses[0]!
  const answer = await stage.hands('outsider').get({ ...DETAILS, host, isFresh: true })
  return { ok: answer.status === 200, detail: `GET ${host}:9080${DETAILS.path}: ${describeAnswer(answer)}` }
}

async function policyChange(stage: Stage): Promise<Outcome> {
  const path = '/details/77'
  const file = join(stage.meshDirectory, 'check-policy-change.yaml')
  const before = await stage.hands('client').get({ ...DETAILS, path })
  if (before.status !== 200) return { ok: false, detail: `before any change: ${describeAnswer(before)}` }
  try {
    writeFileSync(file, denyPathPolicy(path))
    const deniedMs = await timeUntilStatus(stage, path, 403)
    rmSync(file)
    const allowedMs = await timeUntilStatus(stage, path, 200)
    const others = await stage.hands('client').get(DETAILS)
    return {
      ok: deniedMs !== null && allowedMs !== null && others.status === 200,
      detail: `a new DENY was in force ${inTime(deniedMs)}, its removal ${inTime(allowedMs)}`,
    }
  } finally {
    rmSync(file, { force: true })
  }
}

function denyPathPolicy(path: string): string {
  return `apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: check-policy-change
  namespace: default
spec:
  selector:
    matchLabels: { app: details }
  action: DENY
  rules:
    - to:
        - operation:
            paths: ["${path}"]
`
}

/** Milliseconds until the path answers with `status`; null when it does not in time. */
async function timeUntilStatus(stage: Stage, path: string, status: number): Promise<number | null> {
  const startedAtMs = performance.now()
  for (;;) {
    const answer = await stage.hands('client').get({ ...DETAILS, path })
    const elapsedMs = performance.now() - startedAtMs
    if (answer.status === status) return elapsedMs
    if (elapsedMs > CHANGE_TIMEOUT_MS) return null
    await delay(10)
  }
}

function inTime(ms: number | null): string {
  return ms === null ? `not after ${CHANGE_TIMEOUT_MS / 1000} s` : `after ${Math.round(ms)} ms`
}

// --- TCP ---

async function tcpEcho(stage: Stage): Promise<Outcome> {
  const client = stage.hands('client')
  const answers = []
  for (const port of [9000, 9001]) {
    answers.push(await client.tcp({ host: 'tcp-echo.vault', port, line: 'one two three\n', timeoutMs: 3000 }))
  }
  return {
    ok: answers.every(({ received }) => received === 'hello one two three\n'),
    detail: answers.map(describeTcp).join('; '),
  }
}

async function serverFirst(stage: Stage): Promise<Outcome> {
  const order = { host: 'greeter.vault', port: 7000, line: null, timeoutMs: 3000 }
  const answer = await stage.hands('client').tcp(order)
  return { ok: answer.received.startsWith('220 greeter ready'), detail: describeTcp(answer) }
}

async function ipv6(stage: Stage): Promise<Outcome> {
  const host = serviceNamed(stage.plan, 'details').addresses.find((address) => address.includes(':'))!
  const answer = await stage.hands('productpage').get({ ...DETAILS, host, isFresh: true })
  return { ok: answer.status === 200, detail: `GET [${host}]:9080${DETAILS.path}: ${describeAnswer(answer)}` }
}

// --- telemetry ---

/** An edge between the nodes, so that both agents report it. */
const EDGE = { source_workload: 'productpage', destination_workload: 'details' }

async function bothReporters(stage: Stage): Promise<Outcome> {
  return await untilMetrics(stage, (samples) => {
    const count = (reporter: string) =>
      requestsOf(samples, { ...EDGE, reporter }).reduce((total, { value }) => total + value, 0)
    const [source, destination] = [count('source'), count('destination')]
    return {
      ok: source > 0 && destination > 0,
      detail: `productpage -> details: ${source} requests by the source's agent, ${destination} by the destination's`,
    }
  })
}

async function identities(stage: Stage): Promise<Outcome> {
  const expected = {
    ...EDGE,
    reporter: 'destination',
    connection_security_policy: 'mutual_tls',
    source_principal: formatIdentity('cluster.local', 'default', 'bookinfo-productpage'),
    destination_principal: formatIdentity('cluster.local', 'default', 'bookinfo-details'),
  }
  return await untilMetrics(stage, (samples) => {
    const all = requestsOf(samples, { ...EDGE, reporter: 'destination' })
    const proved = requestsOf(samples, expected)
    const seen = new Set(
      all.map(({ labels }) => `${labels['source_principal']} by ${labels['connection_security_policy']}`),
    )
    return {
      ok: proved.length > 0 && proved.length === all.length,
      detail: `details was called by ${seen.size === 0 ? 'nobody' : [...seen].join(', ')}`,
    }
  })
}

/** Tries again until the outcome is good or the time is over: counters come in at intervals. */
async function untilMetrics(stage: Stage, judge: (samples: readonly Sample[]) => Outcome): Promise<Outcome> {
  const deadlineMs = performance.now() + METRICS_TIMEOUT_MS
  for (;;) {
    const texts = await Promise.all(stage.plan.nodes.map((node) => stage.metrics(node)))
    const outcome = judge(texts.flatMap(parseExposition))
    if (outcome.ok || performance.now() > deadlineMs) return outcome
    await delay(500)
  }
}

function requestsOf(samples: readonly Sample[], labels: Readonly<Record<string, string>>): readonly Sample[] {
  return samples.filter(
    (sample) =>
      sample.name === 'istio_requests_total' &&
      Object.entries(labels).every(([name, value]) => sample.labels[name] === value),
  )
}

// --- what the whole run shows, judged at its end ---

const WIRE_CHECK = 'only TLS between the nodes'

/** The verdict on the captured packets; null where none could be captured. */
export function judgeWire(stage: Stage): CheckResult | null {
  if (stage.wire === null) return null
  const { segments, bytes, records, offences, examples, unjudged } = stage.wire.report()
  const parts = [`${segments} TCP segments with ${bytes} bytes in ${records} TLS records`]
  if (unjudged > 0) parts.push(`${unjudged} segments could not be followed`)
  if (offences > 0) parts.push(`${offences} offences: ${examples.join('; ')}`)
  return { name: WIRE_CHECK, ok: records > 0 && offences === 0, detail: parts.join(', ') }
}

/** The verdict on what the load generator saw. */
export function judgeLoad(requests: number, errors: number, lastError: string): CheckResult {
  const example = errors === 0 ? '' : `, the last: ${lastError}`
  return {
    name: 'load without errors',
    ok: requests > 0 && errors === 0,
    detail: `${requests} pages and TCP conversations, ${errors} errors${example}`,
  }
}

// --- words ---

function countBy(answers: readonly HttpAnswer[], nameOf: (answer: HttpAnswer) => string): ReadonlyMap<string, number> {
  const counts = new Map<string, number>()
  for (const answer of answers) {
    const name = nameOf(answer)
    counts.set(name, (counts.get(name) ?? 0) + 1)
  }
  return counts
}

function describeCounts(counts: ReadonlyMap<string, number>): string {
  return [...counts].map(([name, count]) => `${name} ${count}`).join(', ')
}

function describeAnswer(answer: HttpAnswer): string {
  return answer.error ?? String(answer.status)
}

function describeTcp({ received, error }: { readonly received: string; readonly error: string }): string {
  return received === '' ? `nothing (${error})` : JSON.stringify(received)
}
