/** Flags of the commands that work with a cluster, and the connection that they describe. */
import type { FlagValues } from '../base/flags.ts'
import { optionalFlag, parseText, textFlag } from '../base/settings.ts'
import { KubernetesApi } from '../kubernetes/api.ts'
import { parseNamespace } from './install/given.ts'
import { SYSTEM_NAMESPACE } from './install/names.ts'

export const clusterFlags = {
  kubeconfig: optionalFlag(
    { name: 'kubeconfig', doc: 'File that says where the cluster is. Default: KUBECONFIG, or ~/.kube/config.' },
    'FILE',
    parseText,
  ),
  context: optionalFlag({ name: 'context', doc: 'Context of that file. Default: its current one.' }, 'NAME', parseText),
}

/** Of commands that ask the programs of an installation. */
export const meshNamespaceFlag = textFlag(
  { name: 'weft-namespace', doc: 'Where Weft is installed.' },
  'NAME',
  SYSTEM_NAMESPACE,
  parseNamespace,
)

/** Reads the configuration; connects to nobody yet. Rejects with WEFT_CONFIG. */
export async function openCluster({ kubeconfig, context }: FlagValues<typeof clusterFlags>): Promise<KubernetesApi> {
  return await KubernetesApi.open({ kubeconfig, context })
}
