/**
 * The protobuf messages of the control protocol: loaded from proto/*.proto once, when this file is first imported.
 *
 * The interfaces below describe decoded messages as protobufjs makes them: absent lists are empty, absent maps have no
 * keys, absent messages and absent `optional` fields are null, other absent fields have proto3's zero value. Encoding
 * takes the same shapes; null and undefined are left out. Nothing here is validated: that is the codecs' work.
 */
import { fileURLToPath } from 'node:url'
import protobuf from 'protobufjs'
import { WeftError } from '../base/errors.ts'

/** Encodes and decodes one message type. */
export interface MessageType<T> {
  readonly name: string
  encode(message: T): Uint8Array
  /** Throws WeftError WEFT_RESOURCE when the bytes are not such a message. */
  decode(bytes: Uint8Array): T
}

const FILES = ['discovery', 'workload', 'authorization', 'ca', 'traffic']

const root = new protobuf.Root()
// Imports of google/protobuf/*.proto are met by the definitions that protobufjs carries.
root.resolvePath = (_origin, target) =>
  target.startsWith('google/') ? target : fileURLToPath(new URL(`./proto/${target}.proto`, import.meta.url))
root.loadSync(FILES)

function messageType<T extends object>(name: string): MessageType<T> {
  const type = root.lookupType(name)
  return {
    name,
    encode: (message) => type.encode(message as Record<string, unknown>).finish(),
    decode: (bytes) => {
      try {
        return type.decode(bytes) as unknown as T
      } catch (error) {
        throw new WeftError('WEFT_RESOURCE', `${bytes.length} bytes are no ${name} message`, error)
      }
    },
  }
}

// --- discovery ---

export interface AnyMessage {
  readonly type_url: string
  readonly value: Uint8Array
}

/** google.protobuf.Struct, as far as we read it. */
export interface StructMessage {
  readonly fields: Readonly<Record<string, { readonly stringValue?: string }>>
}

export interface NodeMessage {
  readonly id: string
  readonly cluster: string
  readonly metadata: StructMessage | null
}

export interface StatusMessage {
  readonly code: number
  readonly message: string
}

export interface DeltaRequest {
  readonly node: NodeMessage | null
  readonly typeUrl: string
  readonly resourceNamesSubscribe: readonly string[]
  readonly resourceNamesUnsubscribe: readonly string[]
  readonly initialResourceVersions: Readonly<Record<string, string>>
  readonly responseNonce: string
  readonly errorDetail: StatusMessage | null
}

export interface ResourceMessage {
  readonly version: string
  readonly resource: AnyMessage | null
  readonly name: string
  readonly aliases: readonly string[]
}

export interface DeltaResponse {
  readonly systemVersionInfo: string
  readonly resources: readonly ResourceMessage[]
  readonly typeUrl: string
  readonly nonce: string
  readonly removedResources: readonly string[]
}

export const DELTA_REQUEST = messageType<DeltaRequest>('envoy.service.discovery.v3.DeltaDiscoveryRequest')
export const DELTA_RESPONSE = messageType<DeltaResponse>('envoy.service.discovery.v3.DeltaDiscoveryResponse')

// --- certificates ---

export interface CertificateRequest {
  readonly csr: string
  /** Seconds. A 64-bit integer object after decoding: convert with Number(). */
  readonly validityDuration: number
  readonly metadata: StructMessage | null
}

export interface CertificateResponse {
  readonly certChain: readonly string[]
}

export const CERTIFICATE_REQUEST = messageType<CertificateRequest>('istio.v1.auth.IstioCertificateRequest')
export const CERTIFICATE_RESPONSE = messageType<CertificateResponse>('istio.v1.auth.IstioCertificateResponse')

// --- pods that are about to start ---

export interface PodMembershipRequest {
  readonly namespace: string
  readonly name: string
  readonly uid: string
}

export interface PodMembershipResponse {
  readonly state: number
  readonly failureMode: number
}

export const POD_MEMBERSHIP_REQUEST = messageType<PodMembershipRequest>('weft.v1.PodMembershipRequest')
export const POD_MEMBERSHIP_RESPONSE = messageType<PodMembershipResponse>('weft.v1.PodMembershipResponse')

// --- workloads and services ---

export interface PortMessage {
  readonly servicePort: number
  readonly targetPort: number
  readonly portName: string
  readonly protocol: number
}

/** What a workload is to one service (`istio.workload.PortList`). */
export interface MembershipMessage {
  readonly ports: readonly PortMessage[]
  readonly hostname: string
  readonly readiness: number
  readonly zones: readonly string[]
  readonly nodes: readonly string[]
}

export interface WorkloadMessage {
  readonly hostname: string
  readonly name: string
  readonly namespace: string
  readonly addresses: readonly Uint8Array[]
  readonly tunnelProtocol: number
  readonly trustDomain: string
  readonly serviceAccount: string
  readonly node: string
  readonly canonicalName: string
  readonly canonicalRevision: string
  readonly workloadType: number
  readonly workloadName: string
  readonly authorizationPolicies: readonly string[]
  readonly status: number
  readonly clusterId: string
  readonly uid: string
  /** A map entry without a value is decoded to null. */
  readonly services: Readonly<Record<string, MembershipMessage | null>>
  readonly locality: { readonly region: string; readonly zone: string; readonly subzone: string } | null
  readonly capacity: { readonly value: number } | null
}

export interface ServiceMessage {
  readonly name: string
  readonly namespace: string
  readonly hostname: string
  readonly addresses: readonly { readonly network: string; readonly address: Uint8Array }[]
  readonly ports: readonly PortMessage[]
  readonly exportTo: readonly string[]
  readonly hasExportTo: boolean
  readonly loadBalancing: {
    readonly routingPreference: readonly number[]
    readonly mode: number
    readonly healthPolicy: number
  } | null
  readonly isHeadless: boolean
  readonly alias: string
  readonly affinityMs: number
}

export interface AddressMessage {
  readonly workload?: WorkloadMessage | null
  readonly service?: ServiceMessage | null
}

export const ADDRESS = messageType<AddressMessage>('istio.workload.Address')

// --- policies ---

/**
 * One of the members is set, and decoded messages say which: `kind` in weft.v1, `matchType` in istio.security (the
 * others then have a zero value, not null). `present` and `presence` are empty messages.
 */
export interface StringMatchMessage {
  readonly kind?: 'exact' | 'prefix' | 'suffix' | 'regex' | 'present' | undefined
  readonly matchType?: 'exact' | 'prefix' | 'suffix' | 'presence' | undefined
  readonly exact?: string
  readonly prefix?: string
  readonly suffix?: string
  readonly regex?: string
  readonly present?: object
  readonly presence?: object
}

export interface CidrMessage {
  readonly address: Uint8Array
  readonly length: number
}

interface MatchMessage<Block> {
  readonly namespaces: readonly StringMatchMessage[]
  readonly notNamespaces: readonly StringMatchMessage[]
  readonly principals: readonly StringMatchMessage[]
  readonly notPrincipals: readonly StringMatchMessage[]
  readonly sourceIps: readonly Block[]
  readonly notSourceIps: readonly Block[]
  readonly destinationIps: readonly Block[]
  readonly notDestinationIps: readonly Block[]
  readonly destinationPorts: readonly number[]
  readonly notDestinationPorts: readonly number[]
}

export type AuthorizationMatch = MatchMessage<CidrMessage>

export interface PolicyMatchMessage extends MatchMessage<string> {
  readonly hosts: readonly StringMatchMessage[]
  readonly notHosts: readonly StringMatchMessage[]
  readonly methods: readonly StringMatchMessage[]
  readonly notMethods: readonly StringMatchMessage[]
  readonly paths: readonly StringMatchMessage[]
  readonly notPaths: readonly StringMatchMessage[]
  readonly headers: readonly {
    readonly name: string
    readonly values: readonly StringMatchMessage[]
    readonly notValues: readonly StringMatchMessage[]
  }[]
}

export interface RulesMessage<Match> {
  readonly name: string
  readonly namespace: string
  readonly scope: number
  readonly action: number
  readonly rules: readonly { readonly clauses: readonly { readonly matches: readonly Match[] }[] }[]
}

export type AuthorizationMessage = RulesMessage<AuthorizationMatch>

export interface PolicyMessage extends RulesMessage<PolicyMatchMessage> {
  readonly isDryRun: boolean
}

export const AUTHORIZATION = messageType<AuthorizationMessage>('istio.security.Authorization')
export const POLICY = messageType<PolicyMessage>('weft.v1.Policy')

// --- traffic ---

export interface HeaderEditsMessage {
  readonly set: readonly { readonly name: string; readonly value: string }[]
  readonly add: readonly { readonly name: string; readonly value: string }[]
  readonly remove: readonly string[]
}

export interface WeightedClusterMessage {
  readonly cluster: string
  readonly weight: number
  readonly requestEdits: HeaderEditsMessage | null
  readonly responseEdits: HeaderEditsMessage | null
  readonly authority: string | null
}

export interface ClusterMessage {
  readonly service: string
  readonly subset: string
  readonly port: number
  readonly members: { readonly uids: readonly string[] } | null
  readonly balance: number
  readonly limits: {
    readonly connectionsMax: number | null
    readonly connectTimeoutMs: number
    readonly pendingRequestsMax: number | null
    readonly requestsMax: number | null
    readonly requestsPerConnectionMax: number | null
    readonly retriesMax: number | null
    readonly idleTimeoutMs: number
    readonly connectionAgeMsMax: number | null
  } | null
  readonly outlier: {
    readonly consecutiveServerErrors: number
    readonly consecutiveGatewayErrors: number
    readonly intervalMs: number
    readonly baseEjectionMs: number
    readonly ejectionPercentMax: number
    readonly healthPercentMin: number
  } | null
  readonly isMutualTls: boolean
}

export interface NamedMatchMessage {
  readonly name: string
  readonly match: StringMatchMessage | null
  readonly isNegated: boolean
}

/** One of the members is set; decoded messages say which in `kind`. */
export interface PathMatchMessage {
  readonly kind?: 'exact' | 'prefix' | 'regex' | 'pathSegments' | undefined
  readonly exact?: string
  readonly prefix?: string
  readonly regex?: string
  readonly pathSegments?: string
  readonly ignoreCase: boolean
}

export interface RouteMatchMessage {
  readonly path: PathMatchMessage | null
  readonly method: StringMatchMessage | null
  readonly scheme: StringMatchMessage | null
  readonly authority: StringMatchMessage | null
  readonly headers: readonly NamedMatchMessage[]
  readonly query: readonly NamedMatchMessage[]
}

export interface RouteMessage {
  readonly source: string
  readonly name: string
  readonly matches: readonly RouteMatchMessage[]
  readonly clusters: readonly WeightedClusterMessage[]
  readonly redirect: {
    readonly status: number
    readonly path: string | null
    readonly prefixRewrite: string | null
    readonly authority: string | null
    readonly scheme: string | null
    readonly port: number | null
    readonly derivePort: string | null
  } | null
  readonly directResponse: { readonly status: number; readonly body: string } | null
  readonly rewrite: {
    readonly authority: string | null
    readonly path: string | null
    readonly regex: { readonly pattern: string; readonly substitution: string } | null
  } | null
  readonly requestEdits: HeaderEditsMessage | null
  readonly responseEdits: HeaderEditsMessage | null
  readonly timeoutMs: number
  readonly retry: {
    readonly attempts: number
    readonly perTryTimeoutMs: number | null
    readonly on: readonly string[]
    readonly statuses: readonly number[]
    readonly backoffBaseMs: number
    readonly avoidsPreviousHosts: boolean
  } | null
  readonly fault: {
    readonly delayMs: number
    readonly delayPpm: number
    readonly abortStatus: number
    readonly abortGrpcStatus: number | null
    readonly abortPpm: number
  } | null
  readonly mirrors: readonly { readonly cluster: string; readonly ppm: number }[]
}

export interface TrafficMessage {
  readonly scope: string
  readonly service: string
  readonly port: number
  readonly protocol: number
  readonly defaultCluster: string
  readonly clusters: readonly ClusterMessage[]
  readonly routes: readonly RouteMessage[]
  readonly tcpClusters: readonly WeightedClusterMessage[]
}

export const TRAFFIC = messageType<TrafficMessage>('weft.v1.Traffic')

export interface LocalPodMessage {
  readonly uid: string
  readonly netns: string
  readonly scope: string
  readonly failureMode: number
  readonly isDnsExempt: boolean
  readonly mustEncrypt: boolean
  readonly podUid: string
  readonly probePorts: readonly number[]
}

export const LOCAL_POD = messageType<LocalPodMessage>('weft.v1.LocalPod')

export interface NamespaceMessage {
  readonly name: string
  readonly failureMode: number
}

export const NAMESPACE = messageType<NamespaceMessage>('weft.v1.Namespace')
