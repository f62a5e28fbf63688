/**
 * Which pods of a node are to be captured, as far as anybody on the node knows: the running agent, or else the last good
 * configuration in its state directory.
 */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { silentLog } from '../base/log.ts'
import type { LocalPod, Workload } from '../model/workload.ts'
import { ResourceStore } from './resource-store.ts'
import { readSnapshot, SNAPSHOT_FILE } from './snapshot-file.ts'

/** A pod that is to be captured. */
export interface WantedPod {
  /** `namespace/name`. */
  readonly name: string
  readonly netns: string
  readonly addresses: readonly string[]
}

/** What somebody on the node knows. */
export interface WantedPods {
  /** Who said so, for people. */
  readonly source: string
  readonly pods: readonly WantedPod[]
}

/** An agent's main thread that does not answer within this time stands still. */
const ANSWER_MS = 2000

/** What the agent's admin endpoint says. */
export type AgentAnswer =
  | { readonly kind: 'answer'; readonly pinDirectory: string; readonly wanted: WantedPods }
  /** Nobody listens. */
  | { readonly kind: 'absent' }
  /** It takes the connection and says nothing: its main thread stands still. */
  | { readonly kind: 'silent' }

/** Asks the agent at `address`. Never rejects. */
export async function askAgent(address: string): Promise<AgentAnswer> {
  try {
    const response = await fetch(`http://${address}/config_dump`, { signal: AbortSignal.timeout(ANSWER_MS) })
    const dump = (await response.json()) as {
      readonly settings: { readonly pinDirectory: string }
      readonly workloads: readonly Workload[]
      readonly pods: readonly LocalPod[]
    }
    const wanted = { source: `the agent at ${address}`, pods: wantedPods(dump.pods, dump.workloads) }
    return { kind: 'answer', pinDirectory: dump.settings.pinDirectory, wanted }
  } catch (error) {
    return { kind: (error as Error).name === 'TimeoutError' ? 'silent' : 'absent' }
  }
}

/** Reads an agent's state directory. Null when there is no usable configuration in it. */
export async function readWantedPods(stateDirectory: string): Promise<WantedPods | null> {
  const path = join(stateDirectory, SNAPSHOT_FILE)
  const store = new ResourceStore()
  try {
    const { node } = JSON.parse(await readFile(path, 'utf8')) as { node: string }
    if ((await readSnapshot(path, node, store, silentLog)) === 0) return null
  } catch {
    return null
  }
  const { pods, workloads } = store.takeDelta()
  return { source: path, pods: wantedPods(pods, workloads) }
}

function wantedPods(pods: readonly LocalPod[], workloads: readonly Workload[]): WantedPod[] {
  const byUid = new Map(workloads.map((workload) => [workload.uid, workload]))
  return pods.map(({ uid, netns }) => {
    const workload = byUid.get(uid)
    const name = workload === undefined ? uid : `${workload.namespace}/${workload.name}`
    return { name, netns, addresses: workload?.addresses ?? [] }
  })
}
