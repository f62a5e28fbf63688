/**
 * The namespaces of the mesh, written down for the CNI plugin (native/cni/namespaces.c), which has to know them while no
 * agent answers: also after the machine was restarted. The file is replaced as a whole, and only when it changes.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { isPeerAuthentication, POLICY_SCOPE_GLOBAL } from '../model/policy.ts'
import type { Snapshot } from '../model/snapshot.ts'
import { FAILURE_BY_POLICY, FAILURE_CLOSED, type FailureMode } from '../model/workload.ts'

/** In the agent's state directory. */
export const CNI_NAMESPACES_FILE = 'cni-namespaces'

const FIRST_LINE = 'weft-cni 1'
const LAST_LINE = 'end'

/** True when a namespace's pods must not start unmeshed, by name. */
export type MeshNamespaces = ReadonlyMap<string, boolean>

/** True when a pod with that failure mode, of that namespace, must not start unmeshed. */
export type ClosedTest = (namespace: string, failureMode: FailureMode) => boolean

/**
 * By policy a namespace is closed when plaintext is forbidden to any of its pods: which one a pod is that has just been
 * made is not known to whoever has to decide.
 */
export function closedTest({ policies }: Pick<Snapshot, 'policies'>): ClosedTest {
  const strict = new Set<string>()
  let isStrictEverywhere = false
  for (const policy of policies.values()) {
    if (!isPeerAuthentication(policy)) continue
    if (policy.scope === POLICY_SCOPE_GLOBAL) isStrictEverywhere = true
    else strict.add(policy.namespace)
  }
  return (namespace, mode) =>
    mode === FAILURE_BY_POLICY ? isStrictEverywhere || strict.has(namespace) : mode === FAILURE_CLOSED
}

/** Namespaces that have pods in the mesh, or may not have any that start without anybody to ask. */
export function meshNamespaces(snapshot: Snapshot): MeshNamespaces {
  const isClosed = closedTest(snapshot)
  const closed = new Map<string, boolean>()
  for (const { name, failureMode } of snapshot.namespaces.values()) closed.set(name, isClosed(name, failureMode))
  return closed
}

/** See the head of the file. */
export class CniNamespacesFile {
  readonly path: string
  private written: string | null = null

  constructor(stateDirectory: string) {
    this.path = join(stateDirectory, CNI_NAMESPACES_FILE)
  }

  /** What an earlier agent has written; nothing when that cannot be read. */
  read(): MeshNamespaces {
    const namespaces = new Map<string, boolean>()
    let text: string
    try {
      text = readFileSync(this.path, 'utf8')
    } catch {
      return namespaces
    }
    const lines = text.split('\n')
    if (lines[0] !== FIRST_LINE || lines.at(-2) !== LAST_LINE) return namespaces
    for (const line of lines.slice(1, -2)) {
      const [name = '', mode] = line.split(' ')
      if (mode === 'open' || mode === 'closed') namespaces.set(name, mode === 'closed')
    }
    return namespaces
  }

  /** Throws the system call's error. */
  write(namespaces: MeshNamespaces): void {
    const lines = [...namespaces].map(([name, isClosed]) => `${name} ${isClosed ? 'closed' : 'open'}`).sort()
    const text = `${[FIRST_LINE, ...lines, LAST_LINE].join('\n')}\n`
    if (text === this.written) return
    const staged = `${this.path}.new`
    writeFileSync(staged, text, { mode: 0o644 })
    renameSync(staged, this.path)
    this.written = text
  }
}
