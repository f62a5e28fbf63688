/**
 * HBONE, the mesh's tunnel: one byte stream per HTTP/2 CONNECT inside mutual TLS. What both ends share; the client is
 * hbone-client.ts, the server hbone-server.ts, their connection hbone-connection.ts, one tunnel hbone-stream.ts.
 */
import { type ErrorCode, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { TimerWheel } from '../base/timers.ts'
import type { Transport } from '../transport/conn.ts'

/** Where proxies listen for tunnels, on every pod's address. */
export const HBONE_PORT = 15_008

/** What tunnels need of the proxy's parts. */
export interface TunnelParts {
  readonly transport: Transport
  readonly log: Logger
  /** Coarse wheel. */
  readonly timers: TimerWheel
  /** Milliseconds of a monotonic clock. */
  readonly nowMs: () => number
}

/** A tunnel that was not opened, or why it ended early. */
export class TunnelError extends WeftError {
  /** HTTP status of the refusal; 0 when it was not refused by an answer. */
  readonly status: number
  /** The peer certainly never acted on it: it may be opened again elsewhere without harm. */
  readonly isUnprocessed: boolean

  constructor(code: ErrorCode, message: string, status: number, isUnprocessed: boolean, cause?: unknown) {
    super(code, message, cause)
    this.name = 'TunnelError'
    this.status = status
    this.isUnprocessed = isUnprocessed
  }
}

/** What a status other than 200 means, in the words of someone who must act on it. */
export function refusalError(status: number, authority: string, peerName: string): TunnelError {
  const message = `${refusalText(status, authority)} (HTTP ${status} from ${peerName})`
  return new TunnelError('WEFT_CONNECT', message, status, false)
}

function refusalText(status: number, authority: string): string {
  switch (status) {
    case 400:
      return `the destination's proxy does not serve ${authority}: it may belong to another pod now`
    case 401:
    case 403:
      return `access to ${authority} is denied: look at the authorization policies of the destination`
    case 503:
      return `the destination's proxy cannot reach ${authority}: check that the application listens there`
    default:
      return `the destination's proxy refused the tunnel to ${authority}`
  }
}
