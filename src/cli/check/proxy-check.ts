/**
 * Is what should be captured really captured, in the whole cluster? The API server says which pods are to be in the mesh,
 * each agent which it has captured, verified in its kernel; what the two do not agree on is told.
 */
import { describeError } from '../../base/errors.ts'
import type { KubernetesApi } from '../../kubernetes/api.ts'
import type { Requirement } from '../machine.ts'
import { askAgent, askAll, servingAgents } from '../mesh/agents.ts'
import type { CertificateAnswer, PodAnswer } from '../mesh/answers.ts'
import { problemText, readMeshStatus } from '../mesh/mesh-status.ts'
import { spanText } from '../mesh/proxy-views.ts'
import { type MeshedPod, meshedPods, namespaceLabels } from './meshed-pods.ts'

/** Pods that are named. */
const NAMED_MAX = 5

/** Rejects with WeftError when the programs cannot be found. */
export async function proxyRequirements(
  api: KubernetesApi,
  namespace: string,
  isReadingIstioLabels: boolean,
  nowMs: number,
): Promise<readonly Requirement[]> {
  const wanted = (await meshedPods(api, await namespaceLabels(api), isReadingIstioLabels)).filter(
    ({ isCapturable }) => isCapturable,
  )
  const agents = await servingAgents(api, namespace)
  const answers = await askAll(agents, async (agent) => ({
    pods: await askAgent<readonly PodAnswer[]>(api, agent, '/pods'),
    certificates: await askAgent<readonly CertificateAnswer[]>(api, agent, '/certificates'),
  }))
  const rows: Requirement[] = []
  for (const { program, answer, error } of answers) {
    const here = wanted.filter(({ node }) => node === program.node)
    if (answer === null) {
      rows.push({ name: `node ${program.node}`, isMet: false, isRequired: true, detail: describeError(error!) })
      continue
    }
    rows.push(captureRow(program.node, here, answer.pods), certificateRow(program.node, answer.certificates, nowMs))
  }
  const served = new Set(agents.map(({ node }) => node))
  const alone = wanted.filter(({ node }) => !served.has(node))
  if (alone.length > 0) {
    const detail = `there is no agent on the nodes of ${alone.length} pods of the mesh: ${named(alone)}`
    rows.push({ name: 'nodes without an agent', isMet: false, isRequired: true, detail })
  }
  const status = await readMeshStatus(api, namespace, nowMs)
  for (const { node, generation, isInSync, isConnected, problems } of status.agents) {
    const isMet = isInSync !== false && isConnected === true
    const detail = isMet ? `generation ${generation}, in step with its controller` : problemText(problems)
    rows.push({ name: `node ${node} configuration`, isMet, isRequired: true, detail })
  }
  return rows
}

function captureRow(node: string, wanted: readonly MeshedPod[], pods: readonly PodAnswer[]): Requirement {
  const byUid = new Map(pods.map((pod) => [pod.podUid, pod]))
  const byName = new Map(pods.map((pod) => [pod.pod, pod]))
  const problems: string[] = []
  for (const pod of wanted) {
    const name = `${pod.namespace}/${pod.name}`
    const known = byUid.get(pod.uid) ?? byName.get(name)
    if (known === undefined) problems.push(`${name} is not known to the agent: its connections go past the mesh`)
    else if (known.state !== 'captured')
      problems.push(`${name} is ${known.state}: ${known.reason ?? known.problem ?? ''}`)
    else if (known.problem !== null) problems.push(`${name}: ${known.problem}`)
  }
  const captured = wanted.length - problems.length
  const name = `node ${node} pods`
  if (problems.length === 0)
    return { name, isMet: true, isRequired: true, detail: `${captured} of ${wanted.length} captured` }
  return {
    name,
    isMet: false,
    isRequired: true,
    detail: `${captured} of ${wanted.length} captured; ${problemText(problems)}`,
  }
}

function certificateRow(node: string, certificates: readonly CertificateAnswer[], nowMs: number): Requirement {
  const name = `node ${node} certificates`
  const bad = certificates.flatMap(({ identity, notAfterMs, lastError }) => {
    if (notAfterMs === null) return [`none for ${identity}: ${lastError ?? 'asked for'}`]
    if (notAfterMs <= nowMs) return [`that of ${identity} has expired: ${lastError ?? ''}`]
    return lastError === null ? [] : [`that of ${identity} was not renewed: ${lastError}`]
  })
  if (bad.length > 0) return { name, isMet: false, isRequired: true, detail: problemText(bad) }
  const ages = certificates.flatMap(({ notBeforeMs }) => (notBeforeMs === null ? [] : [nowMs - notBeforeMs]))
  const ends = certificates.flatMap(({ notAfterMs }) => (notAfterMs === null ? [] : [notAfterMs - nowMs]))
  if (ends.length === 0) return { name, isMet: true, isRequired: true, detail: 'none is needed yet' }
  const detail = `${ends.length}, the oldest of ${spanText(Math.max(...ages))}, the first ends in ${spanText(Math.min(...ends))}`
  return { name, isMet: true, isRequired: true, detail }
}

function named(pods: readonly MeshedPod[]): string {
  const names = pods.slice(0, NAMED_MAX).map(({ namespace, name }) => `${namespace}/${name}`)
  return `${names.join(' ')}${pods.length > NAMED_MAX ? ' ...' : ''}`
}
