/** What agents and controllers answer, as far as commands read it; everything else is passed on as it is. */
import type { Policy } from '../../model/policy.ts'
import type { Traffic } from '../../model/route.ts'
import type { Service } from '../../model/service.ts'
import type { LocalPod, Workload } from '../../model/workload.ts'

/** /config_dump of an agent. */
export interface ConfigDump {
  readonly node: string
  readonly trustDomain: string
  readonly subscription: {
    readonly isConnected: boolean
    readonly isReady: boolean
    readonly isFromDisk: boolean
    readonly generation: string
    readonly lastError: string | null
    readonly rejectedCount: number
    readonly lastRejection: string | null
  }
  readonly workloads: readonly Workload[]
  readonly services: readonly Service[]
  readonly policies: readonly Policy[]
  readonly traffic: readonly Traffic[]
  readonly pods: readonly LocalPod[]
}

/** One of /pods of an agent. */
export interface PodAnswer {
  readonly uid: string
  readonly pod: string
  readonly podUid: string
  readonly state: 'captured' | 'pending' | 'refused'
  readonly reason: string | null
  readonly problem: string | null
}

/** One of /certificates of an agent. */
export interface CertificateAnswer {
  readonly identity: string
  readonly serial: string | null
  readonly notBeforeMs: number | null
  readonly notAfterMs: number | null
  readonly renewAtMs: number | null
  readonly lastError: string | null
}

/** /status of a controller. */
export interface ControllerStatus {
  readonly generation: number
  readonly agents: readonly {
    readonly node: string
    readonly generation: number
    readonly outstanding: number
    readonly nacks: number
    readonly lastError: string | null
  }[]
  readonly messages: readonly { readonly severity: string; readonly code: string; readonly text: string }[]
}

/** One of /connections of an agent. */
export interface ConnectionAnswer {
  readonly worker?: number
  readonly direction: 'outbound' | 'inbound'
  readonly protocol: string
  readonly pod: string
  readonly downstream: string
  readonly originalDestination: string
  readonly upstream: string
  readonly peer: string
  readonly ageMs: number
  readonly receivedBytes: number
  readonly sentBytes: number
}
