/**
 * The certificates of a node: one per identity of its pods, and the node's own.
 *
 * Each is renewed when half of its time is over, with a new key, and handed out on every change; while the controller is
 * away the other half remains. Keys of pods exist in memory only. The node's own credential comes from its source and is
 * kept there after a renewal (node-credential.ts).
 */
import { createPrivateKey, type KeyObject } from 'node:crypto'
import { Backoff } from '../base/backoff.ts'
import type { Clock } from '../base/clock.ts'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { parseNodeIdentity } from '../model/identity.ts'
import { parseCertificates } from '../security/certificate.ts'
import { Credential } from '../security/credential.ts'
import type { CredentialTexts } from '../security/credential-files.ts'
import { createKey, createSigningRequest } from '../security/csr.ts'
import type { TlsMaterial } from '../transport/conn.ts'
import type { NodeCredentialSource } from './node-credential.ts'

/** Requests under way at one time. A node that starts with a hundred pods must not storm the controller. */
const REQUESTS_MAX = 8
/** After a failure: from half a second to 15 s, so that a lifetime of 60 s still leaves several tries. */
const RETRY = { baseMs: 500, maxMs: 15_000 }

/** Sends a request to the authority; PEM texts of leaf, intermediates and, last, the roots. */
export type RequestCertificate = (csr: string, identity: string, validitySeconds: number) => Promise<readonly string[]>

/** What the certificates need of the agent. */
export interface CertificatesOptions {
  /** Where the node's own credential comes from. */
  readonly nodeCredential: NodeCredentialSource
  readonly requestCertificate: RequestCertificate
  /** Wanted lifetime of pods' certificates, seconds; 0 leaves it to the authority. */
  readonly validitySeconds: number
  readonly clock: Clock
  readonly log: Logger
  /** A pod identity has its first or a newer certificate. */
  readonly onMaterial: (material: TlsMaterial) => void
  /** An identity is not needed any more; its key is gone. */
  readonly onRemoved: (identity: string) => void
  /** The node's own credential is a new one: connect to the controller with it from now on. */
  readonly onNodeCredential: () => void
  /** For back-off; tests inject it. */
  readonly random?: () => number
}

/** One identity as /certificates and metrics show it; no key. */
export interface CertificateStatus {
  readonly identity: string
  /** Null before the first certificate. */
  readonly serial: string | null
  readonly notBeforeMs: number | null
  readonly notAfterMs: number | null
  readonly renewAtMs: number | null
  /** Why the last request failed; null after a success. */
  readonly lastError: string | null
}

/** One identity that the node has, or wants. */
class Holding {
  readonly identity: string
  readonly backoff: Backoff
  /** Kept at renewal; null takes a new key every time. */
  readonly fixedKey: KeyObject | null
  credential: Credential | null = null
  lastError: string | null = null
  cancelTimer: (() => void) | null = null
  isRemoved = false

  constructor(identity: string, fixedKey: KeyObject | null, random: (() => number) | undefined) {
    this.identity = identity
    this.fixedKey = fixedKey
    this.backoff = new Backoff(RETRY, random)
  }
}

/** The node's own credential, and one for every identity of its pods. Keys stay in here and in the data workers. */
export class Certificates {
  /** Name of the node, from its own certificate. */
  readonly node: string
  /** From the node's own certificate. */
  readonly trustDomain: string
  private readonly options: CertificatesOptions
  private readonly holdings = new Map<string, Holding>()
  private readonly own: Holding
  private ownTexts: CredentialTexts
  private readonly queue: Holding[] = []
  private requests = 0
  private isStopped = false
  private unwatchRoots: () => void = () => {}
  /** Writing what was renewed, one after the other. */
  private keeping: Promise<void> = Promise.resolve()

  private constructor(options: CertificatesOptions, identity: OwnIdentity, texts: CredentialTexts, key: KeyObject) {
    this.options = options
    this.node = identity.node
    this.trustDomain = identity.trustDomain
    this.ownTexts = texts
    this.own = new Holding(identity.uri, key, options.random)
    this.own.credential = new Credential(identity.uri, key, texts.certificateChain, texts.bundle, options.clock.now())
  }

  /** Opens the node's credential. Throws WeftError WEFT_CERTIFICATE when it is missing, unfit or expired. */
  static async open(options: CertificatesOptions): Promise<Certificates> {
    const texts = await options.nodeCredential.open()
    try {
      const identity = ownIdentity(texts.certificateChain)
      return new Certificates(options, identity, texts, createPrivateKey(texts.key))
    } catch (error) {
      throw new WeftError(
        'WEFT_CERTIFICATE',
        `the node's credential is not usable: ${options.nodeCredential.advice}`,
        error,
      )
    }
  }

  /** Begins to renew the node's own credential, and to follow the roots. */
  start(): void {
    this.renewLater(this.own)
    this.unwatchRoots = this.options.nodeCredential.watchRoots((bundle) => this.setBundle(bundle))
  }

  /** Ends all renewals. Answers that still come are dropped. Resolves when nothing is written any more; never rejects. */
  async stop(): Promise<void> {
    this.isStopped = true
    this.unwatchRoots()
    this.own.cancelTimer?.()
    for (const holding of this.holdings.values()) holding.cancelTimer?.()
    this.queue.length = 0
    await this.keeping
  }

  /** The node's own credential as connections to the controller use it; another object after each renewal. */
  nodeCredential(): CredentialTexts {
    return this.ownTexts
  }

  /** Identities of the pods of this node, as of now: new ones are requested, those not named are forgotten. */
  setIdentities(identities: ReadonlySet<string>): void {
    for (const [identity, holding] of this.holdings) if (!identities.has(identity)) this.forget(holding)
    for (const identity of identities) {
      if (this.holdings.has(identity)) continue
      const holding = new Holding(identity, null, this.options.random)
      this.holdings.set(identity, holding)
      this.request(holding)
    }
  }

  /**
   * Credentials that the agent before this one had, keys included: they are used as if they had been requested here. Any
   * that is not usable is requested anew.
   */
  adopt(materials: readonly TlsMaterial[]): void {
    for (const { identity, key, certificateChain, bundle } of materials) {
      if (this.holdings.has(identity)) continue
      const holding = new Holding(identity, null, this.options.random)
      try {
        const now = this.options.clock.now()
        holding.credential = new Credential(identity, createPrivateKey(key), certificateChain, bundle, now)
      } catch (error) {
        const reason = error instanceof WeftError ? error.message : 'its key is no key'
        this.options.log.warn('a certificate of the agent before this one is not usable', { identity, reason })
        continue
      }
      this.holdings.set(identity, holding)
      this.renewLater(holding)
      this.options.onMaterial(holding.credential.tlsMaterial(this.trustDomain))
    }
  }

  /** Everything that pods of this node use now, with keys: for the data workers, and for the agent after this one. */
  materials(): readonly TlsMaterial[] {
    return [...this.holdings.values()].flatMap(({ credential }) => credential?.tlsMaterial(this.trustDomain) ?? [])
  }

  /** Material of an identity, if there is a certificate already. */
  materialOf(identity: string): TlsMaterial | null {
    return this.holdings.get(identity)?.credential?.tlsMaterial(this.trustDomain) ?? null
  }

  /** The node's own first. No keys. */
  status(): readonly CertificateStatus[] {
    return [this.own, ...this.holdings.values()].map(({ identity, credential, lastError }) => ({
      identity,
      serial: credential?.leaf.serial ?? null,
      notBeforeMs: credential?.leaf.notBeforeMs ?? null,
      notAfterMs: credential?.notAfterMs ?? null,
      renewAtMs: credential?.renewAtMs ?? null,
      lastError,
    }))
  }

  /**
   * The roots to trust are these from now on. A certificate that leads to none of them stays in use until its successor,
   * for which it asks at once, is there.
   */
  private setBundle(bundle: string): void {
    const { clock, log } = this.options
    log.info('the roots of the mesh have changed')
    for (const holding of [this.own, ...this.holdings.values()]) {
      const { credential } = holding
      if (credential === null) continue
      try {
        holding.credential = credential.withBundle(bundle, clock.now())
      } catch (error) {
        log.warn('a certificate leads to no root any more', {
          identity: holding.identity,
          error: describeError(error),
        })
        // Without a timer it is being asked for already.
        if (holding.cancelTimer === null) continue
        holding.cancelTimer()
        this.request(holding)
        continue
      }
      if (holding !== this.own) this.options.onMaterial(holding.credential.tlsMaterial(this.trustDomain))
      else void this.onOwnChanged({ ...this.ownTexts, bundle })
    }
  }

  private forget(holding: Holding): void {
    holding.isRemoved = true
    holding.cancelTimer?.()
    this.holdings.delete(holding.identity)
    this.options.onRemoved(holding.identity)
  }

  private renewLater(holding: Holding): void {
    const delayMs = holding.credential!.renewAtMs - this.options.clock.now()
    holding.cancelTimer = this.options.clock.after(Math.max(0, delayMs), () => this.request(holding))
  }

  // --- requests ---

  private request(holding: Holding): void {
    holding.cancelTimer = null
    if (this.requests >= REQUESTS_MAX) {
      this.queue.push(holding)
      return
    }
    this.requests++
    // It settles in every case: failures end in retryLater.
    void this.renew(holding).finally(() => {
      this.requests--
      const next = this.queue.shift()
      if (next !== undefined) this.request(next)
    })
  }

  private async renew(holding: Holding): Promise<void> {
    if (holding.isRemoved || this.isStopped) return
    try {
      const { identity } = holding
      const key = holding.fixedKey ?? createKey()
      // The authority decides how long a node's credential lives.
      const validitySeconds = holding === this.own ? 0 : this.options.validitySeconds
      const texts = await this.requestFor(holding, createSigningRequest(key, identity), validitySeconds)
      if (holding.isRemoved || this.isStopped) return
      const chain = texts.slice(0, -1).join('')
      const bundle = texts[texts.length - 1] ?? ''
      holding.credential = new Credential(identity, key, chain, bundle, this.options.clock.now())
      await this.onRenewed(holding, holding.credential)
    } catch (error) {
      this.retryLater(holding, error)
    }
  }

  /** The node's own can be had in another way when the old one does not serve any more. */
  private async requestFor(holding: Holding, csr: string, validitySeconds: number): Promise<readonly string[]> {
    const { clock, log, nodeCredential, requestCertificate } = this.options
    const { identity } = holding
    const { requestAnew } = nodeCredential
    if (holding !== this.own || requestAnew === null) return await requestCertificate(csr, identity, validitySeconds)
    if (holding.credential!.notAfterMs <= clock.now()) return await requestAnew(csr, identity, validitySeconds)
    try {
      return await requestCertificate(csr, identity, validitySeconds)
    } catch (error) {
      log.info('the node cannot renew its certificate with the old one, using its token', {
        error: describeError(error),
      })
      return await requestAnew(csr, identity, validitySeconds)
    }
  }

  private async onRenewed(holding: Holding, credential: Credential): Promise<void> {
    holding.lastError = null
    holding.backoff.reset()
    this.renewLater(holding)
    this.options.log.info('certificate received', {
      identity: holding.identity,
      notAfter: new Date(credential.notAfterMs).toISOString(),
    })
    if (holding !== this.own) {
      this.options.onMaterial(credential.tlsMaterial(this.trustDomain))
      return
    }
    await this.onOwnChanged({
      certificateChain: credential.chain,
      key: this.ownTexts.key,
      bundle: credential.bundle,
    })
  }

  /** Never rejects. */
  private async onOwnChanged(texts: CredentialTexts): Promise<void> {
    this.ownTexts = texts
    this.options.onNodeCredential()
    this.keeping = this.keeping.then(() => this.keepOwn(texts))
    await this.keeping
  }

  private async keepOwn(texts: CredentialTexts): Promise<void> {
    try {
      await this.options.nodeCredential.keep(texts)
    } catch (error) {
      // In memory it is renewed; only a restart would use the old one.
      this.own.lastError = describeError(error)
      this.options.log.error("the node's renewed credential cannot be kept", { error: this.own.lastError })
    }
  }

  private retryLater(holding: Holding, error: unknown): void {
    if (holding.isRemoved || this.isStopped) return
    holding.lastError = describeError(error)
    const delayMs = holding.backoff.nextMs()
    const notAfterMs = holding.credential?.notAfterMs ?? 0
    const isExpired = notAfterMs <= this.options.clock.now()
    const fields = { identity: holding.identity, error: holding.lastError, retryInMs: delayMs }
    if (isExpired) this.options.log.error('there is no valid certificate for an identity of this node', fields)
    else this.options.log.warn('a certificate cannot be renewed yet', fields)
    holding.cancelTimer = this.options.clock.after(delayMs, () => this.request(holding))
  }
}

interface OwnIdentity {
  readonly uri: string
  readonly node: string
  readonly trustDomain: string
}

/** Who the node's certificate says it is: exactly one node identity. */
function ownIdentity(chain: string): OwnIdentity {
  const { identities } = parseCertificates(chain, "the node's certificate")[0]!
  const [uri] = identities
  if (uri !== undefined && identities.length === 1) {
    const trustDomain = uri.split('/')[2] ?? ''
    const node = parseNodeIdentity(uri, trustDomain)
    if (node !== null) return { uri, node, trustDomain }
  }
  throw new WeftError('WEFT_CERTIFICATE', `it is of ${identities.join(' and ') || 'nobody'}, not of a node`)
}
