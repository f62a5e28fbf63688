/**
 * Where things of the test cluster are: a directory for each cluster, which goes with it, and one cache for what takes
 * minutes to build, which stays.
 */
import { homedir } from 'node:os'
import { join } from 'node:path'

/** The checkout that these files belong to. */
export const REPOSITORY = join(import.meta.dirname, '../../..')

/** All clusters of this machine, by name. */
export const CLUSTERS_DIRECTORY = '/tmp/weft-cluster'

/** Components and images; `WEFT_CLUSTER_CACHE` names another place. */
export const CACHE_DIRECTORY = process.env['WEFT_CLUSTER_CACHE'] ?? join(homedir(), '.cache/weft-cluster')

/** Names become parts of host names, cgroups and a socket's path, which has room for 107 bytes. */
const NAME = /^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/

/** Throws when a cluster cannot be called so. */
export function checkClusterName(name: string): void {
  if (NAME.test(name)) return
  throw new Error(`"${name}" cannot name a cluster: up to 32 of a-z, 0-9 and "-", as "main" or "issue-7"`)
}

/** What lies in a cluster's directory. */
export class ClusterFiles {
  readonly name: string
  readonly directory: string

  constructor(name: string) {
    checkClusterName(name)
    this.name = name
    this.directory = join(CLUSTERS_DIRECTORY, name)
  }

  /** Of the supervisor. */
  get socket(): string {
    return join(this.directory, 'control.sock')
  }

  /** The supervisor's own log. */
  get supervisorLog(): string {
    return join(this.directory, 'supervisor.log')
  }

  get keys(): string {
    return join(this.directory, 'keys')
  }

  get adminKubeconfig(): string {
    return this.kubeconfig('admin')
  }

  kubeconfig(user: string): string {
    return join(this.directory, `${user}.kubeconfig`)
  }

  machine(name: string): string {
    return join(this.directory, name)
  }
}
