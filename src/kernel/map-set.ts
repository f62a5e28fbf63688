/**
 * The maps that an agent's programs share: those that an earlier agent has pinned when they are of this build's layout,
 * else fresh ones. A set is complete when its stamp is pinned, which is done last; half of a set is never used.
 */
import { randomBytes } from 'node:crypto'
import { closeSync, existsSync } from 'node:fs'
import { type Addon, type DescribedMap, hasCode, kernelError } from './addon.ts'
import { type BpfDirectory, inTheWay } from './bpf-directory.ts'
import { LAYOUT_HASH, PASSED_HASH } from './layout.generated.ts'
import { type LayoutStamp, readStamp, writeStamp } from './layout-stamp.ts'

/** Name of the map that holds the stamp. */
export const STAMP_MAP = 'layout'

/** What was found in the pin directory. */
export interface FoundSet {
  /** Of whatever layout; null when there is none, or half of one. */
  readonly stamp: LayoutStamp | null
  /** Descriptors by name, the caller's, when the maps can be used; else null. */
  readonly fds: Readonly<Record<string, number>> | null
}

/** Opens the maps that are pinned, if they are what `wanted` says. */
export function openMapSet(addon: Addon, directory: BpfDirectory, wanted: readonly DescribedMap[]): FoundSet {
  const stamp = readStamp(addon, directory.pathOf('maps', STAMP_MAP))
  if (stamp === null || stamp.hash !== LAYOUT_HASH) return { stamp, fds: null }
  return { stamp, fds: openAll(addon, wanted, (name) => directory.pathOf('maps', name)) }
}

/**
 * Descriptors by name, the caller's, of those maps of a set that was set aside that this build's programs can go on with:
 * all that are `wanted`, or none.
 */
export function openPassedMaps(
  addon: Addon,
  directory: BpfDirectory,
  wanted: readonly DescribedMap[],
): Readonly<Record<string, number>> {
  const stamp = readStamp(addon, directory.pathOfOld('maps', STAMP_MAP))
  return (
    (stamp?.passed === PASSED_HASH ? openAll(addon, wanted, (name) => directory.pathOfOld('maps', name)) : null) ?? {}
  )
}

/** Stamps the maps and pins them, the stamp last. Returns the stamp. Throws WeftError WEFT_BPF. */
export function pinMapSet(
  addon: Addon,
  directory: BpfDirectory,
  fds: Readonly<Record<string, number>>,
  version: string,
): LayoutStamp {
  const stamp = { hash: LAYOUT_HASH, epoch: randomBytes(8).readBigUInt64LE(), version, passed: PASSED_HASH }
  writeStamp(addon, fds[STAMP_MAP]!, stamp)
  const names = Object.keys(fds).filter((name) => name !== STAMP_MAP)
  for (const name of [...names, STAMP_MAP]) {
    const path = directory.pathOf('maps', name)
    try {
      addon.pinObject(fds[name]!, path)
    } catch (error) {
      throw hasCode(error, 'EEXIST') ? inTheWay(path) : kernelError('WEFT_BPF', `${path} cannot be pinned`, error)
    }
  }
  return stamp
}

/** Null when one of them cannot be used: somebody has taken pins away, or put others in their place. */
function openAll(
  addon: Addon,
  wanted: readonly DescribedMap[],
  pathOf: (name: string) => string,
): Readonly<Record<string, number>> | null {
  const fds: Record<string, number> = {}
  for (const map of wanted) {
    const fd = openMap(addon, pathOf(map.name), map)
    if (fd < 0) {
      for (const opened of Object.values(fds)) closeSync(opened)
      return null
    }
    fds[map.name] = fd
  }
  return fds
}

/** A descriptor; -1 when the map is not there or is another one. */
function openMap(addon: Addon, path: string, wanted: DescribedMap): number {
  if (!existsSync(path)) return -1
  let fd: number
  try {
    fd = addon.openPinned(path)
  } catch {
    return -1
  }
  try {
    const found = addon.describeMap(fd)
    const isSame =
      found.keyBytes === wanted.keyBytes &&
      found.valueBytes === wanted.valueBytes &&
      found.entriesMax === wanted.entriesMax
    if (isSame) return fd
  } catch {
    // No map.
  }
  closeSync(fd)
  return -1
}
