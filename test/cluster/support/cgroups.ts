/**
 * The cgroups of a cluster's machines: one for each machine in every hierarchy of the host. What runs in them is the
 * cluster's, whoever started it, and what is left of a cluster is found by their names.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

/** Every controller's hierarchy is mounted below, on hosts with cgroup v1. */
const CGROUP_ROOT = '/sys/fs/cgroup'

/** Killed processes are gone within moments; disks may hold one up. */
const END_TIMEOUT_MS = 30_000

/** The machine's group in every hierarchy, made or not. */
export function machineCgroups(clusterName: string, machineName: string): readonly string[] {
  const group = `weft-cluster-${clusterName}-${machineName}`
  return hierarchies().map((path) => join(path, group))
}

/** All groups of all machines of a cluster that exist. */
export function cgroupsOfCluster(clusterName: string): readonly string[] {
  const prefix = `weft-cluster-${clusterName}-`
  const machines = /^(control-plane|image-store|node[0-9]+)$/
  return hierarchies().flatMap((path) =>
    readdirSync(path)
      .filter((name) => name.startsWith(prefix) && machines.test(name.slice(prefix.length)))
      .map((name) => join(path, name)),
  )
}

export function makeCgroup(path: string): void {
  mkdirSync(path, { recursive: true })
  // New groups of cpuset v1 have neither processors nor memory, and take no process before they do.
  for (const file of ['cpuset.cpus', 'cpuset.mems']) {
    const own = join(path, file)
    if (existsSync(own)) writeFileSync(own, readFileSync(join(path, '..', file)))
  }
}

/** Who writes its process id there becomes a member. */
export function procsFiles(cgroups: readonly string[]): readonly string[] {
  return cgroups.map((path) => join(path, 'cgroup.procs'))
}

/** Kills all that runs in the machines of a cluster, and removes their groups. */
export function endCgroupsOfCluster(clusterName: string): Promise<void> {
  return endCgroups(() => cgroupsOfCluster(clusterName))
}

/** `find` is asked again until it finds nothing that cannot be removed: a start that is cut short may add groups. */
export async function endCgroups(find: () => readonly string[]): Promise<void> {
  const deadline = performance.now() + END_TIMEOUT_MS
  for (;;) {
    const left = find().filter((path) => !removeCgroup(path))
    if (left.length === 0) return
    if (performance.now() > deadline) throw new Error(`processes do not end: see cgroup.procs in ${left.join(', ')}`)
    await delay(20)
  }
}

/** False when something lives there, which is killed. */
function removeCgroup(path: string): boolean {
  let isEmpty = true
  try {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      if (entry.isDirectory() && !removeCgroup(join(path, entry.name))) isEmpty = false
    }
    for (const pid of readFileSync(join(path, 'cgroup.procs'), 'utf8').split('\n')) {
      if (pid === '') continue
      isEmpty = false
      process.kill(Number(pid), 'SIGKILL')
    }
    if (isEmpty) rmdirSync(path)
  } catch {
    // A process or a group went between two looks: the next look tells.
    return !existsSync(path)
  }
  return isEmpty
}

function hierarchies(): readonly string[] {
  if (existsSync(join(CGROUP_ROOT, 'cgroup.controllers'))) return [CGROUP_ROOT]
  return readdirSync(CGROUP_ROOT, { withFileTypes: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(CGROUP_ROOT, entry.name))
    .filter((path) => existsSync(join(path, 'cgroup.procs')))
}
