/**
 * Where the cgroup2 hierarchy is mounted: at /sys/fs/cgroup itself, or, on hybrid hosts, below it.
 */
import { readFileSync } from 'node:fs'

/** Mount point of the first cgroup2 file system, or null. `mounts` is the text of /proc/self/mounts. */
export function findCgroup2Mount(mounts: string = readFileSync('/proc/self/mounts', 'utf8')): string | null {
  for (const line of mounts.split('\n')) {
    const [, mountPoint, type] = line.split(' ')
    // The kernel writes spaces in paths as \040.
    if (type === 'cgroup2' && mountPoint !== undefined) return mountPoint.replaceAll('\\040', ' ')
  }
  return null
}
