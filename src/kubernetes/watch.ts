/**
 * One watch: a request whose answer is a line of JSON for every change, until the server or the network ends it.
 *
 * A watch that says nothing at all for longer than the server's bookmarks are apart is dead, whatever TCP believes.
 */
import type { Clock } from '../base/clock.ts'
import { WeftError } from '../base/errors.ts'
import type { KubernetesApi, Query } from './api.ts'
import { type FailedRequest, KubernetesError, timeoutError, unreachableError } from './error.ts'

/** What happened to an object. `object` is a `Status` in an ERROR, and has nothing but a resourceVersion in a BOOKMARK. */
export interface WatchEvent {
  readonly type: string
  readonly object: unknown
}

/** Who hears of events, and when to give up. */
export interface WatchSettings {
  readonly clock: Clock
  readonly signal: AbortSignal
  /** The server has accepted the watch. */
  onOpen(): void
  onEvent(event: WatchEvent): void
}

/** Silence that ends a watch: API servers send a bookmark about every minute, so that two were lost. */
export const WATCH_SILENCE_MS = 150_000
/** Until the head of the answer: servers send it before the first event. */
const HEAD_TIMEOUT_MS = 30_000
/** Longest line. etcd takes objects up to 1.5 MiB, and escapes may make the JSON some times as large. */
export const WATCH_LINE_BYTES_MAX = 8 * 1_048_576

const NEWLINE = 0x0a

/** Watches until the server ends it in good order; rejects with KubernetesError, or with the signal's reason. */
export async function watch(
  api: Pick<KubernetesApi, 'open' | 'server'>,
  path: string,
  query: Query,
  settings: WatchSettings,
): Promise<void> {
  const { clock, signal, onOpen, onEvent } = settings
  const failed = { server: api.server, method: 'WATCH', path }
  const abort = new AbortController()
  const onAbort = (): void => abort.abort(signal.reason)
  signal.addEventListener('abort', onAbort, { once: true })
  let heardAtMs = clock.now()
  let silenceMs = HEAD_TIMEOUT_MS
  let cancelTimer = (): void => undefined
  const checkSilence = (): void => {
    const leftMs = heardAtMs + silenceMs - clock.now()
    if (leftMs > 0) cancelTimer = clock.after(leftMs, checkSilence)
    else abort.abort(timeoutError(failed, silenceMs))
  }
  checkSilence()
  try {
    signal.throwIfAborted()
    const { message } = await api.open('GET', path, undefined, {
      query: { watch: true, allowWatchBookmarks: true, ...query },
      signal: abort.signal,
    })
    heardAtMs = clock.now()
    silenceMs = WATCH_SILENCE_MS
    onOpen()
    const lines = new LineReader(failed)
    for await (const chunk of message as AsyncIterable<Buffer>) {
      heardAtMs = clock.now()
      lines.read(chunk, onEvent)
      // Who has stopped us while hearing of an event wants no further one.
      abort.signal.throwIfAborted()
    }
    lines.end()
  } catch (error) {
    if (abort.signal.aborted) throw abort.signal.reason
    throw error instanceof WeftError ? error : unreachableError(failed, error)
  } finally {
    cancelTimer()
    signal.removeEventListener('abort', onAbort)
    // Ends the request when an event's handler threw, too.
    abort.abort(new Error('the watch has ended'))
  }
}

/** Cuts a stream into lines of JSON. */
export class LineReader {
  private readonly request: FailedRequest
  private readonly pieces: Buffer[] = []
  private size = 0

  constructor(request: FailedRequest) {
    this.request = request
  }

  /** Calls `onEvent` for every line that is complete now. Throws KubernetesError, WeftError WEFT_LIMIT. */
  read(chunk: Buffer, onEvent: (event: WatchEvent) => void): void {
    let start = 0
    for (let end = chunk.indexOf(NEWLINE); end >= 0; end = chunk.indexOf(NEWLINE, start)) {
      this.keep(chunk.subarray(start, end))
      start = end + 1
      const line = Buffer.concat(this.pieces, this.size).toString('utf8')
      this.pieces.length = 0
      this.size = 0
      if (line.trim() !== '') onEvent(this.parse(line))
    }
    if (start < chunk.length) this.keep(chunk.subarray(start))
  }

  /** Throws when the stream ended within a line. */
  end(): void {
    if (this.size > 0) throw unreachableError(this.request, new Error('the stream ended within an event'))
  }

  private keep(piece: Buffer): void {
    this.size += piece.length
    if (this.size > WATCH_LINE_BYTES_MAX) {
      const { server, path } = this.request
      throw new WeftError('WEFT_LIMIT', `an event of ${server}${path} is larger than ${WATCH_LINE_BYTES_MAX} bytes`)
    }
    this.pieces.push(piece)
  }

  private parse(line: string): WatchEvent {
    try {
      const event = JSON.parse(line) as WatchEvent | null
      if (typeof event?.type === 'string') return event
    } catch {
      // Said below, without the line: it may hold secrets.
    }
    const { server, path } = this.request
    throw new KubernetesError(`the API server ${server} sent something that is no event in the watch of ${path}`, {
      status: 500,
      reason: 'InternalError',
      apiMessage: 'not an event',
    })
  }
}
