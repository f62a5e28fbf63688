/**
 * The certificate authority of a cluster: root and key in Secrets that every replica of the controller watches.
 *
 *      cacerts          brought by the operator, with Istio's keys; preferred when it is there
 *      weft-ca          our own root, made once
 *      weft-ca-roots    which roots are trusted until when: what a restart must know of a rotation
 *
 * Only the leader writes, and a root only comes into being by the creation of its Secret, which the API server grants
 * once. Nobody uses a root that is not in its Secret. A Secret that cannot be read is waited for, one that makes no sense
 * is refused by name; in both cases what was good stays in force, and no root is made in its place.
 */
import { Backoff } from '../base/backoff.ts'
import type { Clock } from '../base/clock.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { isTree } from '../compiler/object.ts'
import { type KubernetesApi, KubernetesError } from '../kubernetes/api.ts'
import type { KubernetesObject } from '../kubernetes/object.ts'
import { createRoot } from '../security/issue.ts'
import { CertificateAuthority, ROOT_LIFETIME_MS, warnOfExpiry } from './authority.ts'
import { type AuthorityMaterial, type AuthorityTexts, readMaterial } from './authority-material.ts'
import { type RecordedRoot, RootRotation, signerOf } from './root-rotation.ts'
import { SECRETS, SecretWatch, type WatchedSecret } from './secret-watch.ts'

export const PLUGGED_SECRET = 'cacerts'
export const OWN_SECRET = 'weft-ca'
export const ROOTS_SECRET = 'weft-ca-roots'

/** On either of the two: `none` takes its root into use at once and drops all others, because the old key was stolen. */
export const OVERLAP_ANNOTATION = 'weft.dev/root-overlap'

/** Key of ROOTS_SECRET: JSON. */
const ROOTS_KEY = 'roots.json'

/**
 * How long a new root is trusted before it signs. The kubelet brings a changed ConfigMap within two minutes. The overlap is
 * longer than certificates live by as much: replicas do not switch at the same moment.
 */
const ANNOUNCE_MS = 5 * 60_000

/** Between tries to write a Secret. */
const RETRY = { baseMs: 1_000, maxMs: 60_000 }

/** What the authority needs of the controller. */
export interface KubernetesAuthorityOptions {
  readonly api: Pick<KubernetesApi, 'open' | 'listPage' | 'server' | 'presence' | 'create' | 'replace'>
  readonly namespace: string
  readonly trustDomain: string
  /** Longest life of a certificate: so long the root is trusted that signed it last. */
  readonly leafLifetimeMs: number
  readonly clock: Clock
  /** Of the watches, where time must not pass faster than requests take; `clock` unless given. */
  readonly watchClock?: Clock
  readonly log: Logger
  /** Whom to trust has changed; also before the first certificate. */
  readonly onBundle: (bundle: string) => void
  /** For back-off; tests inject it. */
  readonly random?: () => number
}

/** What /status shows. */
export interface KubernetesAuthorityStatus {
  /** Secret of the root that signs; null while there is none. */
  readonly secret: string | null
  readonly notAfter: string | null
  /** When a root that is announced signs. */
  readonly nextAt: string | null
  /** Why there is no root, or not the one that the Secrets say; empty when all is well. */
  readonly problem: string
}

/** Which Secret is to be in force, and what is in it. */
interface Choice {
  readonly secret: string
  readonly value: WatchedSecret
}

/** See the head of the file. */
export class KubernetesAuthority {
  private readonly options: KubernetesAuthorityOptions
  private readonly plugged: SecretWatch
  private readonly own: SecretWatch
  private readonly roots: SecretWatch
  private readonly rotation: RootRotation
  private readonly backoff: Backoff
  private authority: CertificateAuthority | null = null
  private onOpen: (authority: CertificateAuthority) => void = () => {}
  /** Secret of each signer, by fingerprint, and texts of our own: what is put back when somebody deletes it. */
  private readonly secretOfSigner = new Map<string, string>()
  private ownTexts: AuthorityTexts | null = null
  /** What was offered last, by Secret and version: looked at once. */
  private offered = ''
  private recalled = ''
  private isLeading = false
  private isWriting = false
  /** Something was to be written while a write was under way. */
  private isWriteDue = false
  private writeProblem = ''
  private isStopped = false
  private problem = ''
  private bundle = ''
  private cancelChange: () => void = () => {}
  private cancelRetry: (() => void) | null = null

  constructor(options: KubernetesAuthorityOptions) {
    this.options = options
    this.rotation = new RootRotation({ announceMs: ANNOUNCE_MS, overlapMs: options.leafLifetimeMs + ANNOUNCE_MS })
    this.backoff = new Backoff(RETRY, options.random)
    const { api, namespace, clock, log, watchClock = clock } = options
    const watch = (name: string): SecretWatch =>
      new SecretWatch({ api, namespace, name, clock: watchClock, log, onChange: () => this.look() })
    this.plugged = watch(PLUGGED_SECRET)
    this.own = watch(OWN_SECRET)
    this.roots = watch(ROOTS_SECRET)
  }

  /** Resolves when there is a root in force; that takes a leader the first time, and may take for ever. */
  async start(): Promise<CertificateAuthority> {
    const opened = new Promise<CertificateAuthority>((resolve) => {
      this.onOpen = resolve
    })
    for (const watch of this.watches()) watch.start()
    return await opened
  }

  async stop(): Promise<void> {
    this.isStopped = true
    this.cancelChange()
    this.cancelRetry?.()
    await Promise.all(this.watches().map((watch) => watch.stop()))
  }

  /** Whether this replica writes. */
  setLeading(isLeading: boolean): void {
    this.isLeading = isLeading
    if (isLeading) this.look()
  }

  status(): KubernetesAuthorityStatus {
    const { current, next } = this.rotation
    return {
      secret: current === null ? null : (this.secretOfSigner.get(signerOf(current)) ?? null),
      notAfter: current === null ? null : new Date(current.authority.certificate.notAfterMs).toISOString(),
      nextAt: next === null ? null : new Date(next.atMs).toISOString(),
      problem: this.problem === '' ? this.writeProblem : this.problem,
    }
  }

  // --- from Secrets to what is in force ---

  private look(): void {
    if (this.isStopped) return
    const unknown = this.watches().find(({ isKnown }) => !isKnown)
    if (unknown !== undefined) {
      this.setProblem(unknown.problem === '' ? '' : `waiting for Secret ${unknown.name}: ${unknown.problem}`)
      return
    }
    this.recall()
    const choice = this.choose()
    if (choice === null) this.makeOwn()
    else this.offer(choice)
    this.apply()
  }

  private choose(): Choice | null {
    if (this.plugged.value !== null) return { secret: PLUGGED_SECRET, value: this.plugged.value }
    if (this.own.value !== null) return { secret: OWN_SECRET, value: this.own.value }
    return null
  }

  private offer({ secret, value }: Choice): void {
    const key = `${secret} ${value.resourceVersion}`
    if (this.offered === key) return
    this.offered = key
    const { clock, log, namespace } = this.options
    let material: AuthorityMaterial
    try {
      const texts = secret === PLUGGED_SECRET ? pluggedTexts(value) : ownTexts(value)
      material = readMaterial(texts, clock.now())
      if (secret === OWN_SECRET) this.ownTexts = texts
    } catch (error) {
      const stays = this.authority === null ? 'there is no root until it is put right' : 'the last good root stays'
      this.setProblem(`Secret ${namespace}/${secret} is not usable, ${stays}: ${describeError(error)}`)
      return
    }
    this.setProblem('')
    warnOfExpiry(material, clock.now(), log)
    this.secretOfSigner.set(signerOf(material), secret)
    const isAtOnce = value.annotations[OVERLAP_ANNOTATION] === 'none'
    const before = this.rotation.current
    this.rotation.offer(material, clock.now(), isAtOnce)
    const { current, next } = this.rotation
    if (next?.material === material) {
      log.info('another root is announced', { secret, signsFrom: new Date(next.atMs).toISOString() })
    } else if (current === material && before !== null && signerOf(before) !== signerOf(material)) {
      log.info('another certificate signs now', { secret, isAtOnce })
    }
  }

  /** Puts in force what the rotation says, tells of it, and has the leader write it down. */
  private apply(): void {
    const { clock, onBundle } = this.options
    this.rotation.advance(clock.now())
    const { current, bundle, nextChangeAtMs } = this.rotation
    if (current === null) return
    this.cancelChange()
    if (nextChangeAtMs !== null) {
      this.cancelChange = clock.after(Math.max(0, nextChangeAtMs - clock.now()), () => this.apply())
    }
    const isOther = bundle !== this.bundle
    this.bundle = bundle
    if (this.authority === null) {
      this.authority = new CertificateAuthority(current, bundle, () => clock.now())
      onBundle(bundle)
      this.onOpen(this.authority)
    } else if (this.authority.isOther(current, bundle)) {
      this.authority.replace(current, bundle)
      if (isOther) onBundle(bundle)
    }
    this.writeRoots()
  }

  private setProblem(problem: string): void {
    if (problem !== '' && problem !== this.problem) this.options.log.error(problem)
    this.problem = problem
  }

  private watches(): readonly SecretWatch[] {
    return [this.plugged, this.own, this.roots]
  }

  // --- writing ---

  /** There is no root anywhere: the leader makes one, or puts back the one that is in force. */
  private makeOwn(): void {
    if (!this.isLeading) {
      if (this.authority === null) this.setProblem('waiting for the leader to make a root')
      return
    }
    // What is not there may only not have been seen.
    if (this.plugged.problem !== '' || this.own.problem !== '') return
    const { clock, log, namespace, trustDomain } = this.options
    const isPutBack = this.ownTexts !== null
    this.write(`Secret ${namespace}/${OWN_SECRET} cannot be made`, async () => {
      const texts = this.ownTexts ?? newRoot(trustDomain, clock.now())
      await this.options.api.create(ownSecret(namespace, texts), SECRETS)
      if (isPutBack) log.warn('the Secret of the root was deleted, and is put back', { secret: OWN_SECRET })
      else log.info('made a new root', { secret: OWN_SECRET })
    })
  }

  /** Writes down which roots are trusted, when that differs from what is written. */
  private writeRoots(): void {
    if (!this.isLeading || this.rotation.current === null) return
    const text = JSON.stringify({ roots: this.rotation.record() })
    const { value } = this.roots
    if (value?.texts.get(ROOTS_KEY) === text || this.roots.problem !== '') return
    const { api, namespace } = this.options
    this.write(`Secret ${namespace}/${ROOTS_SECRET} cannot be written`, async () => {
      const version = value === null ? {} : { resourceVersion: value.resourceVersion }
      const object = secret(namespace, ROOTS_SECRET, { [ROOTS_KEY]: text }, version)
      this.roots.adopt(value === null ? await api.create(object, SECRETS) : await api.replace(object, SECRETS))
    })
  }

  /** One write at a time; what it changed comes back by the watch. After a failure everything is looked at anew, later. */
  private write(failure: string, action: () => Promise<void>): void {
    if (this.cancelRetry !== null) return
    if (this.isWriting) {
      this.isWriteDue = true
      return
    }
    this.isWriting = true
    // It never rejects.
    void this.writeNow(failure, action).then(() => {
      this.isWriting = false
      if (!this.isWriteDue) return
      this.isWriteDue = false
      this.look()
    })
  }

  private async writeNow(failure: string, action: () => Promise<void>): Promise<void> {
    try {
      await action()
      this.backoff.reset()
      this.writeProblem = ''
    } catch (error) {
      // Somebody was faster: the watch brings, or has brought, what they wrote.
      if (error instanceof KubernetesError && error.isConflict) return
      const problem = `${failure}: ${describeError(error)}`
      if (problem !== this.writeProblem) this.options.log.error(problem)
      this.writeProblem = problem
      if (this.isStopped) return
      this.cancelRetry = this.options.clock.after(this.backoff.nextMs(), () => {
        this.cancelRetry = null
        this.look()
      })
    }
  }

  private recall(): void {
    const { value } = this.roots
    if (value === null || this.recalled === value.resourceVersion) return
    this.recalled = value.resourceVersion
    try {
      this.rotation.recall(readRoots(value), this.options.clock.now())
    } catch (error) {
      this.options.log.warn('the recorded roots are not usable and are written anew', {
        secret: ROOTS_SECRET,
        error: describeError(error),
      })
    }
  }
}

// --- Secrets ---

/** Istio's keys. */
function pluggedTexts(value: WatchedSecret): AuthorityTexts {
  const above = value.texts.get('cert-chain.pem') ?? ''
  return {
    chain: `${text(value, 'ca-cert.pem')}\n${above}`,
    key: text(value, 'ca-key.pem'),
    roots: text(value, 'root-cert.pem'),
  }
}

function ownTexts(value: WatchedSecret): AuthorityTexts {
  return {
    chain: text(value, 'tls.crt'),
    key: text(value, 'tls.key'),
    roots: value.texts.get('ca.crt') ?? null,
  }
}

function text(value: WatchedSecret, key: string): string {
  const found = value.texts.get(key) ?? ''
  if (found === '') throw new WeftError('WEFT_CERTIFICATE', `it has no ${key}`)
  return found
}

function newRoot(trustDomain: string, nowMs: number): AuthorityTexts {
  const root = createRoot(trustDomain, ROOT_LIFETIME_MS, nowMs)
  const key = root.key.export({ format: 'pem', type: 'pkcs8' }).toString()
  return { chain: root.certificate.pem, key, roots: root.certificate.pem }
}

function ownSecret(namespace: string, { chain, key, roots }: AuthorityTexts): KubernetesObject {
  const texts = { 'tls.crt': chain, 'tls.key': key, 'ca.crt': roots ?? chain }
  return { ...secret(namespace, OWN_SECRET, texts), type: 'kubernetes.io/tls' }
}

function secret(namespace: string, name: string, texts: Readonly<Record<string, string>>, meta = {}): KubernetesObject {
  const data: Record<string, string> = {}
  for (const [key, value] of Object.entries(texts)) data[key] = Buffer.from(value).toString('base64')
  const labels = { 'app.kubernetes.io/name': 'weft', 'app.kubernetes.io/component': 'controller' }
  return { apiVersion: 'v1', kind: 'Secret', metadata: { name, namespace, labels, ...meta }, data }
}

function readRoots(value: WatchedSecret): RecordedRoot[] {
  const parsed: unknown = JSON.parse(value.texts.get(ROOTS_KEY) ?? '')
  const roots = isTree(parsed) ? parsed['roots'] : null
  if (!Array.isArray(roots)) throw new WeftError('WEFT_CERTIFICATE', `${ROOTS_KEY} has no list of roots`)
  return roots.map((root: unknown) => {
    const { pem, untilMs } = (root ?? {}) as { pem?: unknown; untilMs?: unknown }
    if (typeof pem !== 'string' || (untilMs !== null && typeof untilMs !== 'number')) {
      throw new WeftError('WEFT_CERTIFICATE', `${ROOTS_KEY} has a root without certificate or end`)
    }
    return { pem, untilMs }
  })
}
