/**
 * The first credential of a node: what its agent proves itself with before it can renew by itself.
 * Issued on the machine of the authority (`weft controller issue`), carried to the node by whoever sets it up.
 */
import { join } from 'node:path'
import { WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { formatNodeIdentity, parseNodeIdentity } from '../model/identity.ts'
import { isMeshIdentity } from '../security/certificate.ts'
import { CERTIFICATE_FILE, KEY_FILE, ROOT_FILE, writeCredentialFiles } from '../security/credential-files.ts'
import { type AuthoritySettings, CertificateAuthority } from './authority.ts'

/** Default lifetime, here and at renewal. 30 days: a node may be off for two weeks and still come back by itself. */
export const NODE_LIFETIME_MS = 30 * 86_400_000

/** For which node, and where to. */
export interface NodeCredentialOrder extends AuthoritySettings {
  readonly node: string
  /** Gets cert.pem, key.pem (0600) and root.pem. */
  readonly outDirectory: string
  readonly lifetimeMs?: number
}

/** What was written. */
export interface NodeCredentialFiles {
  readonly identity: string
  readonly certificateFile: string
  readonly keyFile: string
  readonly rootFile: string
  readonly notAfterMs: number
}

/** Issues a credential for a node and writes its files. Generates the root if there is none yet. Throws WeftError. */
export async function issueNodeCredential(order: NodeCredentialOrder, log: Logger): Promise<NodeCredentialFiles> {
  const { node, outDirectory, trustDomain } = order
  const identity = formatNodeIdentity(trustDomain, node)
  if (parseNodeIdentity(identity, trustDomain) !== node || !isMeshIdentity(identity)) {
    throw new WeftError(
      'WEFT_CONFIG',
      `${JSON.stringify(node)} cannot be the name of a node: use letters, digits, ".", "_" and "-"`,
    )
  }
  const authority = await CertificateAuthority.open(order, log)
  const credential = authority.issue(identity, order.lifetimeMs ?? NODE_LIFETIME_MS)
  await writeCredentialFiles(outDirectory, {
    certificateChain: credential.chain,
    key: credential.keyPem(),
    bundle: credential.bundle,
  })
  return {
    identity,
    certificateFile: join(outDirectory, CERTIFICATE_FILE),
    keyFile: join(outDirectory, KEY_FILE),
    rootFile: join(outDirectory, ROOT_FILE),
    notAfterMs: credential.notAfterMs,
  }
}
