/**
 * Whether a pod may change its own network: then rules and routes of its own could lead its connections past the mesh.
 * Read leniently, like the ports that are probed.
 */
import type { MeshObject } from './object.ts'
import { isTree, own } from './object.ts'

const CONTAINER_LISTS = ['containers', 'initContainers'] as const
const CAPABILITIES: readonly unknown[] = ['NET_ADMIN', 'CAP_NET_ADMIN', 'ALL']

/** Path of the first setting that allows it; null when none does. */
export function networkPrivilegeOf({ spec }: MeshObject): readonly (string | number)[] | null {
  for (const list of CONTAINER_LISTS) {
    const containers = child(spec, list)
    if (!Array.isArray(containers)) continue
    for (const [i, container] of containers.entries()) {
      const context = child(container, 'securityContext')
      const path = ['spec', list, i, 'securityContext'] as const
      if (child(context, 'privileged') === true) return [...path, 'privileged']
      const added = child(child(context, 'capabilities'), 'add')
      if (Array.isArray(added) && added.some((name) => CAPABILITIES.includes(name))) {
        return [...path, 'capabilities', 'add']
      }
    }
  }
  return null
}

function child(value: unknown, name: string): unknown {
  return isTree(value) ? own(value, name) : undefined
}
