/**
 * The credential of one identity: key, certificate chain and trust bundle, checked to fit together, and when to renew.
 */
import type { KeyObject } from 'node:crypto'
import { WeftError } from '../base/errors.ts'
import { type Certificate, parseCertificates } from './certificate.ts'
import { verifyChain } from './verify.ts'

/** A key, its certificate chain and the roots to trust, checked to belong together. */
export class Credential {
  readonly identity: string
  readonly leaf: Certificate
  /** PEM, leaf first. */
  readonly chain: string
  /** PEM, trusted roots. */
  readonly bundle: string
  /**
   * When half of the lifetime that is left at `nowMs` is over: as long again remains to get a new one while the
   * controller is away. Not counted from notBefore, which lies before the time of issue.
   */
  readonly renewAtMs: number
  private readonly key: KeyObject

  /**
   * Throws WEFT_CERTIFICATE when the chain is not for `identity` and `key`, or does not lead to `bundle` at `nowMs`.
   * `renewAtMs` is worked out unless given.
   */
  constructor(
    identity: string,
    key: KeyObject,
    chain: string,
    bundle: string,
    nowMs: number,
    renewAtMs: number | null = null,
  ) {
    const certificates = parseCertificates(chain, `the certificate of ${identity}`)
    const leaf = certificates[0]!
    if (!leaf.identities.includes(identity)) {
      throw new WeftError(
        'WEFT_CERTIFICATE',
        `the certificate issued for ${identity} names ${leaf.identities.join(' and ') || 'nobody'}`,
      )
    }
    if (!leaf.x509.checkPrivateKey(key)) {
      throw new WeftError('WEFT_CERTIFICATE', `the certificate issued for ${identity} is for another key`)
    }
    const reason = verifyChain(certificates, parseCertificates(bundle, `the trust bundle of ${identity}`), nowMs)
    if (reason !== null) {
      throw new WeftError('WEFT_CERTIFICATE', `the certificate issued for ${identity} is of no use: ${reason}`)
    }
    this.identity = identity
    this.key = key
    this.leaf = leaf
    this.chain = chain
    this.bundle = bundle
    this.renewAtMs = renewAtMs ?? nowMs + (leaf.notAfterMs - nowMs) / 2
  }

  /** The same certificate with other roots to trust; renewed when it would have been. Throws like the constructor. */
  withBundle(bundle: string, nowMs: number): Credential {
    return new Credential(this.identity, this.key, this.chain, bundle, nowMs, this.renewAtMs)
  }

  get notAfterMs(): number {
    return this.leaf.notAfterMs
  }

  /** PEM of the private key, for TLS and for a file of mode 0600; nowhere else. */
  keyPem(): string {
    return this.key.export({ format: 'pem', type: 'pkcs8' }).toString()
  }

  /** What a transport makes its TLS context from. */
  tlsMaterial(trustDomain: string): TlsCredential {
    return {
      identity: this.identity,
      certificateChain: this.chain,
      key: this.keyPem(),
      bundle: this.bundle,
      trustDomain,
    }
  }
}

/** The same shape as the transport's TlsMaterial, which this layer may not import. Plain data. */
export interface TlsCredential {
  readonly identity: string
  readonly certificateChain: string
  readonly key: string
  readonly bundle: string
  readonly trustDomain: string
}
