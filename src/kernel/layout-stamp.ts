/**
 * The stamp of a set of pinned maps: of which layout they are, and which set it is. The one thing that agents of every
 * build read alike (native/bpf/include/weft/stamp.h); everything else is looked at only when the stamp allows it.
 */
import { closeSync } from 'node:fs'
import type { Addon } from './addon.ts'
import { LAYOUT_STAMP } from './layout.generated.ts'
import { IS_LITTLE_ENDIAN } from './maps.ts'

export interface LayoutStamp {
  readonly hash: bigint
  /** Made with the maps, at random. */
  readonly epoch: bigint
  /** Of the agent that used them last, as people know it. */
  readonly version: string
  /** Of the build that made them: PASSED_HASH. */
  readonly passed: bigint
}

/** The only entry. */
const KEY = new Uint8Array(4)

const VERSION_BYTES = LAYOUT_STAMP.passed - LAYOUT_STAMP.version

/** The stamp that is pinned at `path`; null when there is none, or what is there is no stamp. */
export function readStamp(addon: Addon, path: string): LayoutStamp | null {
  let fd: number
  try {
    fd = addon.openPinned(path)
  } catch {
    return null
  }
  try {
    const { name, keyBytes, valueBytes } = addon.describeMap(fd)
    if (name !== 'layout' || keyBytes !== KEY.length || valueBytes !== LAYOUT_STAMP.bytes) return null
    const bytes = addon.mapLookup(fd, KEY)
    return bytes === null ? null : decodeStamp(bytes)
  } catch {
    // No map at all.
    return null
  } finally {
    closeSync(fd)
  }
}

export function writeStamp(addon: Addon, fd: number, stamp: LayoutStamp): void {
  addon.mapUpdate(fd, KEY, encodeStamp(stamp))
}

export function encodeStamp({ hash, epoch, version, passed }: LayoutStamp): Uint8Array {
  const bytes = new Uint8Array(LAYOUT_STAMP.bytes)
  const view = new DataView(bytes.buffer)
  view.setBigUint64(LAYOUT_STAMP.hash, hash, IS_LITTLE_ENDIAN)
  view.setBigUint64(LAYOUT_STAMP.epoch, epoch, IS_LITTLE_ENDIAN)
  view.setBigUint64(LAYOUT_STAMP.passed, passed, IS_LITTLE_ENDIAN)
  // One byte less: the text ends with a zero.
  bytes.set(new TextEncoder().encode(version).subarray(0, VERSION_BYTES - 1), LAYOUT_STAMP.version)
  return bytes
}

export function decodeStamp(bytes: Uint8Array): LayoutStamp {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const text = bytes.subarray(LAYOUT_STAMP.version, LAYOUT_STAMP.version + VERSION_BYTES)
  const end = text.indexOf(0)
  return {
    hash: view.getBigUint64(LAYOUT_STAMP.hash, IS_LITTLE_ENDIAN),
    epoch: view.getBigUint64(LAYOUT_STAMP.epoch, IS_LITTLE_ENDIAN),
    version: new TextDecoder().decode(end < 0 ? text : text.subarray(0, end)),
    passed: view.getBigUint64(LAYOUT_STAMP.passed, IS_LITTLE_ENDIAN),
  }
}
