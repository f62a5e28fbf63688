/**
 * The names of the control protocol: resource types, the gRPC services, and how a response says that the
 * generation it belongs to is complete.
 *
 * The generation is the controller's counter of compiled states. A generation may need several responses (types, and
 * pieces of bounded size); all but the last carry a `+` behind the number. An agent applies what it got when it has the
 * last one, so that what refers to each other is put in force together.
 */
import type { ServiceDefinition } from '@grpc/grpc-js'
import {
  CERTIFICATE_REQUEST,
  CERTIFICATE_RESPONSE,
  type CertificateRequest,
  type CertificateResponse,
  DELTA_REQUEST,
  DELTA_RESPONSE,
  type DeltaRequest,
  type DeltaResponse,
  type MessageType,
  POD_MEMBERSHIP_REQUEST,
  POD_MEMBERSHIP_RESPONSE,
  type PodMembershipRequest,
  type PodMembershipResponse,
} from './messages.ts'

const TYPE_PREFIX = 'type.googleapis.com/'
export const TYPE_ADDRESS = `${TYPE_PREFIX}istio.workload.Address`
export const TYPE_AUTHORIZATION = `${TYPE_PREFIX}istio.security.Authorization`
export const TYPE_POLICY = `${TYPE_PREFIX}weft.v1.Policy`
export const TYPE_TRAFFIC = `${TYPE_PREFIX}weft.v1.Traffic`
export const TYPE_LOCAL_POD = `${TYPE_PREFIX}weft.v1.LocalPod`
export const TYPE_NAMESPACE = `${TYPE_PREFIX}weft.v1.Namespace`

/** Every type, in the order in which they are sent: what others refer to comes first. */
export const RESOURCE_TYPES = [
  TYPE_ADDRESS,
  TYPE_AUTHORIZATION,
  TYPE_POLICY,
  TYPE_TRAFFIC,
  TYPE_NAMESPACE,
  TYPE_LOCAL_POD,
] as const
/** One of the types that controller and agents exchange. */
export type ResourceType = (typeof RESOURCE_TYPES)[number]

/** True when `typeUrl` is one of them. */
export function isResourceType(typeUrl: string): typeUrl is ResourceType {
  return (RESOURCE_TYPES as readonly string[]).includes(typeUrl)
}

/** Metadata key of CreateCertificate by which an agent names the workload it asks for. */
export const IMPERSONATED_IDENTITY = 'ImpersonatedIdentity'

const DELTA_AGGREGATED_RESOURCES = '/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources'
const CREATE_CERTIFICATE = '/istio.v1.auth.IstioCertificateService/CreateCertificate'
const GET_POD_MEMBERSHIP = '/weft.v1.PodMembershipService/GetPodMembership'

/** Value of `system_version_info`. */
export function formatGeneration(generation: number, isComplete: boolean): string {
  return isComplete ? String(generation) : `${generation}+`
}

/** False when more responses of the same generation follow. */
export function isCompleteGeneration(systemVersionInfo: string): boolean {
  return !systemVersionInfo.endsWith('+')
}

function serialize<T>(type: MessageType<T>): (message: T) => Buffer {
  return (message) => {
    const bytes = type.encode(message)
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  }
}

export const DISCOVERY_SERVICE = {
  deltaAggregatedResources: {
    path: DELTA_AGGREGATED_RESOURCES,
    requestStream: true,
    responseStream: true,
    requestSerialize: serialize<DeltaRequest>(DELTA_REQUEST),
    requestDeserialize: DELTA_REQUEST.decode,
    responseSerialize: serialize<DeltaResponse>(DELTA_RESPONSE),
    responseDeserialize: DELTA_RESPONSE.decode,
  },
} satisfies ServiceDefinition

export const CERTIFICATE_SERVICE = {
  createCertificate: {
    path: CREATE_CERTIFICATE,
    requestStream: false,
    responseStream: false,
    requestSerialize: serialize<CertificateRequest>(CERTIFICATE_REQUEST),
    requestDeserialize: CERTIFICATE_REQUEST.decode,
    responseSerialize: serialize<CertificateResponse>(CERTIFICATE_RESPONSE),
    responseDeserialize: CERTIFICATE_RESPONSE.decode,
  },
} satisfies ServiceDefinition

export const MEMBERSHIP_SERVICE = {
  getPodMembership: {
    path: GET_POD_MEMBERSHIP,
    requestStream: false,
    responseStream: false,
    requestSerialize: serialize<PodMembershipRequest>(POD_MEMBERSHIP_REQUEST),
    requestDeserialize: POD_MEMBERSHIP_REQUEST.decode,
    responseSerialize: serialize<PodMembershipResponse>(POD_MEMBERSHIP_RESPONSE),
    responseDeserialize: POD_MEMBERSHIP_RESPONSE.decode,
  },
} satisfies ServiceDefinition
