/**
 * Whose connections are encrypted on one node too: by default pods of one node talk without TLS, because their traffic
 * never leaves the kernel. An annotation or label of a namespace says otherwise for connections to its pods; one of the
 * root namespace says it for the whole mesh, and a namespace's own overrules it.
 */
import { findings } from './messages.ts'
import type { MeshObject } from './object.ts'
import type { Run } from './settings.ts'

const ENCRYPT_SAME_NODE = 'weft.dev/encrypt-same-node'

/** Tells whether connections to pods of a namespace must be encrypted on one node too. Unknown values are reported. */
export function sameNodeEncryption(namespaces: readonly MeshObject[], run: Run): (namespace: string) => boolean {
  const said = new Map<string, boolean>()
  for (const object of namespaces) {
    for (const place of ['labels', 'annotations'] as const) {
      const written = object[place][ENCRYPT_SAME_NODE]
      if (written === 'true' || written === 'false') said.set(object.name, written === 'true')
      else if (written !== undefined) {
        run.log.add(object, ['metadata', place, ENCRYPT_SAME_NODE], findings.badEncryptSameNode(written))
      }
    }
  }
  const ofMesh = said.get(run.settings.rootNamespace) ?? false
  return (namespace) => said.get(namespace) ?? ofMesh
}
