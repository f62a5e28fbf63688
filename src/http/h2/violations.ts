/**
 * Every way in which a peer can break HTTP/2 or overstrain it, with the code that it is told (RFC 9113 section 7).
 *
 * One frozen object each, made when the module is loaded: refusing must be cheaper than being attacked. `reason` is a
 * label of counters and logs and never changes. Where a violation ends a stream or the connection there is no answer with
 * a status: `status` is 0.
 */
import type { ProtocolViolation } from '../codec.ts'
import {
  ERROR_CANCEL,
  ERROR_COMPRESSION,
  ERROR_ENHANCE_YOUR_CALM,
  ERROR_FLOW_CONTROL,
  ERROR_FRAME_SIZE,
  ERROR_NONE,
  ERROR_PROTOCOL,
  ERROR_REFUSED_STREAM,
  ERROR_SETTINGS_TIMEOUT,
  ERROR_STREAM_CLOSED,
} from './frame.ts'

/** A violation, and the error code of HTTP/2 that goes with it. */
export interface H2Violation extends ProtocolViolation {
  readonly code: number
}

function violation(reason: string, code: number, message: string): H2Violation {
  return Object.freeze({ reason, code, status: 0, message })
}

// --- frames ---
export const BAD_PREFACE = violation('bad_preface', ERROR_PROTOCOL, 'bad preface')
export const SETTINGS_NOT_FIRST = violation('settings_not_first', ERROR_PROTOCOL, 'first frame is not settings')
export const FRAME_TOO_LARGE = violation('frame_too_large', ERROR_FRAME_SIZE, 'frame too large')
export const BAD_FRAME_SIZE = violation('bad_frame_size', ERROR_FRAME_SIZE, 'frame of a size that its type forbids')
export const BAD_PADDING = violation('bad_padding', ERROR_PROTOCOL, 'padding longer than the frame')
export const NEEDS_STREAM = violation('frame_on_connection', ERROR_PROTOCOL, 'frame on stream 0 that needs a stream')
export const NEEDS_NO_STREAM = violation(
  'frame_on_stream',
  ERROR_PROTOCOL,
  'frame on a stream that belongs to stream 0',
)
export const BLOCK_INTERRUPTED = violation('header_block_interrupted', ERROR_PROTOCOL, 'header block interrupted')
export const STRAY_CONTINUATION = violation('stray_continuation', ERROR_PROTOCOL, 'continuation without headers')
export const PUSH_DISABLED = violation('push', ERROR_PROTOCOL, 'push is disabled')
export const BAD_COMPRESSION = violation('bad_compression', ERROR_COMPRESSION, 'bad header block')

// --- settings and windows ---
export const BAD_SETTING = violation('bad_setting', ERROR_PROTOCOL, 'bad setting')
export const BAD_WINDOW_SETTING = violation('bad_window_setting', ERROR_FLOW_CONTROL, 'initial window too large')
export const ZERO_INCREMENT = violation('zero_window_update', ERROR_PROTOCOL, 'window update of nothing')
export const WINDOW_OVERFLOW = violation('window_overflow', ERROR_FLOW_CONTROL, 'window overflow')
export const WINDOW_EXCEEDED = violation('window_exceeded', ERROR_FLOW_CONTROL, 'window exceeded')

// --- streams ---
export const ON_IDLE_STREAM = violation('frame_on_idle_stream', ERROR_PROTOCOL, 'frame on an idle stream')
export const ON_CLOSED_STREAM = violation('frame_on_closed_stream', ERROR_STREAM_CLOSED, 'frame on a closed stream')
export const MALFORMED_HEAD = violation('malformed_head', ERROR_PROTOCOL, 'malformed head')
export const MALFORMED_TRAILERS = violation('malformed_trailers', ERROR_PROTOCOL, 'malformed trailers')
export const HEAD_TOO_LARGE = violation('head_too_large', ERROR_ENHANCE_YOUR_CALM, 'header list too large')
export const DATA_BEFORE_HEAD = violation('data_before_head', ERROR_PROTOCOL, 'data before the head')
export const WRONG_LENGTH = violation(
  'content_length_mismatch',
  ERROR_PROTOCOL,
  'a body of another length than declared',
)
export const TOO_MANY_STREAMS = violation('too_many_streams', ERROR_REFUSED_STREAM, 'more streams than announced')

// --- abuse; each has its limit in limits.ts ---
export const CONTINUATION_FLOOD = violation(
  'continuation_flood',
  ERROR_ENHANCE_YOUR_CALM,
  'too many continuation frames',
)
export const BLOCK_TOO_LARGE = violation('header_block_too_large', ERROR_ENHANCE_YOUR_CALM, 'header block too large')
export const TOO_MANY_SETTINGS = violation('too_many_settings', ERROR_ENHANCE_YOUR_CALM, 'too many settings')
export const GOAWAY_TOO_LARGE = violation('goaway_too_large', ERROR_ENHANCE_YOUR_CALM, 'goaway too large')
export const PING_FLOOD = violation('ping_flood', ERROR_ENHANCE_YOUR_CALM, 'too many pings')
export const SETTINGS_FLOOD = violation('settings_flood', ERROR_ENHANCE_YOUR_CALM, 'too many settings frames')
export const EMPTY_DATA_FLOOD = violation('empty_data_flood', ERROR_ENHANCE_YOUR_CALM, 'too many empty data frames')
export const TINY_DATA_FLOOD = violation('tiny_data_flood', ERROR_ENHANCE_YOUR_CALM, 'too many tiny data frames')
export const PRIORITY_FLOOD = violation('priority_flood', ERROR_ENHANCE_YOUR_CALM, 'too many priority frames')
export const GOAWAY_FLOOD = violation('goaway_flood', ERROR_ENHANCE_YOUR_CALM, 'too many goaway frames')
export const UNKNOWN_FRAME_FLOOD = violation(
  'unknown_frame_flood',
  ERROR_ENHANCE_YOUR_CALM,
  'too many frames of unknown types',
)
export const WINDOW_UPDATE_FLOOD = violation(
  'window_update_flood',
  ERROR_ENHANCE_YOUR_CALM,
  'too many window updates that open next to nothing',
)
export const RAPID_RESET = violation('rapid_reset', ERROR_ENHANCE_YOUR_CALM, 'too many streams reset')
export const ERROR_FLOOD = violation('stream_error_flood', ERROR_ENHANCE_YOUR_CALM, 'too many streams with errors')
export const OUTPUT_FLOOD = violation('output_flood', ERROR_ENHANCE_YOUR_CALM, 'too much output waits to be read')

// --- time; see vigil.ts ---
export const SETTINGS_MISSING = violation('settings_missing', ERROR_SETTINGS_TIMEOUT, 'no settings came in time')
export const SETTINGS_NOT_ACKNOWLEDGED = violation(
  'settings_not_acknowledged',
  ERROR_SETTINGS_TIMEOUT,
  'our settings were not acknowledged in time',
)
export const HEAD_TOO_SLOW = violation('head_too_slow', ERROR_ENHANCE_YOUR_CALM, 'a head was not complete in time')
export const PING_UNANSWERED = violation('ping_unanswered', ERROR_NONE, 'a ping was not answered in time')
export const OUTPUT_STALLED = violation('output_stalled', ERROR_ENHANCE_YOUR_CALM, 'nothing was read for too long')
export const STREAM_STALLED = violation('stream_stalled', ERROR_CANCEL, 'a stream was given no window for too long')
