/**
 * What the cache keeps for a while: files and directories that are touched whenever they are used. Of each kind the last
 * few used stay, and so does what was used lately, because other checkouts keep theirs in the same place; and always a
 * program that runs, so that no living cluster loses its components.
 */
import { mkdtempSync, readdirSync, renameSync, rmSync, statSync, utimesSync } from 'node:fs'
import { join } from 'node:path'

/** What may be removed. */
export interface Unused {
  /** So many of the last used stay. */
  readonly keptCount: number
  /** Whatever was used within so long stays: its user may be about to read it. */
  readonly keptMs: number
  /** Entries that this chooses, all of them unless told. */
  readonly isOfKind?: (name: string) => boolean
}

/** Entries with such names are unfinished, or being removed: they are nobody's last used. */
const isScratch = (name: string): boolean => name.startsWith('.')

/** Says that a file or directory of the cache is of use; false when it is not there. */
export function markUsed(path: string): boolean {
  const now = new Date()
  try {
    utimesSync(path, now, now)
    return true
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false
    throw error
  }
}

/** Removes what is of no use any more, and returns the names. */
export function removeUnused(
  directory: string,
  { keptCount, keptMs, isOfKind = () => true }: Unused,
): readonly string[] {
  const entries = readdirSync(directory)
    .filter((name) => isOfKind(name) || isScratch(name))
    // Somebody else may be removing it as well.
    .flatMap((name) => {
      const stats = statSync(join(directory, name), { throwIfNoEntry: false })
      return stats === undefined ? [] : [{ name, usedMs: stats.mtimeMs }]
    })
    .sort((x, y) => y.usedMs - x.usedMs)
  const kept = new Set(entries.filter(({ name }) => !isScratch(name)).slice(0, keptCount))
  const old = entries.filter((entry) => !kept.has(entry) && Date.now() - entry.usedMs > keptMs)
  if (old.length === 0) return []
  const running = runningFiles()
  const removed = old.map(({ name }) => name).filter((name) => !isRunning(join(directory, name), running))
  for (const name of removed) removeWhole(directory, name)
  return removed
}

/** Nobody sees half of it. */
function removeWhole(directory: string, name: string): void {
  const grave = mkdtempSync(join(directory, '.removed-'))
  try {
    renameSync(join(directory, name), join(grave, name))
  } catch (error) {
    // Somebody else was faster.
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error
  } finally {
    rmSync(grave, { recursive: true, force: true })
  }
}

/** The files that processes of this machine run, each as `device:inode`: paths differ between mount namespaces. */
function runningFiles(): ReadonlySet<string> {
  const pids = readdirSync('/proc').filter((name) => /^[0-9]+$/.test(name))
  return new Set(pids.flatMap((pid) => keyOf(`/proc/${pid}/exe`) ?? []))
}

/** Programs lie in their directory itself. */
function isRunning(path: string, running: ReadonlySet<string>): boolean {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true) return false
  return readdirSync(path).some((name) => running.has(keyOf(join(path, name)) ?? ''))
}

/** Null for kernel threads, and for what has just gone. */
function keyOf(path: string): string | null {
  try {
    const { dev, ino } = statSync(path)
    return `${dev}:${ino}`
  } catch {
    return null
  }
}
