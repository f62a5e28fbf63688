/**
 * The node's own credential on Kubernetes: got from the controller with the agent's ServiceAccount token.
 *
 * Token and roots are files that the kubelet mounts and replaces; both are read anew whenever they are needed. Roots that
 * the API server tells (watched-roots.ts) go before those of the file, which come later. The
 * credential is kept in the state directory, so that an agent that is started again serves while neither controller nor
 * API server can be asked; it is used as long as it leads to a root of them.
 */
import { createPrivateKey } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { Backoff } from '../base/backoff.ts'
import type { Clock } from '../base/clock.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { formatNodeIdentity } from '../model/identity.ts'
import { parseCertificates } from '../security/certificate.ts'
import { Credential } from '../security/credential.ts'
import {
  type CredentialTexts,
  readCredentialFiles,
  writeCredentialFiles,
  writeRenewedFiles,
} from '../security/credential-files.ts'
import { createKey, createSigningRequest } from '../security/csr.ts'
import { BEARER_TOKEN_LENGTH_MAX } from '../wire/channel.ts'
import { requestByToken } from './controller-link.ts'
import type { NodeCredentialSource } from './node-credential.ts'
import type { FollowRoots } from './watched-roots.ts'

/** From half a second to 15 s: the controller may start at the same time as the agents of all nodes. */
const RETRY = { baseMs: 500, maxMs: 15_000 }
/** How often the roots are read. The kubelet itself takes a minute to bring a change. */
const ROOTS_MS = 10_000

/** What the token's holder has to know. */
export interface NodeTokenOptions {
  readonly node: string
  readonly trustDomain: string
  /** The controller, `host:port`. */
  readonly controller: string
  readonly tokenFile: string
  /** PEM of the roots that prove the controller. */
  readonly rootsFile: string
  /** Tells of them sooner; null where nobody can. */
  readonly followRoots: FollowRoots | null
  /** Where the credential is kept. */
  readonly directory: string
  readonly clock: Clock
  readonly log: Logger
  /** Ends the wait for a first credential. */
  readonly signal?: AbortSignal
  /** For back-off; tests inject it. */
  readonly random?: () => number
}

/** See the head of the file. */
export class NodeToken implements NodeCredentialSource {
  readonly advice = 'remove it: the agent gets another one with its token'
  private readonly options: NodeTokenOptions
  private readonly identity: string
  /** The roots as they were last read; null before, and when they could not be. */
  private roots: string | null = null
  /** As the API server told them last; null before it did. From then on the file says nothing new. */
  private told: string | null = null

  constructor(options: NodeTokenOptions) {
    this.options = options
    this.identity = formatNodeIdentity(options.trustDomain, options.node)
  }

  /** The kept credential if it is still good, or else a new one, for which it asks until it gets it or is told to end. */
  async open(): Promise<CredentialTexts> {
    return (await this.openKept()) ?? (await this.openNew())
  }

  async keep(texts: CredentialTexts): Promise<void> {
    await writeRenewedFiles(this.options.directory, texts)
  }

  requestAnew = async (csr: string, identity: string): Promise<readonly string[]> => {
    const { controller, trustDomain, tokenFile, rootsFile } = this.options
    const token = await readToken(tokenFile)
    const roots = this.told ?? (await readRoots(rootsFile))
    this.roots ??= roots
    return await requestByToken({ address: controller, trustDomain, csr, identity, token, roots })
  }

  watchRoots(onRoots: (bundle: string) => void): () => void {
    const { clock, log, rootsFile } = this.options
    let cancel: () => void = () => {}
    let isEnded = false
    let problem = ''
    const take = (roots: string): void => {
      // The first ones are those with which the credential was opened.
      const isChanged = roots !== this.roots
      this.roots = roots
      if (isChanged) onRoots(roots)
    }
    const unfollow = this.follow(take)
    const look = async (): Promise<void> => {
      try {
        const roots = await readRoots(rootsFile)
        // Whoever has been told needs the file no more.
        if (isEnded || this.told !== null) return
        take(roots)
        problem = ''
      } catch (error) {
        // Said once. What was good stays.
        if (problem !== describeError(error)) {
          problem = describeError(error)
          log.warn('the roots of the mesh cannot be read, those in use stay', { error: problem })
        }
      }
      if (!isEnded && this.told === null) cancel = clock.after(ROOTS_MS, () => void look())
    }
    // It never rejects: callers of `onRoots` do not throw.
    void look()
    return () => {
      isEnded = true
      unfollow()
      cancel()
    }
  }

  /** Calls back with what the API server tells, if it is roots. */
  private follow(onRoots: (roots: string) => void): () => void {
    const { followRoots, log } = this.options
    if (followRoots === null) return () => {}
    return followRoots((pem) => {
      try {
        this.told = joinedRoots(pem, 'the ConfigMap weft-ca-root-cert')
      } catch (error) {
        log.warn('the roots that the API server tells are none, those in use stay', { error: describeError(error) })
        return
      }
      onRoots(this.told)
    })
  }

  /** Null when there is none, or none that is of use. */
  private async openKept(): Promise<CredentialTexts | null> {
    const { clock, directory, log, rootsFile } = this.options
    let texts: CredentialTexts
    try {
      texts = await readCredentialFiles(directory)
    } catch (error) {
      if (isAbsent(error)) return null
      log.warn('the kept credential of this node cannot be read, asking for another one', {
        error: describeError(error),
      })
      return null
    }
    try {
      // Without mounted roots those that came with it count: better than a node that cannot start.
      this.roots = await readRoots(rootsFile).catch(() => null)
      const bundle = this.roots ?? texts.bundle
      new Credential(this.identity, createPrivateKey(texts.key), texts.certificateChain, bundle, clock.now())
      return { ...texts, bundle }
    } catch (error) {
      log.info('the kept credential of this node is not usable any more, asking for another one', {
        error: describeError(error),
      })
      return null
    }
  }

  private async openNew(): Promise<CredentialTexts> {
    const { clock, directory, log, random } = this.options
    const backoff = new Backoff(RETRY, random)
    const key = createKey()
    const news = new Wake()
    const unfollow = this.follow(() => {
      backoff.reset()
      news.wake()
    })
    try {
      for (;;) {
        try {
          const texts = await this.requestAnew(createSigningRequest(key, this.identity), this.identity)
          const chain = texts.slice(0, -1).join('')
          const credential = new Credential(this.identity, key, chain, texts.at(-1) ?? '', clock.now())
          const opened = { certificateChain: chain, key: credential.keyPem(), bundle: credential.bundle }
          await writeCredentialFiles(directory, opened).catch((error) => {
            // In memory it is good; only a restart needs the controller then.
            log.error("the node's credential cannot be kept", { error: describeError(error) })
          })
          return opened
        } catch (error) {
          const delayMs = backoff.nextMs()
          log.warn('this node has no credential yet', { error: describeError(error), retryInMs: delayMs })
          await this.pause(delayMs, news)
        }
      }
    } finally {
      unfollow()
    }
  }

  /** Until the time is over, or `news` are there; also such as came before. */
  private async pause(ms: number, news: Wake): Promise<void> {
    const { clock, signal } = this.options
    signal?.throwIfAborted()
    await new Promise<void>((resolve, reject) => {
      const end = (): void => {
        cancel()
        news.listener = null
        signal?.removeEventListener('abort', onAbort)
      }
      const onAbort = (): void => {
        end()
        reject(signal!.reason)
      }
      const onOver = (): void => {
        end()
        resolve()
      }
      const cancel = clock.after(ms, onOver)
      signal?.addEventListener('abort', onAbort, { once: true })
      news.listen(onOver)
    })
  }
}

/** One who may wait for what may have come already. */
class Wake {
  listener: (() => void) | null = null
  private isDue = false

  wake(): void {
    if (this.listener === null) this.isDue = true
    else this.listener()
  }

  listen(listener: () => void): void {
    this.listener = listener
    if (!this.isDue) return
    this.isDue = false
    listener()
  }
}

/** The token, without the newline that some write behind it. */
async function readToken(path: string): Promise<string> {
  const token = (await readText(path, 'mount a projected ServiceAccount token there (see --token-file)')).trim()
  if (token === '' || token.length > BEARER_TOKEN_LENGTH_MAX || /[^\x21-\x7e]/.test(token)) {
    throw new WeftError('WEFT_CONFIG', `${path} holds no ServiceAccount token`)
  }
  return token
}

async function readRoots(path: string): Promise<string> {
  const text = await readText(path, 'the controller writes them to the ConfigMap weft-ca-root-cert (see --roots-file)')
  return joinedRoots(text, path)
}

/** The certificates alone, so that bundles can be compared. Throws WeftError WEFT_CERTIFICATE. */
function joinedRoots(text: string, source: string): string {
  return parseCertificates(text, source)
    .map(({ pem }) => pem)
    .join('')
}

async function readText(path: string, advice: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    throw new WeftError('WEFT_CONFIG', `${path} cannot be read; ${advice}`, error)
  }
}

function isAbsent(error: unknown): boolean {
  return error instanceof WeftError && (error.cause as NodeJS.ErrnoException | undefined)?.code === 'ENOENT'
}
