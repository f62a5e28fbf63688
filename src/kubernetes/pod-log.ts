/** Lines that a container of a pod writes, through the API server. */
import type { KubernetesApi } from './api.ts'
import { objectPath, type ResourceType } from './object.ts'

const PODS: ResourceType = { group: '', version: 'v1', plural: 'pods', isNamespaced: true }

/** Longest line that is handed on whole; what is longer is cut there. An access log line is some hundred bytes. */
const LINE_CHARACTERS_MAX = 65_536

export interface PodLogOptions {
  readonly container: string
  /** Goes on until the pod ends, or the signal. */
  readonly isFollowing: boolean
  /** Only lines that are not older; null for all that the node keeps. */
  readonly sinceSeconds: number | null
  readonly signal: AbortSignal
}

/** Calls `onLine` for every line. Rejects with KubernetesError, or the signal's reason. */
export async function readPodLog(
  api: KubernetesApi,
  namespace: string,
  pod: string,
  options: PodLogOptions,
  onLine: (line: string) => void,
): Promise<void> {
  const { container, isFollowing, sinceSeconds, signal } = options
  const query = { container, follow: isFollowing, sinceSeconds: sinceSeconds ?? undefined }
  const { message } = await api.open('GET', `${objectPath(PODS, namespace, pod)}/log`, undefined, { query, signal })
  let rest = ''
  for await (const piece of message.setEncoding('utf8') as AsyncIterable<string>) {
    const lines = (rest + piece).split('\n')
    rest = lines.pop()!.slice(0, LINE_CHARACTERS_MAX)
    for (const line of lines) onLine(line)
  }
  if (rest !== '') onLine(rest)
}
