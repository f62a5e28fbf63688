/** Finds network namespaces of which only the kernel's number is known: by their names, or by processes in them. */
import { closeSync, readdirSync, statSync } from 'node:fs'
import type { Addon } from './addon.ts'

/** Where `ip netns` and container runtimes keep names of namespaces. */
const NAMES_DIRECTORY = '/run/netns'

/** A descriptor of the netns with that cookie and inode number; -1 when nobody has it any more. */
export function findNetns(addon: Addon, netnsCookie: bigint, inode: bigint): number {
  if (inode === 0n) return -1
  for (const path of candidates()) {
    let fd = -1
    try {
      if (statSync(path, { bigint: true }).ino !== inode) continue
      fd = addon.openNetns(path)
      if (addon.netnsCookie(fd) === netnsCookie) return fd
    } catch {
      // The process has ended, or the name is of something else.
    }
    if (fd >= 0) closeSync(fd)
  }
  return -1
}

function* candidates(): Iterable<string> {
  for (const name of entriesOf(NAMES_DIRECTORY)) yield `${NAMES_DIRECTORY}/${name}`
  for (const name of entriesOf('/proc')) if (/^[0-9]+$/.test(name)) yield `/proc/${name}/ns/net`
}

function entriesOf(directory: string): readonly string[] {
  try {
    return readdirSync(directory)
  } catch {
    return []
  }
}
