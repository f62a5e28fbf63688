/**
 * Resources of the control protocol <-> the model. The only place where what comes over the wire is validated: a
 * resource that `decodeResource` returns can be used without looking again, and one that cannot be used is a WeftError
 * WEFT_RESOURCE that names the resource and the field.
 */
import { WeftError } from '../base/errors.ts'
import type { MeshNamespace } from '../model/namespace.ts'
import type { Policy } from '../model/policy.ts'
import type { Traffic } from '../model/route.ts'
import type { Service } from '../model/service.ts'
import { FAILURE_BY_POLICY, FAILURE_CLOSED, FAILURE_OPEN, type LocalPod, type Workload } from '../model/workload.ts'
import { serviceFromMessage, serviceToMessage, workloadFromMessage, workloadToMessage } from './address-codec.ts'
import { Checks, quote } from './checks.ts'
import {
  type ResourceType,
  TYPE_ADDRESS,
  TYPE_AUTHORIZATION,
  TYPE_LOCAL_POD,
  TYPE_NAMESPACE,
  TYPE_POLICY,
  TYPE_TRAFFIC,
} from './discovery.ts'
import { ADDRESS, AUTHORIZATION, LOCAL_POD, NAMESPACE, POLICY, TRAFFIC } from './messages.ts'
import {
  isIstioPolicy,
  policyFromAuthorization,
  policyFromMessage,
  policyToAuthorization,
  policyToMessage,
} from './policy-codec.ts'
import { trafficFromMessage, trafficToMessage } from './traffic-codec.ts'

/**
 * Largest resource. 1 MiB: a service port with thousands of routes; a message of the protocol carries at least one
 * (see MESSAGE_BYTES_MAX in channel.ts).
 */
export const RESOURCE_BYTES_MAX = 1_048_576

/** Ports of one pod that its kubelet probes: three probes and two hooks for each of fifty containers. */
export const PROBE_PORTS_MAX = 256

const FAILURE_MODES = [FAILURE_BY_POLICY, FAILURE_OPEN, FAILURE_CLOSED] as const

/** A resource in the form in which it travels. */
export interface EncodedResource {
  readonly typeUrl: ResourceType
  /** Uid of a workload or pod, key of everything else. */
  readonly name: string
  readonly bytes: Uint8Array
}

/** A decoded resource; `name` is the key of its kind in the model. */
export type Resource =
  | { readonly kind: 'workload'; readonly name: string; readonly value: Workload }
  | { readonly kind: 'service'; readonly name: string; readonly value: Service }
  | { readonly kind: 'policy'; readonly name: string; readonly value: Policy }
  | { readonly kind: 'traffic'; readonly name: string; readonly value: Traffic }
  | { readonly kind: 'pod'; readonly name: string; readonly value: LocalPod }
  | { readonly kind: 'namespace'; readonly name: string; readonly value: MeshNamespace }

// --- encoding; each throws WeftError WEFT_RESOURCE when the model object cannot be said on the wire ---

/** A workload as a resource. */
export function encodeWorkload(workload: Workload): EncodedResource {
  const checks = new Checks(describe('workload', workload.uid))
  return encoded(TYPE_ADDRESS, workload.uid, ADDRESS.encode(workloadToMessage(workload, checks)), checks)
}

/** A service as a resource. */
export function encodeService(service: Service): EncodedResource {
  const checks = new Checks(describe('service', service.key))
  return encoded(TYPE_ADDRESS, service.key, ADDRESS.encode(serviceToMessage(service, checks)), checks)
}

/** A policy as a resource, of Istio's type where that can say it. */
export function encodePolicy(policy: Policy): EncodedResource {
  const checks = new Checks(describe('policy', policy.key))
  return isIstioPolicy(policy)
    ? encoded(TYPE_AUTHORIZATION, policy.key, AUTHORIZATION.encode(policyToAuthorization(policy, checks)), checks)
    : encoded(TYPE_POLICY, policy.key, POLICY.encode(policyToMessage(policy, checks)), checks)
}

/** The rules of a service port as a resource. */
export function encodeTraffic(traffic: Traffic): EncodedResource {
  const checks = new Checks(describe('traffic', traffic.key))
  return encoded(TYPE_TRAFFIC, traffic.key, TRAFFIC.encode(trafficToMessage(traffic, checks)), checks)
}

/** A pod of an agent's node as a resource. */
export function encodePod(pod: LocalPod): EncodedResource {
  const checks = new Checks(describe('pod', pod.uid))
  const { uid, netns, scope, failureMode, isDnsExempt = false, mustEncrypt = false, podUid = '' } = pod
  const { probePorts = [] } = pod
  const message = { uid, netns, scope, failureMode, isDnsExempt, mustEncrypt, podUid, probePorts }
  return encoded(TYPE_LOCAL_POD, uid, LOCAL_POD.encode(message), checks)
}

/** A namespace of the mesh as a resource. */
export function encodeNamespace({ name, failureMode }: MeshNamespace): EncodedResource {
  const checks = new Checks(describe('namespace', name))
  return encoded(TYPE_NAMESPACE, name, NAMESPACE.encode({ name, failureMode }), checks)
}

function encoded(typeUrl: ResourceType, name: string, bytes: Uint8Array, checks: Checks): EncodedResource {
  if (bytes.length > RESOURCE_BYTES_MAX) {
    checks.fail('its encoded form', `has ${bytes.length} bytes, more than ${RESOURCE_BYTES_MAX}`)
  }
  return { typeUrl, name, bytes }
}

// --- decoding ---

/** Decodes and validates. `name` is the name under which the resource was sent; it must be the name of its content. */
export function decodeResource(typeUrl: ResourceType, name: string, bytes: Uint8Array): Resource {
  if (bytes.length > RESOURCE_BYTES_MAX) {
    throw new WeftError(
      'WEFT_RESOURCE',
      `resource ${quote(name)} has ${bytes.length} bytes, more than ${RESOURCE_BYTES_MAX}`,
    )
  }
  const resource = decodeByType(typeUrl, name, bytes)
  if (resource.name !== name) {
    throw new WeftError(
      'WEFT_RESOURCE',
      `resource ${quote(name)} holds another: ${resource.kind} ${quote(resource.name)}`,
    )
  }
  return resource
}

function decodeByType(typeUrl: ResourceType, name: string, bytes: Uint8Array): Resource {
  switch (typeUrl) {
    case TYPE_ADDRESS:
      return decodeAddress(name, bytes)
    case TYPE_AUTHORIZATION: {
      const checks = new Checks(describe('policy', name))
      const value = policyFromAuthorization(decodeBytes(AUTHORIZATION, bytes, checks), checks)
      return { kind: 'policy', name: value.key, value }
    }
    case TYPE_POLICY: {
      const checks = new Checks(describe('policy', name))
      const value = policyFromMessage(decodeBytes(POLICY, bytes, checks), checks)
      return { kind: 'policy', name: value.key, value }
    }
    case TYPE_TRAFFIC: {
      const checks = new Checks(describe('traffic', name))
      const value = trafficFromMessage(decodeBytes(TRAFFIC, bytes, checks), checks)
      return { kind: 'traffic', name: value.key, value }
    }
    case TYPE_LOCAL_POD: {
      const checks = new Checks(describe('pod', name))
      const message = decodeBytes(LOCAL_POD, bytes, checks)
      const value: LocalPod = {
        uid: checks.required('uid', message.uid),
        // Empty where the agent finds the pod by itself.
        netns: checks.text('netns', message.netns),
        scope: checks.required('scope', message.scope),
        failureMode: checks.oneOf('failure_mode', message.failureMode, FAILURE_MODES),
        ...(message.isDnsExempt ? { isDnsExempt: true } : {}),
        ...(message.mustEncrypt ? { mustEncrypt: true } : {}),
        ...(message.podUid === '' ? {} : { podUid: checks.text('pod_uid', message.podUid) }),
        ...(message.probePorts.length > 0 ? { probePorts: probePortsFrom(message.probePorts, checks) } : {}),
      }
      return { kind: 'pod', name: value.uid, value }
    }
    case TYPE_NAMESPACE: {
      const checks = new Checks(describe('namespace', name))
      const message = decodeBytes(NAMESPACE, bytes, checks)
      const value: MeshNamespace = {
        name: checks.required('name', message.name),
        failureMode: checks.oneOf('failure_mode', message.failureMode, FAILURE_MODES),
      }
      return { kind: 'namespace', name: value.name, value }
    }
  }
}

function probePortsFrom(ports: readonly number[], checks: Checks): readonly number[] {
  if (ports.length > PROBE_PORTS_MAX) checks.fail('probe_ports', `has more than ${PROBE_PORTS_MAX} ports`)
  return ports.map((port, i) => checks.port(`probe_ports[${i}]`, port))
}

function decodeAddress(name: string, bytes: Uint8Array): Resource {
  const checks: Checks = new Checks(describe('address', name))
  const { workload, service } = decodeBytes(ADDRESS, bytes, checks)
  if (workload != null) {
    const value = workloadFromMessage(workload, new Checks(describe('workload', name)))
    return { kind: 'workload', name: value.uid, value }
  }
  if (service != null) {
    const value = serviceFromMessage(service, new Checks(describe('service', name)))
    return { kind: 'service', name: value.key, value }
  }
  checks.fail('type', 'is neither a workload nor a service')
}

function decodeBytes<T>(type: { decode(bytes: Uint8Array): T }, bytes: Uint8Array, checks: Checks): T {
  try {
    return type.decode(bytes)
  } catch (error) {
    throw new WeftError('WEFT_RESOURCE', `${checks.resource} cannot be decoded`, error)
  }
}

function describe(kind: string, name: string): string {
  return `${kind} ${quote(name)}`
}
