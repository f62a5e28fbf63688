/**
 * How one root follows another without a connection lost. Pure: told of what there is and of the time, it says who signs
 * and whom to trust.
 *
 *      t0  another root is offered: trusted beside the old one, which still signs        (announced)
 *      t1  = t0 + announceMs: the new one signs; every agent trusts it by now             (switched)
 *      t2  = t1 + overlapMs: no certificate of the old one lives any more; it is dropped  (retired)
 *
 * A signer whose root is trusted already (a renewed intermediate, or a root that the operator had put beside the old one
 * before) signs at once. What was trusted is written down (`record`), so that a restart between t0 and t2 drops nothing.
 */
import { type Certificate, parseCertificates } from '../security/certificate.ts'
import { verifyAuthority } from '../security/verify.ts'
import { type AuthorityMaterial, bundleOf, fingerprintOf } from './authority-material.ts'

/** Roots beside those in use: a bundle goes into every certificate answer. Who rotates more often loses the one that ends first. */
const RETIRED_MAX = 16

/** Lengths of the phases. */
export interface RotationTimes {
  readonly announceMs: number
  readonly overlapMs: number
}

/** A root that is trusted. */
export interface RecordedRoot {
  readonly pem: string
  /** When it is dropped; null as long as its authority is in use. */
  readonly untilMs: number | null
}

interface Retired {
  readonly certificate: Certificate
  readonly untilMs: number
}

/** See the head of the file. */
export class RootRotation {
  private readonly times: RotationTimes
  private material: AuthorityMaterial | null = null
  private announced: { readonly material: AuthorityMaterial; readonly atMs: number } | null = null
  private readonly retired = new Map<string, Retired>()

  constructor(times: RotationTimes) {
    this.times = times
  }

  /** Who signs; null before the first offer. */
  get current(): AuthorityMaterial | null {
    return this.material
  }

  /** Who will sign, and from when on. */
  get next(): { readonly material: AuthorityMaterial; readonly atMs: number } | null {
    return this.announced
  }

  /** Whom to trust, PEM: who signs, then who will, then who did. */
  get bundle(): string {
    return bundleOf([...this.rootsInUse(), ...[...this.retired.values()].map(({ certificate }) => certificate)])
  }

  /** When `advance` has something to do; null when time brings nothing. */
  get nextChangeAtMs(): number | null {
    const times = [...this.retired.values()].map(({ untilMs }) => untilMs)
    if (this.announced !== null) times.push(this.announced.atMs)
    return times.length === 0 ? null : Math.min(...times)
  }

  /** What must be known after a restart. */
  record(): RecordedRoot[] {
    const inUse = this.rootsInUse().map(({ pem }) => ({ pem, untilMs: null }))
    const retired = [...this.retired.values()].map(({ certificate, untilMs }) => ({ pem: certificate.pem, untilMs }))
    return [...inUse, ...retired]
  }

  /**
   * Roots that were trusted before this process began, or that another replica trusts. Those of which no end is known
   * were in use: if they are not any more, the overlap begins now.
   */
  recall(roots: readonly RecordedRoot[], nowMs: number): void {
    for (const { pem, untilMs } of roots) {
      if (untilMs === null && this.material !== null) continue
      const endMs = Math.min(untilMs ?? Number.POSITIVE_INFINITY, nowMs + this.times.overlapMs)
      for (const certificate of parseCertificates(pem, 'a recorded root')) this.retire(certificate, endMs, nowMs)
    }
  }

  /**
   * This is who is to sign. With `isAtOnce` without announcing it, and without trusting any longer whoever is not its own:
   * for a root whose key is in wrong hands.
   */
  offer(material: AuthorityMaterial, nowMs: number, isAtOnce = false): void {
    if (this.material === null || isAtOnce) {
      if (isAtOnce) this.retired.clear()
      this.material = material
      this.announced = null
      this.dropUsed()
      return
    }
    if (this.isTrusted(material, nowMs)) {
      this.switchTo(material, nowMs)
      return
    }
    const isAnnounced = this.announced !== null && signerOf(this.announced.material) === signerOf(material)
    const atMs = isAnnounced ? this.announced!.atMs : nowMs + this.times.announceMs
    if (!isAnnounced) this.retireAnnounced(nowMs)
    this.announced = { material, atMs }
    this.dropUsed()
  }

  /** Does what the time has brought. */
  advance(nowMs: number): void {
    if (this.announced !== null && this.announced.atMs <= nowMs) this.switchTo(this.announced.material, nowMs)
    for (const [key, { untilMs }] of this.retired) if (untilMs <= nowMs) this.retired.delete(key)
  }

  private switchTo(material: AuthorityMaterial, nowMs: number): void {
    const before = this.rootsInUse()
    this.material = material
    this.announced = null
    for (const root of before) this.retire(root, nowMs + this.times.overlapMs, nowMs)
    this.dropUsed()
  }

  /** One that was announced, and trusted by somebody since, but will not sign. */
  private retireAnnounced(nowMs: number): void {
    const roots = this.announced?.material.roots ?? []
    this.announced = null
    for (const root of roots) this.retire(root, nowMs + this.times.overlapMs, nowMs)
  }

  private retire(certificate: Certificate, untilMs: number, nowMs: number): void {
    const key = fingerprintOf(certificate)
    if (untilMs <= nowMs || this.retired.has(key)) return
    if (this.rootsInUse().some((root) => fingerprintOf(root) === key)) return
    this.retired.set(key, { certificate, untilMs })
    if (this.retired.size <= RETIRED_MAX) return
    const [first] = [...this.retired].sort(([, a], [, b]) => a.untilMs - b.untilMs)
    this.retired.delete(first![0])
  }

  private dropUsed(): void {
    for (const root of this.rootsInUse()) this.retired.delete(fingerprintOf(root))
  }

  private rootsInUse(): readonly Certificate[] {
    return [...(this.material?.roots ?? []), ...(this.announced?.material.roots ?? [])]
  }

  /** True when what `material` signs is believed by everyone who believes what is signed now. */
  private isTrusted(material: AuthorityMaterial, nowMs: number): boolean {
    return verifyAuthority(material.authority.certificate, material.chain, this.material!.roots, nowMs) === null
  }
}

/** What tells who signs. */
export function signerOf(material: AuthorityMaterial): string {
  return fingerprintOf(material.authority.certificate)
}
