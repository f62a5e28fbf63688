/** What an installation could leave in a cluster: taken before it, and looked for again after it was removed. */
import type { Cluster } from './cluster.ts'

/** Everything on a node that an agent could leave. */
const LOOK = `
  ls -A /etc/cni/net.d /opt/cni/bin
  ls -dA /var/lib/weft /run/weft 2>/dev/null
  find /sys/fs/bpf -mindepth 1 ! -name '*.debug'
  ls -A /run/netns | wc -l
  grep -c bpf /proc/mounts
`

/** Kinds of objects that an installation makes, or makes others make. */
const KINDS = [
  'namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,validatingwebhookconfigurations',
  'serviceaccounts,roles,rolebindings,services,endpointslices,deployments,replicasets,daemonsets,jobs',
  'controllerrevisions,poddisruptionbudgets,secrets,configmaps,leases,pods',
].join(',')

export interface Remains {
  readonly nodes: string
  readonly objects: readonly string[]
}

export async function remains(cluster: Cluster): Promise<Remains> {
  const nodes: string[] = []
  for (const { name } of cluster.state.machines.filter((machine) => machine.name.startsWith('node'))) {
    nodes.push((await cluster.runIn(name, ['sh', '-c', LOOK])).stdout)
  }
  const { items } = await cluster.get<{ items: { kind: string; metadata: { name: string; namespace?: string } }[] }>(
    ...[KINDS, '-A'],
  )
  const all = items.map(({ kind, metadata }) => `${kind} ${metadata.namespace ?? ''}/${metadata.name}`)
  // Of the cluster's own programs, which take them when they please.
  return { nodes: nodes.join('\n'), objects: all.filter((name) => !/^Lease kube-/.test(name)).sort() }
}
