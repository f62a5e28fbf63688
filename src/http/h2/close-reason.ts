/** What a stream's closing is called in logs. */
import {
  FLAG_DOWNSTREAM_CLOSED,
  FLAG_DOWNSTREAM_PROTOCOL,
  FLAG_STREAM_IDLE_TIMEOUT,
  FLAG_UPSTREAM_CLOSED,
  FLAG_UPSTREAM_PROTOCOL,
  type Flag,
} from '../../base/errors.ts'
import { ERROR_NONE, errorName } from './frame.ts'
import {
  CLOSED_BY_LIMIT,
  CLOSED_BY_PEER,
  CLOSED_BY_SILENCE,
  CLOSED_BY_STALL,
  CLOSED_BY_VIOLATION,
  CLOSED_UNPROCESSED,
  CLOSED_WITH_CONNECTION,
  type CloseCause,
} from './stream.ts'

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
    case CLOSED_BY_STALL:
      return `${peer} took no bytes of the stream for too long`
    case CLOSED_BY_SILENCE:
      return `${peer} is gone: it did not answer a ping`
    default:
      return code === ERROR_NONE
        ? `${peer} closed the connection`
        : `${peer} broke HTTP/2 rules, so its connection was closed (${errorName(code)})`
  }
}

/** The flag of an exchange whose client closed its stream. */
export function requestFlag(cause: CloseCause, code: number): Flag {
  if (cause === CLOSED_BY_STALL) return FLAG_STREAM_IDLE_TIMEOUT
  return isPeersFault(cause, code) ? FLAG_DOWNSTREAM_PROTOCOL : FLAG_DOWNSTREAM_CLOSED
}

/** The flag of an exchange whose server closed its stream. */
export function responseFlag(cause: CloseCause, code: number): Flag {
  if (cause === CLOSED_BY_STALL) return FLAG_STREAM_IDLE_TIMEOUT
  return isPeersFault(cause, code) ? FLAG_UPSTREAM_PROTOCOL : FLAG_UPSTREAM_CLOSED
}

function isPeersFault(cause: CloseCause, code: number): boolean {
  return cause === CLOSED_BY_VIOLATION || (cause === CLOSED_WITH_CONNECTION && code !== ERROR_NONE)
}
