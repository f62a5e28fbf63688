/**
 * Where the node's own credential comes from, and where it is kept: three files that somebody carried to the node, or a
 * token (node-token.ts).
 */
import { type CredentialTexts, readCredentialFiles, writeRenewedFiles } from '../security/credential-files.ts'
import type { RequestCertificate } from './certificates.ts'

/** See the head of the file. */
export interface NodeCredentialSource {
  /** The credential to begin with. Rejects with WeftError WEFT_CERTIFICATE when there will be none. */
  open(): Promise<CredentialTexts>
  /** What to do about a credential that turns out not to be usable, for the error. */
  readonly advice: string
  /** Keeps a renewed one; its key is the one of the first. Rejects with WeftError WEFT_SYSCALL. */
  keep(texts: CredentialTexts): Promise<void>
  /** Asks for a certificate without showing the old one; null where nothing else proves the node. */
  readonly requestAnew: RequestCertificate | null
  /** Calls back whenever the roots to trust are others, until the returned function is called. */
  watchRoots(onRoots: (bundle: string) => void): () => void
}

/** A credential that was issued for this node and lies in a directory. */
export class NodeCredentialFiles implements NodeCredentialSource {
  readonly advice = 'issue a new one with "weft controller issue"'
  readonly requestAnew = null
  private readonly directory: string

  constructor(directory: string) {
    this.directory = directory
  }

  async open(): Promise<CredentialTexts> {
    return await readCredentialFiles(this.directory)
  }

  async keep(texts: CredentialTexts): Promise<void> {
    await writeRenewedFiles(this.directory, texts)
  }

  /** Roots come with renewed certificates only. */
  watchRoots(): () => void {
    return () => {}
  }
}
