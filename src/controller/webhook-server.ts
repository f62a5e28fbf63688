/**
 * The validating webhook: AdmissionReviews over HTTPS, judged by admission.ts.
 *
 * Certificate and key live in memory alone, issued by the mesh's own authority and replaced in place. Anybody in the cluster
 * may ask, so everything is bounded: bodies, connections, time, and how many reviews wait. Reviews are judged one after the
 * other, with a turn of the event loop between two, because each is an analysis of the mesh.
 */

import type { IncomingMessage, ServerResponse } from 'node:http'
import { createServer, type Server } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { formatHostPort } from '../base/address.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { ListenAddress } from '../base/settings.ts'
import { inSlices, type Steps } from '../base/steps.ts'
import type { MeshObject } from '../compiler/object.ts'
import { type AdmissionAnswer, answerReview, type JudgedResource, reviewOf } from './admission.ts'
import type { CandidateFindings } from './candidate-analysis.ts'

/** The path in the webhook's configuration. */
export const WEBHOOK_PATH = '/validate'

/**
 * Largest review. 7 MiB: it has the object in its new and its old form, of 3 MiB each at most (what the API server takes in
 * a request).
 */
export const REVIEW_BYTES_MAX = 7 * 1_048_576

/** Connections at a time. API servers keep a few open; there are three of them, or five. */
const CONNECTIONS_MAX = 64

/** Reviews that wait, the one that is judged included. The API server gives up after seconds anyway. */
export const REVIEWS_WAITING_MAX = 32

/** For a request to arrive whole. The API server itself waits 30 s at most. */
const REQUEST_MS_MAX = 15_000

/** Idle connections are closed by the API server, after 90 s, and not by us under its feet. */
const KEEP_ALIVE_MS = 120_000

/** Codes of messages about what an object refers to and nobody has. */
const MISSING: ReadonlySet<string> = new Set(['IST0101', 'IST0174', 'WEFT0201'])

/** PEM texts of what the server shows. */
export interface ServingCredential {
  readonly certificateChain: string
  readonly key: string
}

/** What the webhook works with. */
export interface WebhookOptions {
  readonly credential: ServingCredential
  /** `found`: what `look` has found. */
  readonly analyse: (candidate: MeshObject, found: readonly MeshObject[]) => Steps<CandidateFindings>
  /** Looks for what an object refers to and nobody knows yet; must not reject. */
  readonly look?: (candidate: MeshObject) => Promise<readonly MeshObject[]>
  /** Told of every object that was judged; `reason` is the code of its first error, null when it was let pass. */
  readonly onJudged?: (resource: JudgedResource, reason: string | null) => void
  readonly log: Logger
  /** Milliseconds, for how long reviews take. */
  readonly nowMs: () => number
}

/** What /status and /metrics show. */
export interface WebhookStatus {
  readonly allowed: number
  readonly refused: number
  /** Requests that were no reviews, too large, or too many. */
  readonly rejected: number
  /** Reviews that could not be judged. */
  readonly failed: number
  readonly lastMs: number
  readonly longestMs: number
}

/** See the head of the file. */
export class WebhookServer {
  private readonly options: WebhookOptions
  private readonly server: Server
  /** Also those whose TLS is not done yet, of which the server itself does not know. */
  private readonly sockets = new Set<Socket>()
  private waiting = 0
  private queue: Promise<void> = Promise.resolve()
  private allowed = 0
  private refused = 0
  private rejected = 0
  private failed = 0
  private lastMs = 0
  private longestMs = 0

  constructor(options: WebhookOptions) {
    this.options = options
    const { certificateChain, key } = options.credential
    this.server = createServer(
      {
        cert: certificateChain,
        key,
        minVersion: 'TLSv1.2',
        requestTimeout: REQUEST_MS_MAX,
        keepAliveTimeout: KEEP_ALIVE_MS,
      },
      (request, response) => this.onRequest(request, response),
    )
    this.server.maxConnections = CONNECTIONS_MAX
    this.server.on('connection', (socket: Socket) => {
      this.sockets.add(socket)
      socket.on('close', () => this.sockets.delete(socket))
    })
    // A client that hangs up, or speaks no TLS, concerns nobody else.
    this.server.on('tlsClientError', (error) => {
      this.rejected++
      this.options.log.debug('a connection to the webhook failed', { error: describeError(error) })
    })
  }

  /** Resolves with the bound port. Rejects with WeftError WEFT_SYSCALL. */
  listen({ address, port }: ListenAddress): Promise<number> {
    return new Promise((resolve, reject) => {
      this.server.once('error', (error) => {
        const where = formatHostPort(address, port)
        reject(new WeftError('WEFT_SYSCALL', `the webhook cannot listen on ${where}; see --webhook-listen`, error))
      })
      this.server.listen(port, address, () => resolve((this.server.address() as AddressInfo).port))
    })
  }

  /** New connections get this certificate. */
  replaceCredential({ certificateChain, key }: ServingCredential): void {
    this.server.setSecureContext({ cert: certificateChain, key, minVersion: 'TLSv1.2' })
  }

  status(): WebhookStatus {
    const { allowed, refused, rejected, failed, lastMs, longestMs } = this
    return { allowed, refused, rejected, failed, lastMs, longestMs }
  }

  async stop(): Promise<void> {
    if (!this.server.listening) return
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()))
    this.server.closeIdleConnections()
    await this.queue
    for (const socket of this.sockets) socket.destroy()
    await closed
  }

  private onRequest(request: IncomingMessage, response: ServerResponse): void {
    response.on('error', () => {})
    const path = request.url?.split('?')[0]
    if (path !== WEBHOOK_PATH) this.reject(request, response, 404, `There is nothing but ${WEBHOOK_PATH} here.`)
    else if (request.method !== 'POST') this.reject(request, response, 405, 'Reviews are posted.')
    else if (this.waiting >= REVIEWS_WAITING_MAX) this.reject(request, response, 503, 'Too many reviews wait.')
    else if (Number(request.headers['content-length'] ?? 0) > REVIEW_BYTES_MAX) {
      this.reject(request, response, 413, `A review has at most ${REVIEW_BYTES_MAX} bytes.`)
    } else this.receive(request, response)
  }

  private receive(request: IncomingMessage, response: ServerResponse): void {
    this.waiting++
    const chunks: Buffer[] = []
    let byteCount = 0
    let isOver = false
    const end = (then: () => void): void => {
      if (isOver) return
      isOver = true
      this.waiting--
      then()
    }
    request.on('data', (chunk: Buffer) => {
      byteCount += chunk.length
      if (byteCount <= REVIEW_BYTES_MAX) chunks.push(chunk)
      else end(() => this.reject(request, response, 413, `A review has at most ${REVIEW_BYTES_MAX} bytes.`))
    })
    request.on('error', () => end(() => {}))
    request.on('close', () => {
      if (!request.complete) end(() => {})
    })
    request.on('end', () => {
      if (isOver) return
      this.queue = this.queue.then(async () => {
        await new Promise((resolve) => setImmediate(resolve))
        if (!isOver) await this.judge(Buffer.concat(chunks), request, response)
        end(() => {})
      })
    })
  }

  private async judge(bytes: Buffer, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { onJudged, nowMs, log } = this.options
    // Nobody waits for it any more.
    if (response.destroyed) return
    let review: unknown
    try {
      review = JSON.parse(bytes.toString('utf8'))
    } catch {
      this.reject(request, response, 400, 'The body is not JSON.')
      return
    }
    const startedMs = nowMs()
    try {
      const answer = await this.answer(review)
      if (answer === null) {
        this.reject(request, response, 400, 'The body is not an AdmissionReview of admission.k8s.io/v1.')
        return
      }
      if (answer.isAllowed) this.allowed++
      else this.refused++
      if (answer.judged !== null) onJudged?.(answer.judged, answer.refusal?.errors[0]?.code ?? null)
      response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(reviewOf(answer)))
    } catch (error) {
      this.failed++
      log.error('an object could not be judged; please report this', {
        error: describeError(error),
        stack: error instanceof Error ? error.stack : undefined,
      })
      response.writeHead(500, { 'content-type': 'text/plain' }).end('The object could not be judged.\n')
    } finally {
      this.lastMs = nowMs() - startedMs
      this.longestMs = Math.max(this.longestMs, this.lastMs)
    }
  }

  /** A second time, with what was found, when something that the object refers to is missing. */
  private async answer(review: unknown): Promise<AdmissionAnswer | null> {
    const { analyse, look } = this.options
    const judged: { candidate: MeshObject | null; isLacking: boolean } = { candidate: null, isLacking: false }
    const answer = await inSlices(
      answerReview(review, function* (candidate) {
        const findings = yield* analyse(candidate, [])
        judged.candidate = candidate
        judged.isLacking = findings.own.some(({ code }) => MISSING.has(code))
        return findings
      }),
    )
    if (look === undefined || judged.candidate === null || !judged.isLacking) return answer
    const found = await look(judged.candidate)
    return found.length === 0 ? answer : await inSlices(answerReview(review, (one) => analyse(one, found)))
  }

  /** Answers at once; what is still to come of the request is not read. */
  private reject(request: IncomingMessage, response: ServerResponse, status: number, text: string): void {
    this.rejected++
    response.writeHead(status, { 'content-type': 'text/plain', connection: 'close' }).end(`${text}\n`, () => {
      if (!request.complete) request.destroy()
    })
  }
}
