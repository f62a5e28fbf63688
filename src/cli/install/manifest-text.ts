/** deploy/manifests/weft.yaml: the installation with its defaults, for `kubectl apply`. */
import { yamlStream } from '../yaml-text.ts'
import { SYSTEM_NAMESPACE } from './names.ts'
import { installObjects } from './objects.ts'
import { accessReasons } from './rbac-objects.ts'
import { installValues } from './values.ts'

const HEAD = `# Weft with the defaults of deploy/helm/weft/values.yaml. "weft render --only objects" prints it with other values.
# The CRDs of the mesh kinds lie in deploy/crds; another mesh may have installed its own, which do as well.
#
#   kubectl apply --server-side -f deploy/crds -f deploy/manifests/weft.yaml
`

/** For one version of Weft. */
export function manifestText(version: string): string {
  const values = installValues({ namespace: { create: true } })
  const objects = installObjects({ values, namespace: SYSTEM_NAMESPACE, version })
  return `${HEAD}${yamlStream(objects, accessReasons)}`
}
