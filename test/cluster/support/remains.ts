/** Takes away all of a cluster that can be found by its name, whatever state it is in. */
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { cgroupsOfCluster, endCgroupsOfCluster } from './cgroups.ts'
import { CLUSTERS_DIRECTORY, ClusterFiles } from './cluster-files.ts'

/** Kills the machines, and with them their namespaces; then removes cgroups and directory. True when there was something. */
export async function removeRemains(name: string): Promise<boolean> {
  const { directory } = new ClusterFiles(name)
  if (cgroupsOfCluster(name).length === 0 && !existsSync(directory)) return false
  await endCgroupsOfCluster(name)
  rmSync(directory, { recursive: true, force: true })
  if (existsSync(CLUSTERS_DIRECTORY) && readdirSync(CLUSTERS_DIRECTORY).length === 0) {
    rmSync(CLUSTERS_DIRECTORY, { recursive: true, force: true })
  }
  return true
}
