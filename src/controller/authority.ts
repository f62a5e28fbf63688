/**
 * The mesh's certificate authority: signs with what it has at the moment, and says whom to trust.
 *
 * Where there is no Kubernetes, root and key come from disk or are given. A root is generated at the first start and kept
 * in `<state>/ca` (directory 0700, key 0600). The file of a root may hold more than one certificate: the first signs, all
 * self-signed ones are trusted. Roots are rotated by putting the new root behind the old one until every agent has
 * renewed, then in front of it, then alone. On Kubernetes they come from Secrets (kubernetes-authority.ts).
 */
import { mkdtemp, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { Credential } from '../security/credential.ts'
import { makePrivateDirectory, refuseSharedKey, writeFileAtomically } from '../security/credential-files.ts'
import { createKey, createSigningRequest, parseSigningRequest } from '../security/csr.ts'
import { createRoot, issueFromRequest } from '../security/issue.ts'
import { type AuthorityMaterial, type AuthorityTexts, bundleOf, readMaterial } from './authority-material.ts'

/** Ten years: rotation is a decision, not a surprise. */
export const ROOT_LIFETIME_MS = 10 * 365 * 86_400_000
/** The log warns when the root has less than this left. */
const ROOT_WARNING_MS = 90 * 86_400_000

const ROOT_FILE = 'root.pem'
const KEY_FILE = 'key.pem'

/** Where root and key are, and whose mesh it is. */
export interface AuthoritySettings {
  /** Where a generated root is kept. */
  readonly stateDirectory: string
  /** Given root (and intermediates) and key, instead of a generated one; both or none. */
  readonly given: { readonly rootFile: string; readonly keyFile: string } | null
  readonly trustDomain: string
}

/** Signs for the mesh. Its key never leaves it. */
export class CertificateAuthority {
  private material: AuthorityMaterial
  private trusted: string
  private readonly now: () => number
  private onChange: () => void = () => {}

  /** `bundle` may hold more roots than the material's own. */
  constructor(material: AuthorityMaterial, bundle: string, now: () => number = Date.now) {
    this.material = material
    this.trusted = bundle
    this.now = now
  }

  /** Loads the authority of a directory, or generates it at the first start. Throws WeftError. */
  static async open(
    settings: AuthoritySettings,
    log: Logger,
    now: () => number = Date.now,
  ): Promise<CertificateAuthority> {
    const texts =
      settings.given === null
        ? await openState(settings.stateDirectory, settings.trustDomain, log, now)
        : await readGiven(settings.given.rootFile, settings.given.keyFile, log)
    const material = readMaterial({ ...texts, roots: null }, now())
    warnOfExpiry(material, now(), log)
    return new CertificateAuthority(material, bundleOf(material.roots), now)
  }

  /** Trusted roots, PEM. */
  get bundle(): string {
    return this.trusted
  }

  /** When the certificate that signs ends. */
  get notAfterMs(): number {
    return this.material.authority.certificate.notAfterMs
  }

  /** When the first of the roots ends that the certificates lead to. */
  get rootNotAfterMs(): number {
    return Math.min(...this.material.roots.map(({ notAfterMs }) => notAfterMs))
  }

  /** Called after every replacement. */
  set changeListener(listener: () => void) {
    this.onChange = listener
  }

  /** False when this signs already, and these are trusted. */
  isOther(material: AuthorityMaterial, bundle: string): boolean {
    return material !== this.material || bundle !== this.trusted
  }

  /** From now on this signs, and these are trusted. */
  replace(material: AuthorityMaterial, bundle: string): void {
    this.material = material
    this.trusted = bundle
    this.onChange()
  }

  /** Signs a leaf for `identity` with the key of a PEM request; returns the chain, leaf first. Throws WEFT_CERTIFICATE. */
  sign(request: string, identity: string, lifetimeMs: number, dnsNames: readonly string[] = []): string {
    return issueFromRequest(this.material.authority, request, identity, lifetimeMs, this.now(), dnsNames)
  }

  /** Identities that a PEM request asks for; its signature is verified. Throws WEFT_CERTIFICATE. */
  identitiesIn(request: string): readonly string[] {
    return parseSigningRequest(request).identities
  }

  /** A new key and certificate, for the controller itself and for the first credential of a node. */
  issue(identity: string, lifetimeMs: number, dnsNames: readonly string[] = []): Credential {
    const key = createKey()
    const chain = this.sign(createSigningRequest(key, identity), identity, lifetimeMs, dnsNames)
    return new Credential(identity, key, chain, this.bundle, this.now())
  }
}

/** Says when the authority ends soon. */
export function warnOfExpiry({ authority }: AuthorityMaterial, nowMs: number, log: Logger): void {
  const { notAfterMs } = authority.certificate
  if (notAfterMs - nowMs >= ROOT_WARNING_MS) return
  log.warn('the certificate of the authority expires soon: give it a new one', {
    notAfter: new Date(notAfterMs).toISOString(),
  })
}

type StoredTexts = Omit<AuthorityTexts, 'roots'>

async function readGiven(rootFile: string, keyFile: string, log: Logger): Promise<StoredTexts> {
  const texts = { chain: await readText(rootFile), key: await readText(keyFile) }
  // Only a warning: a mounted secret often cannot have another mode.
  await refuseSharedKey(keyFile).catch((error) => log.warn(describeError(error)))
  return texts
}

async function openState(
  stateDirectory: string,
  trustDomain: string,
  log: Logger,
  now: () => number,
): Promise<StoredTexts> {
  const directory = join(stateDirectory, 'ca')
  const existing = await readState(directory)
  if (existing !== null) return existing
  const root = createRoot(trustDomain, ROOT_LIFETIME_MS, now())
  await makePrivateDirectory(stateDirectory)
  // Both files appear at once, by the rename of a directory; whoever comes second takes what the first one made.
  const fresh = await mkdtemp(join(stateDirectory, '.ca-'))
  try {
    const key = root.key.export({ format: 'pem', type: 'pkcs8' }).toString()
    await writeFileAtomically(join(fresh, KEY_FILE), key, 0o600)
    await writeFileAtomically(join(fresh, ROOT_FILE), root.certificate.pem, 0o644)
    await rename(fresh, directory)
    log.info('generated a new root', { directory })
  } catch (error) {
    await rm(fresh, { recursive: true, force: true })
    const code = (error as NodeJS.ErrnoException).code
    if (code !== 'ENOTEMPTY' && code !== 'EEXIST') {
      if (error instanceof WeftError) throw error
      throw new WeftError('WEFT_SYSCALL', `the root cannot be kept in ${directory}`, error)
    }
  }
  const texts = await readState(directory)
  if (texts === null)
    throw new WeftError('WEFT_CONFIG', `${directory} is there, but without ${ROOT_FILE} and ${KEY_FILE}`)
  return texts
}

/** Null when there is none yet. */
async function readState(directory: string): Promise<StoredTexts | null> {
  const keyFile = join(directory, KEY_FILE)
  let key: string
  try {
    key = await readFile(keyFile, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw new WeftError('WEFT_CONFIG', `the key of the authority ${keyFile} cannot be read`, error)
  }
  await refuseSharedKey(keyFile)
  return { chain: await readText(join(directory, ROOT_FILE)), key }
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    throw new WeftError('WEFT_CONFIG', `${path} cannot be read`, error)
  }
}
