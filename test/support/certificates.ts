/** A throw-away certificate authority for tests, on the project's own issuing code. */
import { createPublicKey } from 'node:crypto'
import { formatIdentity } from '../../src/model/identity.ts'
import { createKey } from '../../src/security/csr.ts'
import { type Authority, createRoot, issueLeaf } from '../../src/security/issue.ts'
import type { TlsMaterial } from '../../src/transport/conn.ts'

const DAY_MS = 86_400_000

export interface LeafOptions {
  readonly lifetimeMs?: number
  /** Time of issue; the past makes expired leaves. */
  readonly nowMs?: number
  /** Trust domain that the holder demands of its peers. */
  readonly trustDomain?: string
  /** Roots that the holder trusts; this authority's unless given. */
  readonly bundle?: string
}

export class TestAuthority {
  readonly trustDomain: string
  readonly authority: Authority

  constructor(trustDomain = 'cluster.local', nowMs = Date.now(), lifetimeMs = 365 * DAY_MS) {
    this.trustDomain = trustDomain
    this.authority = createRoot(trustDomain, lifetimeMs, nowMs)
  }

  /** PEM of the root. */
  get bundle(): string {
    return this.authority.certificate.pem
  }

  /** Key and certificate for `ns/<namespace>/sa/<serviceAccount>` of this trust domain. */
  leaf(namespace: string, serviceAccount: string, options: LeafOptions = {}): TlsMaterial {
    return this.leafFor(formatIdentity(this.trustDomain, namespace, serviceAccount), options)
  }

  leafFor(identity: string, options: LeafOptions = {}): TlsMaterial {
    const key = createKey()
    const certificateChain = issueLeaf(this.authority, {
      identity,
      publicKey: createPublicKey(key),
      lifetimeMs: options.lifetimeMs ?? DAY_MS,
      nowMs: options.nowMs ?? Date.now(),
    })
    return {
      identity,
      certificateChain,
      key: key.export({ format: 'pem', type: 'pkcs8' }).toString(),
      bundle: options.bundle ?? this.bundle,
      trustDomain: options.trustDomain ?? this.trustDomain,
    }
  }
}
