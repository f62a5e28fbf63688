/**
 * A credential as three files in a directory: cert.pem (leaf first), key.pem (mode 0600) and root.pem.
 *
 * Each file is replaced by a rename, so a reader never sees half of one. Whoever renews keeps the key: then the pair of
 * key and certificate fits at every moment, whichever of the renames a crash prevents.
 */
import { chmod, mkdir, open, readFile, rename, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { WeftError } from '../base/errors.ts'

export const CERTIFICATE_FILE = 'cert.pem'
export const KEY_FILE = 'key.pem'
export const ROOT_FILE = 'root.pem'

/** PEM texts. */
export interface CredentialTexts {
  readonly certificateChain: string
  readonly key: string
  readonly bundle: string
}

/** Reads the three files. Throws WeftError WEFT_CERTIFICATE naming the file that is missing, or a key that others can read. */
export async function readCredentialFiles(directory: string): Promise<CredentialTexts> {
  const certificateChain = await readText(join(directory, CERTIFICATE_FILE))
  const keyPath = join(directory, KEY_FILE)
  const key = await readText(keyPath)
  await refuseSharedKey(keyPath)
  return { certificateChain, key, bundle: await readText(join(directory, ROOT_FILE)) }
}

/** Writes the three files; the directory is made with mode 0700 if it is missing. */
export async function writeCredentialFiles(directory: string, texts: CredentialTexts): Promise<void> {
  await makePrivateDirectory(directory)
  await writeFileAtomically(join(directory, ROOT_FILE), texts.bundle, 0o644)
  await writeFileAtomically(join(directory, KEY_FILE), texts.key, 0o600)
  await writeFileAtomically(join(directory, CERTIFICATE_FILE), texts.certificateChain, 0o644)
}

/** Replaces certificate and roots after a renewal; the key stays. */
export async function writeRenewedFiles(directory: string, texts: Omit<CredentialTexts, 'key'>): Promise<void> {
  await writeFileAtomically(join(directory, ROOT_FILE), texts.bundle, 0o644)
  await writeFileAtomically(join(directory, CERTIFICATE_FILE), texts.certificateChain, 0o644)
}

/** Makes `directory`, and what is above it, with mode 0700; one that exists is left as it is. */
export async function makePrivateDirectory(directory: string): Promise<void> {
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 })
  } catch (error) {
    throw new WeftError('WEFT_SYSCALL', `the directory ${directory} cannot be made`, error)
  }
}

/** Writes a neighbour, syncs it and renames it over `path`. Throws WeftError WEFT_SYSCALL. */
export async function writeFileAtomically(path: string, text: string, mode: number): Promise<void> {
  try {
    const handle = await open(`${path}.new`, 'w', mode)
    try {
      await handle.writeFile(text)
      await handle.sync()
    } finally {
      await handle.close()
    }
    // The mode given to open() counts only for a new file, and less the umask.
    await chmod(`${path}.new`, mode)
    await rename(`${path}.new`, path)
  } catch (error) {
    throw new WeftError('WEFT_SYSCALL', `${path} cannot be written`, error)
  }
}

/** Throws WeftError WEFT_CERTIFICATE when others than the owner can read the file. */
export async function refuseSharedKey(path: string): Promise<void> {
  const { mode } = await stat(path)
  if ((mode & 0o077) !== 0) {
    const text = (mode & 0o777).toString(8).padStart(4, '0')
    throw new WeftError(
      'WEFT_CERTIFICATE',
      `the private key ${path} has mode ${text}: others could read it; chmod it to 0600`,
    )
  }
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    throw new WeftError('WEFT_CERTIFICATE', `${path} cannot be read`, error)
  }
}
