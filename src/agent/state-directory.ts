/**
 * The directory of an agent's state, in which the next agent finds the socket of this one. Keys go over that socket, and
 * whoever could put another one in its place would have them; so it is used only if nobody else can write there.
 */
import { mkdirSync, statSync } from 'node:fs'
import { WeftError } from '../base/errors.ts'

/** For this user alone, when an agent makes it. */
const MODE = 0o700

/** Write permission of group and others. Reading is no harm: every file in it, and the socket, has a mode of its own. */
const WRITABLE_BY_OTHERS = 0o022

const ROOT_UID = 0

/** Makes it if need be. Throws WEFT_CONFIG when others can write in it, or it belongs to another user than root. */
export function makeStateDirectory(path: string): void {
  try {
    mkdirSync(path, { recursive: true, mode: MODE })
  } catch (error) {
    throw new WeftError('WEFT_CONFIG', `the state directory ${path} cannot be made; choose another with --state`, error)
  }
  const { mode, uid } = statSync(path)
  if (uid !== ROOT_UID && uid !== process.geteuid!()) {
    const fault = `it belongs to user ${uid}, who could take the keys of pods; give it to the user of the agent`
    throw new WeftError('WEFT_CONFIG', `the state directory ${path} is not usable: ${fault}`)
  }
  if ((mode & WRITABLE_BY_OTHERS) !== 0) {
    const fault = `others can write in it, and could take the keys of pods; chmod go-w ${path}`
    throw new WeftError('WEFT_CONFIG', `the state directory ${path} is not usable: ${fault}`)
  }
}
