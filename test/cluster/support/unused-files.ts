/** What the cache keeps for a while: files and directories that are touched whenever they are used. */
import { readdirSync, rmSync, statSync, utimesSync } from 'node:fs'
import { join } from 'node:path'

/** Says that a file or directory of the cache is of use. */
export function markUsed(path: string): void {
  const now = new Date()
  utimesSync(path, now, now)
}

/** Removes what nobody used for so long. Other checkouts keep theirs in the same place, so only time tells. */
export function removeUnused(directory: string, keptMs: number): void {
  for (const name of readdirSync(directory)) {
    const path = join(directory, name)
    // Somebody else may be removing it as well.
    const stats = statSync(path, { throwIfNoEntry: false })
    if (stats !== undefined && Date.now() - stats.mtimeMs > keptMs) rmSync(path, { recursive: true, force: true })
  }
}
