/** The version of an API server, and the oldest that an installation works with. */
import { WeftError } from '../../base/errors.ts'
import type { KubernetesApi } from '../../kubernetes/api.ts'

/** Oldest minor version of Kubernetes 1: the first that knows securityContext.appArmorProfile. The chart says the same. */
export const MINOR_MIN = 30

export interface ServerVersion {
  /** As the server says it: `v1.34.4`. */
  readonly text: string
  readonly isSupported: boolean
}

/** Rejects with KubernetesError. */
export async function serverVersion(api: KubernetesApi): Promise<ServerVersion> {
  const answer = (await api.request('GET', '/version')) as { gitVersion?: unknown; major?: unknown; minor?: unknown }
  const text = String(answer?.gitVersion ?? 'unknown')
  // Providers append to the number: "34+".
  const major = Number.parseInt(String(answer?.major), 10)
  const minor = Number.parseInt(String(answer?.minor), 10)
  return { text, isSupported: major > 1 || (major === 1 && minor >= MINOR_MIN) }
}

/** Rejects with WEFT_UNSUPPORTED. Resolves with the server's version. */
export async function demandServerVersion(api: KubernetesApi): Promise<string> {
  const { text, isSupported } = await serverVersion(api)
  if (isSupported) return text
  throw new WeftError(
    'WEFT_UNSUPPORTED',
    `the API server ${api.server} is of version ${text}; Weft needs Kubernetes 1.${MINOR_MIN} or newer. Nothing was changed`,
  )
}
