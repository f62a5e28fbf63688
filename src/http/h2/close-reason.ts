/** What a stream's closing is called in logs. */
import { ERROR_NONE, errorName } from './frame.ts'
import { CLOSED_BY_LIMIT, CLOSED_BY_PEER, CLOSED_BY_VIOLATION, CLOSED_UNPROCESSED, type CloseCause } from './stream.ts'

/** `peer` is "the client" or "the upstream". */
export function closeReason(peer: string, cause: CloseCause, code: number): string {
  switch (cause) {
    case CLOSED_BY_PEER:
      return `${peer} reset the stream (${errorName(code)})`
    case CLOSED_UNPROCESSED:
      return `${peer} did not take the stream (${errorName(code)})`
    case CLOSED_BY_VIOLATION:
      return `${peer} broke HTTP/2 rules on the stream (${errorName(code)})`
    case CLOSED_BY_LIMIT:
      return `too many bytes waited for ${peer}`
    default:
      return code === ERROR_NONE
        ? `${peer} closed the connection`
        : `${peer} broke HTTP/2 rules, so its connection was closed (${errorName(code)})`
  }
}
