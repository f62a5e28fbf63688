/** Nodes that agents could not run on, and clocks that certificates would suffer from. Pure. */
import type { KubernetesObject } from '../../kubernetes/object.ts'
import type { Requirement } from '../machine.ts'

/** Oldest kernel of a node; see kernel/probe.ts. */
const KERNEL_MIN: readonly [number, number] = [5, 17]
/** The native part is built for these. */
const ARCHITECTURES: ReadonlySet<string> = new Set(['amd64', 'arm64'])
/** Nodes that one line names. */
const NAMED_MAX = 5
/** Certificates begin a minute before they are signed, so much may a clock be slow; and kubelets renew every ten seconds. */
const CLOCK_BEHIND_MS_MAX = 60_000
/** A lease of the future can only come from a clock that is fast; this is for the way to here. */
const CLOCK_AHEAD_MS_MAX = 5000

interface NodeFacts {
  readonly kernelVersion?: string
  readonly operatingSystem?: string
  readonly architecture?: string
}

/** Of the Linux nodes of a cluster. */
export function nodeRequirements(nodes: readonly KubernetesObject[]): readonly Requirement[] {
  const linux = nodes.filter((node) => factsOf(node).operatingSystem !== 'windows')
  const windows = nodes.length - linux.length
  return [
    row(
      `node kernels >= ${KERNEL_MIN.join('.')}`,
      linux,
      (node) => isKernelNewEnough(factsOf(node).kernelVersion ?? ''),
      (node) => factsOf(node).kernelVersion ?? 'unknown',
      'upgrade them, or keep agents away from them with agent.nodeSelector: their pods stay outside the mesh',
    ),
    row(
      'node architectures',
      linux,
      (node) => ARCHITECTURES.has(factsOf(node).architecture ?? ''),
      (node) => factsOf(node).architecture ?? 'unknown',
      `there are agents for ${[...ARCHITECTURES].join(' and ')}`,
    ),
    ...(windows === 0
      ? []
      : [
          {
            name: 'Windows nodes',
            isMet: false,
            isRequired: false,
            detail: `${windows}: their pods stay outside the mesh`,
          },
        ]),
  ]
}

/** `leases` are those of kube-node-lease; `nowMs` is the API server's time. */
export function clockRequirement(leases: readonly KubernetesObject[], nowMs: number): Requirement {
  const wrong = leases.flatMap(({ metadata, ...lease }) => {
    const { renewTime } = (lease['spec'] ?? {}) as { readonly renewTime?: string }
    const aheadMs = renewTime === undefined ? 0 : Date.parse(renewTime) - nowMs
    if (aheadMs > CLOCK_AHEAD_MS_MAX) return [`${metadata.name} is ${Math.round(aheadMs / 1000)} s ahead`]
    if (-aheadMs > CLOCK_BEHIND_MS_MAX) {
      return [`${metadata.name} is ${Math.round(-aheadMs / 1000)} s behind, or its kubelet does not run`]
    }
    return []
  })
  const name = 'node clocks'
  if (wrong.length === 0)
    return { name, isMet: true, isRequired: false, detail: `${leases.length} nodes agree with the API server` }
  const detail = `${some(wrong)}: certificates seem not to be valid there; set the clock (NTP)`
  return { name, isMet: false, isRequired: false, detail }
}

function row(
  name: string,
  nodes: readonly KubernetesObject[],
  isFine: (node: KubernetesObject) => boolean,
  what: (node: KubernetesObject) => string,
  remedy: string,
): Requirement {
  const bad = nodes.filter((node) => !isFine(node))
  if (bad.length === 0) {
    const kinds = [...new Set(nodes.map(what))].sort()
    return { name, isMet: true, isRequired: true, detail: `${nodes.length} nodes: ${some(kinds)}` }
  }
  const named = bad.map((node) => `${node.metadata.name} has ${what(node)}`)
  return { name, isMet: false, isRequired: true, detail: `${some(named)}: ${remedy}` }
}

function some(texts: readonly string[]): string {
  const more = texts.length > NAMED_MAX ? ` and ${texts.length - NAMED_MAX} more` : ''
  return `${texts.slice(0, NAMED_MAX).join(', ')}${more}`
}

function factsOf(node: KubernetesObject): NodeFacts {
  return ((node['status'] ?? {}) as { readonly nodeInfo?: NodeFacts }).nodeInfo ?? {}
}

function isKernelNewEnough(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map((part) => Number.parseInt(part, 10))
  return major > KERNEL_MIN[0] || (major === KERNEL_MIN[0] && minor >= KERNEL_MIN[1])
}
