/** One Secret, kept in step with the API server: what it holds, that it is not there, or that nobody can tell. */
import type { Clock } from '../base/clock.ts'
import type { Logger } from '../base/log.ts'
import { isTree, own } from '../compiler/object.ts'
import type { KubernetesObject, ResourceType } from '../kubernetes/object.ts'
import { Reflector, type ReflectorApi, type ReflectorState } from '../kubernetes/reflector.ts'

export const SECRETS: ResourceType = { group: '', version: 'v1', plural: 'secrets', isNamespaced: true }

/** A Secret as it is read. */
export interface WatchedSecret {
  readonly resourceVersion: string
  readonly annotations: Readonly<Record<string, unknown>>
  /** Text by key. */
  readonly texts: ReadonlyMap<string, string>
}

/** Which Secret. */
export interface SecretWatchOptions {
  readonly api: ReflectorApi
  readonly namespace: string
  readonly name: string
  readonly clock: Clock
  readonly log: Logger
  /** What is known has changed. */
  readonly onChange: () => void
}

/** See the head of the file. */
export class SecretWatch {
  readonly name: string
  private readonly reflector: Reflector<WatchedSecret>
  private secret: WatchedSecret | null = null
  private state: ReflectorState = { phase: 'listing', isSynced: false, problem: '' }

  constructor({ api, namespace, name, clock, log, onChange }: SecretWatchOptions) {
    this.name = name
    const settings = { api, type: SECRETS, namespace, fieldSelector: `metadata.name=${name}`, clock, log }
    const set = (secret: WatchedSecret | null): void => {
      if (secret?.resourceVersion === this.secret?.resourceVersion) return
      this.secret = secret
      onChange()
    }
    this.reflector = new Reflector<WatchedSecret>(settings, {
      convert: readSecret,
      onReplaced: (items) => set(items[0] ?? null),
      onPut: set,
      onDeleted: () => set(null),
      onState: (state) => {
        this.state = state
        onChange()
      },
    })
  }

  /** True once the API server has said what there is; what is held may be older than now all the same. */
  get isKnown(): boolean {
    return this.state.isSynced
  }

  /** Null when there is none. */
  get value(): WatchedSecret | null {
    return this.secret
  }

  /** Why what is held may be old; empty when it is not. */
  get problem(): string {
    return this.state.problem
  }

  /** What somebody of this process has just written: the watch tells of it later. */
  adopt(written: KubernetesObject): void {
    this.secret = readSecret(written)
  }

  start(): void {
    this.reflector.start()
  }

  async stop(): Promise<void> {
    await this.reflector.stop()
  }
}

function readSecret({ metadata, ...object }: KubernetesObject): WatchedSecret {
  const texts = new Map<string, string>()
  const data = own(object, 'data')
  for (const [key, value] of Object.entries(isTree(data) ? data : {})) {
    if (typeof value === 'string') texts.set(key, Buffer.from(value, 'base64').toString('utf8'))
  }
  const annotations = isTree(metadata.annotations) ? metadata.annotations : {}
  return { resourceVersion: metadata.resourceVersion ?? '', annotations, texts }
}
