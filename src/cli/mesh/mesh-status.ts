/** The state of an installation, gathered from all its programs, and what is wrong with it. */
import { describeError } from '../../base/errors.ts'
import type { KubernetesApi } from '../../kubernetes/api.ts'
import { askAgent, askAll, askController, type ProgramPod, programPods, servingAgents } from './agents.ts'
import type { CertificateAnswer, ConfigDump, ControllerStatus, PodAnswer } from './answers.ts'

/** Problems that one line of text names; JSON has them all. */
const NAMED_MAX = 3

export interface AgentReport {
  readonly node: string
  readonly pod: string
  readonly version: string
  readonly isReady: boolean
  readonly restarts: number
  /** Null when the agent does not answer. */
  readonly captured: number | null
  readonly wanted: number | null
  readonly isConnected: boolean | null
  readonly generation: string | null
  /** It has everything that its controller has published; null when that is not known. */
  readonly isInSync: boolean | null
  readonly certificates: number | null
  /** When the first of its certificates ends. */
  readonly certificatesUntil: string | null
  readonly problems: readonly string[]
}

export interface ControllerReport {
  readonly pod: string
  readonly node: string
  readonly version: string
  readonly isReady: boolean
  readonly restarts: number
  readonly agents: number | null
  readonly generation: number | null
  readonly errors: number | null
  readonly problems: readonly string[]
}

export interface MeshStatus {
  readonly ok: boolean
  readonly namespace: string
  readonly controllers: readonly ControllerReport[]
  readonly agents: readonly AgentReport[]
}

/** Rejects with WeftError when the pods cannot be read, or there are none. */
export async function readMeshStatus(api: KubernetesApi, namespace: string, nowMs: number): Promise<MeshStatus> {
  const controllerPods = await programPods(api, namespace, 'controller')
  const answers = await askAll(
    controllerPods.filter(({ isReady }) => isReady),
    (pod) => askController<ControllerStatus>(api, pod, '/status'),
  )
  const controllers = controllerPods.map((pod) => {
    const found = answers.find(({ program }) => program === pod)
    return controllerReport(pod, found?.answer ?? null, found?.error ?? null)
  })
  const behind = agentsBehind(answers.flatMap(({ answer }) => (answer === null ? [] : [answer])))
  const agents = await askAll(await servingAgents(api, namespace), async (agent) => ({
    dump: await askAgent<ConfigDump>(api, agent, '/config_dump'),
    pods: await askAgent<readonly PodAnswer[]>(api, agent, '/pods'),
    certificates: await askAgent<readonly CertificateAnswer[]>(api, agent, '/certificates'),
  }))
  const reports = agents.map(({ program, answer, error }) => {
    if (answer === null) return silentAgent(program, error!)
    return agentReport(program, answer, behind.get(program.node) ?? null, nowMs)
  })
  const ok =
    controllers.some(({ isReady }) => isReady) &&
    [...controllers, ...reports].every(({ problems }) => problems.length === 0)
  return { ok, namespace, controllers, agents: reports }
}

/** One line of text. */
export function problemText(problems: readonly string[]): string {
  const more = problems.length > NAMED_MAX ? `; ${problems.length - NAMED_MAX} more` : ''
  return `${problems.slice(0, NAMED_MAX).join('; ')}${more}`
}

/** By node: whether the agent has what its controller has published. */
function agentsBehind(
  statuses: readonly ControllerStatus[],
): ReadonlyMap<string, { readonly isInSync: boolean; readonly text: string }> {
  const byNode = new Map<string, { isInSync: boolean; text: string }>()
  for (const { generation, agents } of statuses) {
    for (const agent of agents) {
      const isInSync = agent.generation === generation || agent.outstanding === 0
      const refused = agent.lastError === null ? '' : `; it refused: ${agent.lastError}`
      byNode.set(agent.node, { isInSync, text: `has generation ${agent.generation} of ${generation}${refused}` })
    }
  }
  return byNode
}

function controllerReport(pod: ProgramPod, status: ControllerStatus | null, error: Error | null): ControllerReport {
  const problems: string[] = []
  if (!pod.isReady && !pod.isEnding) problems.push('is not ready')
  if (error !== null) problems.push(describeError(error))
  return {
    pod: pod.name,
    node: pod.node,
    version: pod.version,
    isReady: pod.isReady,
    restarts: pod.restarts,
    agents: status?.agents.length ?? null,
    generation: status?.generation ?? null,
    errors: status?.messages.filter(({ severity }) => severity === 'error').length ?? null,
    problems,
  }
}

function agentReport(
  pod: ProgramPod,
  answer: { dump: ConfigDump; pods: readonly PodAnswer[]; certificates: readonly CertificateAnswer[] },
  sync: { readonly isInSync: boolean; readonly text: string } | null,
  nowMs: number,
): AgentReport {
  const { subscription } = answer.dump
  const problems: string[] = []
  if (!pod.isReady) problems.push('is not ready')
  if (!subscription.isConnected) problems.push(`has no controller: ${subscription.lastError ?? 'not connected yet'}`)
  if (subscription.rejectedCount > 0) problems.push(`refused configuration: ${subscription.lastRejection}`)
  if (sync !== null && !sync.isInSync) problems.push(sync.text)
  for (const { pod: name, state, reason, problem } of answer.pods) {
    if (state === 'pending') problems.push(`${name} is not captured yet${problem === null ? '' : `: ${problem}`}`)
    else if (state === 'captured' && problem !== null) problems.push(`${name}: ${problem}`)
    else if (state === 'refused' && reason === 'host_network') problems.push(`${name} uses the network of its node`)
  }
  const ends = answer.certificates.flatMap(({ notAfterMs }) => (notAfterMs === null ? [] : [notAfterMs]))
  for (const { identity, notAfterMs, lastError } of answer.certificates) {
    if (notAfterMs === null) problems.push(`no certificate for ${identity}: ${lastError ?? 'asked for'}`)
    else if (notAfterMs < nowMs) problems.push(`the certificate of ${identity} has expired: ${lastError ?? ''}`)
    else if (lastError !== null) problems.push(`the certificate of ${identity} was not renewed: ${lastError}`)
  }
  return {
    node: pod.node,
    pod: pod.name,
    version: pod.version,
    isReady: pod.isReady,
    restarts: pod.restarts,
    captured: answer.pods.filter(({ state }) => state === 'captured').length,
    wanted: answer.pods.length,
    isConnected: subscription.isConnected,
    generation: subscription.generation,
    isInSync: sync?.isInSync ?? null,
    certificates: ends.length,
    certificatesUntil: ends.length === 0 ? null : new Date(Math.min(...ends)).toISOString(),
    problems,
  }
}

function silentAgent(pod: ProgramPod, error: Error): AgentReport {
  return {
    node: pod.node,
    pod: pod.name,
    version: pod.version,
    isReady: pod.isReady,
    restarts: pod.restarts,
    captured: null,
    wanted: null,
    isConnected: null,
    generation: null,
    isInSync: null,
    certificates: null,
    certificatesUntil: null,
    problems: [describeError(error)],
  }
}
