/**
 * The roots of the mesh as the API server has them: the ConfigMap beside the agent, watched.
 *
 * The kubelet mounts the same ConfigMap, but looks for what has changed only about every minute, and for one that was not
 * there when the pod started as seldom. This brings it at once: an agent that starts together with its controller is
 * ready when that is, and a new root is trusted everywhere within a second. Reading this one object is all that an agent
 * may do there; where it may not, or the API server is away, the mounted file counts as before.
 */
import type { Clock } from '../base/clock.ts'
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { KubernetesApi } from '../kubernetes/api.ts'
import type { KubernetesObject, ResourceType } from '../kubernetes/object.ts'
import { Reflector, type ReflectorApi } from '../kubernetes/reflector.ts'
import { ServiceAccountConnection, type ServiceAccountSettings } from '../kubernetes/service-account.ts'

const CONFIG_MAPS: ResourceType = { group: '', version: 'v1', plural: 'configmaps', isNamespaced: true }
const TRUST_CONFIG_MAP = 'weft-ca-root-cert'
/** Its key. */
const TRUST_FILE = 'root-cert.pem'

/**
 * While the API server is away, agents ask for it so many times less often than controllers, of which there are few: about
 * every ten seconds. Roots do not change without it.
 */
const PATIENCE = 12

/** Calls back with the roots, PEM, as soon as they are known and whenever they are others, until the result is called. */
export type FollowRoots = (onRoots: (pem: string) => void) => () => void

/** Whom to ask, and where to complain. */
export interface WatchedRootsOptions {
  /** Asks the API server. */
  readonly api: ReflectorApi & Pick<KubernetesApi, 'close'>
  /** Rejects with WeftError WEFT_CONFIG. */
  readonly namespace: () => Promise<string>
  readonly clock: Clock
  readonly log: Logger
  /** For back-off; tests inject it. */
  readonly random?: () => number
}

/** By the ServiceAccount of the pod. */
export function followRootsByServiceAccount(settings: ServiceAccountSettings, clock: Clock, log: Logger): FollowRoots {
  return (onRoots) => {
    const connection = new ServiceAccountConnection(settings)
    const unhurried: Clock = {
      now: () => clock.now(),
      after: (delayMs, callback) => clock.after(delayMs * PATIENCE, callback),
    }
    const api = new KubernetesApi(connection, clock, { clock: unhurried, random: Math.random })
    return followRoots({ api, namespace: () => connection.namespace(), clock, log }, onRoots)
  }
}

/** See the head of the file. Closes `api` in the end. Never throws. */
export function followRoots(options: WatchedRootsOptions, onRoots: (pem: string) => void): () => void {
  const { api, namespace, log } = options
  let reflector: Reflector<string | null> | null = null
  let isEnded = false
  const begin = async (): Promise<void> => {
    const place = await namespace()
    if (isEnded) return
    reflector = reflectorOf(options, place, (pem) => {
      if (!isEnded) onRoots(pem)
    })
    reflector.start()
  }
  begin().catch((error) => {
    log.warn('the API server cannot be asked for the roots of the mesh, those that are mounted count', {
      error: describeError(error),
    })
  })
  return () => {
    isEnded = true
    // It never rejects.
    void reflector?.stop()
    api.close()
  }
}

function reflectorOf(
  { api, clock, log, random }: WatchedRootsOptions,
  namespace: string,
  onRoots: (pem: string) => void,
): Reflector<string | null> {
  // By name: a role can demand no other of who lists and watches.
  const fieldSelector = `metadata.name=${TRUST_CONFIG_MAP}`
  const settings = { api, type: CONFIG_MAPS, namespace, fieldSelector, clock, log }
  const onText = (text: string | null): void => {
    if (text !== null) onRoots(text)
  }
  return new Reflector<string | null>(random === undefined ? settings : { ...settings, random }, {
    convert: textOf,
    onReplaced: (items) => items.forEach(onText),
    onPut: onText,
    // Nothing else is to be trusted because of that; the controller writes it anew.
    onDeleted: () => {},
    onState: ({ problem }) => {
      if (problem !== '') log.warn('the roots of the mesh cannot be watched, those in use stay', { problem })
    },
  })
}

function textOf(object: KubernetesObject): string | null {
  const data = object['data'] as Readonly<Record<string, unknown>> | null | undefined
  const text = data?.[TRUST_FILE]
  return typeof text === 'string' ? text : null
}
