/** Room in the cache: `npm run cluster -- clean`. Otherwise what is old goes whenever something new is built. */
import { existsSync } from 'node:fs'
import { basename } from 'node:path'
import { CACHE_DIRECTORY } from './cluster-files.ts'
import { componentsDirectory, isComponents } from './components.ts'
import { STORES } from './image-store.ts'
import { IMAGES } from './images.ts'
import { removeUnused } from './unused-files.ts'

/** A cluster that starts has taken what it needs after so long: images are unpacked in a minute or two. */
const STARTING_MS = 600_000

/**
 * Removes everything but the components of this checkout, which take minutes to build, and what clusters use; returns
 * the names.
 */
export function cleanCache(): readonly string[] {
  const none = { keptCount: 0, keptMs: STARTING_MS }
  const own = basename(componentsDirectory())
  const isOld = (name: string): boolean => isComponents(name) && name !== own
  return [...below(CACHE_DIRECTORY, { ...none, isOfKind: isOld }), ...below(IMAGES, none), ...below(STORES, none)]
}

function below(directory: string, unused: Parameters<typeof removeUnused>[1]): readonly string[] {
  return existsSync(directory) ? removeUnused(directory, unused) : []
}
