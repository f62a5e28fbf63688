/**
 * Which pods of a node are to be captured: as the controller says, the running agent, or the last good configuration in the
 * agent's state directory.
 */
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { systemClock } from '../base/clock.ts'
import { WeftError } from '../base/errors.ts'
import { silentLog } from '../base/log.ts'
import { EMPTY_DELTA } from '../model/delta.ts'
import type { Policy } from '../model/policy.ts'
import { Snapshot } from '../model/snapshot.ts'
import type { LocalPod, Workload } from '../model/workload.ts'
import { Certificates } from './certificates.ts'
import { ControllerLink } from './controller-link.ts'
import { NodeCredentialFiles } from './node-credential.ts'
import { PodRecords, RECORDS_DIRECTORY } from './pod-records.ts'
import { isStrict } from './pods.ts'
import { ResourceStore } from './resource-store.ts'
import { readSnapshot, SNAPSHOT_FILE } from './snapshot-file.ts'
import { Subscription } from './subscription.ts'

/** A pod that is to be captured. */
export interface WantedPod {
  readonly uid: string
  /** `namespace/name`. */
  readonly name: string
  /** Empty where nobody says it. */
  readonly netns: string
  readonly addresses: readonly string[]
  /** It is to fail closed. */
  readonly isStrict: boolean
}

/** What somebody on the node knows. */
export interface WantedPods {
  /** Who said so, for people. */
  readonly source: string
  readonly pods: readonly WantedPod[]
}

/** An agent's main thread that does not answer within this time stands still. */
const ANSWER_MS = 2000

/** A controller that has not said everything by then is not waited for. */
const CONTROLLER_MS = 5000

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
      readonly policies: readonly Policy[]
      readonly pods: readonly LocalPod[]
    }
    const { workloads, policies, pods } = dump
    const snapshot = Snapshot.empty.apply({ ...EMPTY_DELTA, workloads, policies, pods })
    const wanted = { source: `the agent at ${address}`, pods: wantedPods(snapshot) }
    return { kind: 'answer', pinDirectory: dump.settings.pinDirectory, wanted }
  } catch (error) {
    return { kind: (error as Error).name === 'TimeoutError' ? 'silent' : 'absent' }
  }
}

/** How to ask the controller. */
export interface ControllerQuestion {
  /** `host:port`. */
  readonly address: string
  /** Directory of the node's credential. */
  readonly credentials: string
}

/**
 * Asks the controller, as the node's agent would: it alone knows of pods that came while there was no agent. Rejects with
 * WeftError: WEFT_CERTIFICATE, WEFT_CONTROLLER.
 */
export async function fetchWantedPods({ address, credentials }: ControllerQuestion): Promise<WantedPods> {
  const certificates = await Certificates.open({
    nodeCredential: new NodeCredentialFiles(credentials),
    // Nothing is asked for: the node's own certificate is enough.
    requestCertificate: () => Promise.reject(new WeftError('WEFT_CERTIFICATE', 'a check requests no certificate')),
    validitySeconds: 0,
    clock: systemClock,
    log: silentLog,
    onMaterial: () => {},
    onRemoved: () => {},
    onNodeCredential: () => {},
  })
  const { node, trustDomain } = certificates
  const link = new ControllerLink({ address, trustDomain, credential: () => certificates.nodeCredential() })
  let snapshot = Snapshot.empty
  let complete: () => void = () => {}
  const completed = new Promise<void>((resolve) => {
    complete = resolve
  })
  const subscription = new Subscription({
    connect: () => link.connect(),
    node,
    snapshotFile: null,
    clock: systemClock,
    log: silentLog,
    onDelta: (delta) => {
      snapshot = snapshot.apply(delta)
    },
    onComplete: () => complete(),
  })
  const timeout = new AbortController()
  try {
    await subscription.start()
    const isComplete = await Promise.race([
      completed.then(() => true),
      delay(CONTROLLER_MS, false, { signal: timeout.signal }),
    ])
    const { lastError } = subscription.status()
    if (!isComplete) {
      const what = `the controller at ${address} did not say which pods ${node} has`
      throw new WeftError('WEFT_CONTROLLER', `${what}: ${lastError ?? `no answer in ${CONTROLLER_MS / 1000} s`}`)
    }
  } finally {
    timeout.abort()
    await subscription.stop()
    link.close()
    await certificates.stop()
  }
  return { source: `the controller at ${address}`, pods: wantedPods(snapshot) }
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
  const pods = wantedPods(Snapshot.empty.apply(store.takeDelta()))
  // On Kubernetes it was the agent that has found them.
  const hasRecords = existsSync(join(stateDirectory, RECORDS_DIRECTORY))
  const known = hasRecords ? new PodRecords(stateDirectory, silentLog).all() : []
  const records = new Map(known.map((record) => [record.uid, record]))
  return {
    source: path,
    pods: pods.map((pod) => ({ ...pod, netns: pod.netns || (records.get(pod.uid)?.netns ?? '') })),
  }
}

function wantedPods(snapshot: Snapshot): WantedPod[] {
  return [...snapshot.pods.values()].map((pod) => {
    const { uid, netns } = pod
    const workload = snapshot.workloads.get(uid)
    if (workload === undefined) return { uid, name: uid, netns, addresses: [], isStrict: false }
    const name = `${workload.namespace}/${workload.name}`
    return { uid, name, netns, addresses: workload.addresses, isStrict: isStrict(snapshot, pod, workload) }
  })
}
