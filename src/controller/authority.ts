/**
 * The mesh's certificate authority: its root and key, from disk or given, and signing with them.
 *
 * A root is generated at the first start and kept in `<state>/ca` (directory 0700, key 0600). The file of a root may hold
 * more than one certificate: the first signs, all self-signed ones are trusted. Roots are rotated by putting the new
 * root behind the old one until every agent has renewed, then in front of it, then alone.
 */
import { mkdtemp, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { parseCertificates } from '../security/certificate.ts'
import { Credential } from '../security/credential.ts'
import { makePrivateDirectory, refuseSharedKey, writeFileAtomically } from '../security/credential-files.ts'
import { createKey, createSigningRequest, parseSigningRequest } from '../security/csr.ts'
import { type Authority, createRoot, issueFromRequest, loadAuthority } from '../security/issue.ts'

/** Ten years: rotation is a decision, not a surprise. */
const ROOT_LIFETIME_MS = 10 * 365 * 86_400_000
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
  /** Trusted roots, PEM. */
  readonly bundle: string
  private readonly authority: Authority
  private readonly now: () => number

  private constructor(authority: Authority, bundle: string, now: () => number) {
    this.authority = authority
    this.bundle = bundle
    this.now = now
  }

  /** Loads the authority, or generates it at the first start. Throws WeftError. */
  static async open(
    settings: AuthoritySettings,
    log: Logger,
    now: () => number = Date.now,
  ): Promise<CertificateAuthority> {
    const { chain, key } =
      settings.given === null
        ? await openState(settings.stateDirectory, settings.trustDomain, log, now)
        : await readGiven(settings.given.rootFile, settings.given.keyFile, log)
    const authority = loadAuthority(chain, key)
    const certificates = parseCertificates(chain, 'the roots of the authority')
    const roots = certificates.filter((certificate) => certificate.x509.checkIssued(certificate.x509))
    if (roots.length === 0) {
      throw new WeftError(
        'WEFT_CERTIFICATE',
        'the certificates of the authority include no self-signed root: add it to the file',
      )
    }
    const leftMs = authority.certificate.notAfterMs - now()
    if (leftMs < ROOT_WARNING_MS) {
      log.warn('the certificate of the authority expires soon: give it a new one', {
        notAfter: new Date(authority.certificate.notAfterMs).toISOString(),
      })
    }
    return new CertificateAuthority(authority, roots.map((root) => root.pem).join(''), now)
  }

  /** Signs a leaf for `identity` with the key of a PEM request; returns the chain, leaf first. Throws WEFT_CERTIFICATE. */
  sign(request: string, identity: string, lifetimeMs: number): string {
    return issueFromRequest(this.authority, request, identity, lifetimeMs, this.now())
  }

  /** Identities that a PEM request asks for; its signature is verified. Throws WEFT_CERTIFICATE. */
  identitiesIn(request: string): readonly string[] {
    return parseSigningRequest(request).identities
  }

  /** A new key and certificate, for the controller itself and for the first credential of a node. */
  issue(identity: string, lifetimeMs: number): Credential {
    const key = createKey()
    const chain = this.sign(createSigningRequest(key, identity), identity, lifetimeMs)
    return new Credential(identity, key, chain, this.bundle, this.now())
  }
}

interface AuthorityTexts {
  readonly chain: string
  readonly key: string
}

async function readGiven(rootFile: string, keyFile: string, log: Logger): Promise<AuthorityTexts> {
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
): Promise<AuthorityTexts> {
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
async function readState(directory: string): Promise<AuthorityTexts | null> {
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
