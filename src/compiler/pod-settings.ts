/** What annotations of namespaces and pods say about how pods are captured. A pod's own overrules its namespace's. */
import { canonicalAddress } from '../base/address.ts'
import { FAILURE_BY_POLICY, FAILURE_CLOSED, FAILURE_OPEN, type FailureMode } from '../model/workload.ts'
import { findings } from './messages.ts'
import type { MeshObject } from './object.ts'
import type { Run } from './settings.ts'

const FAILURE_MODE_ANNOTATION = 'weft.dev/failure-mode'

/**
 * What an annotation of a namespace or pod says about connections while the agent does not serve; `inherited` when it says
 * nothing, or something unknown (reported).
 */
export function failureModeOf(object: MeshObject, inherited: FailureMode, run: Run): FailureMode {
  const written = object.annotations[FAILURE_MODE_ANNOTATION]
  if (written === 'open') return FAILURE_OPEN
  if (written === 'closed') return FAILURE_CLOSED
  if (written !== undefined) {
    run.log.add(object, ['metadata', 'annotations', FAILURE_MODE_ANNOTATION], findings.badFailureMode(written))
  }
  return inherited
}

/** The failure modes that namespaces give their pods, by name; those that say nothing are left out. */
export function failureModes(namespaces: readonly MeshObject[], run: Run): ReadonlyMap<string, FailureMode> {
  const modes = new Map<string, FailureMode>()
  for (const object of namespaces) {
    const mode = failureModeOf(object, FAILURE_BY_POLICY, run)
    if (mode !== FAILURE_BY_POLICY) modes.set(object.name, mode)
  }
  return modes
}

const DNS_CAPTURE_ANNOTATION = 'weft.dev/dns-capture'

/**
 * True when an annotation of a namespace or pod says that questions to DNS resolvers are not captured; `inherited` when it
 * says nothing, or something unknown (reported).
 */
export function isDnsExempt(object: MeshObject, inherited: boolean, run: Run): boolean {
  const written = object.annotations[DNS_CAPTURE_ANNOTATION]
  if (written === 'true') return false
  if (written === 'false') return true
  if (written !== undefined) {
    run.log.add(object, ['metadata', 'annotations', DNS_CAPTURE_ANNOTATION], findings.badDnsCapture(written))
  }
  return inherited
}

/** The names of namespaces whose pods are exempt, unless they say otherwise themselves. */
export function dnsExemptNamespaces(namespaces: readonly MeshObject[], run: Run): ReadonlySet<string> {
  return new Set(namespaces.filter((object) => isDnsExempt(object, false, run)).map(({ name }) => name))
}

const NETNS_ANNOTATION = 'weft.dev/netns'

/** The network namespace that a pod's annotation names; empty when it names none, and the agent must find it. */
export function netnsOf(object: MeshObject, run: Run): string {
  const written = object.annotations[NETNS_ANNOTATION]
  if (written === undefined) return ''
  const isPath = /^\/[\x21-\x7e]+$/.test(written) && !written.split('/').includes('..')
  const isLoopback = written.startsWith('loopback:') && canonicalAddress(written.slice('loopback:'.length)) !== null
  if (isPath || isLoopback) return written
  run.log.add(object, ['metadata', 'annotations', NETNS_ANNOTATION], findings.badNetns(written))
  return ''
}
