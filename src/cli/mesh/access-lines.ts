/** Lines of agents' access logs: which are about a pod, and how a person reads them. Pure. */
import { parseHostPort } from '../../base/address.ts'

/** A line, as far as it is read here; see telemetry/access-log.ts. */
export interface AccessLine {
  readonly start_time: string
  readonly duration: number
  readonly reporter: string
  readonly protocol: string
  readonly method?: string
  readonly path?: string
  readonly authority?: string
  readonly response_code?: number
  readonly response_flags: string
  readonly details?: string
  readonly bytes_received: number
  readonly bytes_sent: number
  readonly downstream_remote_address: string
  readonly upstream_host: string
  readonly source_workload: string | null
  readonly source_namespace: string | null
  readonly destination_workload: string | null
  readonly destination_namespace: string | null
  readonly destination_service: string | null
  readonly mutual_tls: boolean
}

/** Null for what is no line of the access log. */
export function parseAccessLine(text: string): AccessLine | null {
  if (!text.startsWith('{"start_time"')) return null
  try {
    return JSON.parse(text) as AccessLine
  } catch {
    // Cut by whoever rotates logs.
    return null
  }
}

/** True when one end of the connection has one of the addresses. */
export function isAbout(line: AccessLine, addresses: readonly string[]): boolean {
  return [line.downstream_remote_address, line.upstream_host].some((end) => {
    const host = parseHostPort(end)?.host ?? end
    return addresses.includes(host)
  })
}

/** One line for a terminal. */
export function accessText(line: AccessLine): string {
  const from = endText(line.source_namespace, line.source_workload, line.downstream_remote_address)
  const to =
    line.destination_service ?? endText(line.destination_namespace, line.destination_workload, line.upstream_host)
  const what =
    line.method === undefined
      ? `${line.protocol} ${line.bytes_sent}/${line.bytes_received} bytes`
      : `${line.method} ${line.authority ?? ''}${line.path ?? ''} ${line.response_code}`
  const flags = line.response_flags === '-' ? '' : ` ${line.response_flags}${line.details ? ` (${line.details})` : ''}`
  const tls = line.mutual_tls ? ' mTLS' : ''
  return `${line.start_time} ${line.reporter} ${from} > ${to} ${what} ${Math.round(line.duration)}ms${flags}${tls}`
}

function endText(namespace: string | null, workload: string | null, address: string): string {
  return namespace === null || workload === null ? address : `${namespace}/${workload}`
}
