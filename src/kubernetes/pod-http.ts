/** One HTTP request to a port of a pod, through the API server. Bounded in time and size, as everything that others say. */
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { WeftError } from '../base/errors.ts'
import type { KubernetesApi } from './api.ts'
import { type PodPort, portForward } from './port-forward.ts'

/** For a whole answer. An agent's configuration is some megabytes, over a link of the user's. */
const TIMEOUT_MS = 60_000
/** Largest answer: the configuration of a node with thousands of services. */
const ANSWER_BYTES_MAX = 256 * 1_048_576

/** An answer, whatever its status. */
export interface PodAnswer {
  readonly status: number
  readonly body: string
}

/** Limits other than the usual ones. */
export interface PodRequestOptions {
  readonly timeoutMs?: number
  readonly bytesMax?: number
}

/** Rejects with KubernetesError when the pod cannot be reached, WEFT_TIMEOUT or WEFT_LIMIT when it answers badly. */
export async function askPod(
  api: KubernetesApi,
  target: PodPort,
  path: string,
  options: PodRequestOptions = {},
): Promise<PodAnswer> {
  const { timeoutMs = TIMEOUT_MS, bytesMax = ANSWER_BYTES_MAX } = options
  const abort = new AbortController()
  const timer = setTimeout(() => abort.abort(tooSlow(target, path, timeoutMs)), timeoutMs)
  try {
    const message = await openPod(api, target, path, abort.signal)
    const pieces: Buffer[] = []
    let size = 0
    for await (const piece of message as AsyncIterable<Buffer>) {
      size += piece.length
      if (size > bytesMax) throw tooLarge(target, path, bytesMax)
      pieces.push(piece)
    }
    return { status: message.statusCode ?? 0, body: Buffer.concat(pieces).toString('utf8') }
  } catch (error) {
    throw abort.signal.aborted ? abort.signal.reason : error
  } finally {
    clearTimeout(timer)
  }
}

/** An answer whose body the caller reads, and ends by destroying it. The signal ends it as well. */
export async function openPod(
  api: KubernetesApi,
  target: PodPort,
  path: string,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  signal.throwIfAborted()
  const stream = await portForward(api, target)
  return await new Promise((resolve, reject) => {
    const request = httpRequest({
      // The stream is connected already.
      createConnection: () => stream,
      method: 'GET',
      path,
      headers: { host: 'localhost', connection: 'close' },
      signal,
    })
    request.on('error', (error) => reject(signal.aborted ? signal.reason : error))
    request.on('response', resolve)
    request.end()
  })
}

function tooSlow({ namespace, pod, port }: PodPort, path: string, timeoutMs: number): WeftError {
  const where = `${namespace}/${pod}:${port}`
  return new WeftError('WEFT_TIMEOUT', `the pod ${where} did not answer GET ${path} within ${timeoutMs} ms`)
}

function tooLarge({ namespace, pod, port }: PodPort, path: string, bytesMax: number): WeftError {
  const where = `${namespace}/${pod}:${port}`
  return new WeftError('WEFT_LIMIT', `the answer of the pod ${where} to GET ${path} is larger than ${bytesMax} bytes`)
}
