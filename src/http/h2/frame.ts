/** Frame types, flags, settings and error codes of HTTP/2 (RFC 9113 sections 6, 6.5.2 and 7). */

export const FRAME_HEADER_BYTES = 9

export const FRAME_DATA = 0
export const FRAME_HEADERS = 1
export const FRAME_PRIORITY = 2
export const FRAME_RST_STREAM = 3
export const FRAME_SETTINGS = 4
export const FRAME_PUSH_PROMISE = 5
export const FRAME_PING = 6
export const FRAME_GOAWAY = 7
export const FRAME_WINDOW_UPDATE = 8
export const FRAME_CONTINUATION = 9

export const FLAG_END_STREAM = 0x1
export const FLAG_ACK = 0x1
export const FLAG_END_HEADERS = 0x4
export const FLAG_PADDED = 0x8
export const FLAG_PRIORITY = 0x20

export const SETTING_HEADER_TABLE_SIZE = 1
export const SETTING_ENABLE_PUSH = 2
export const SETTING_MAX_CONCURRENT_STREAMS = 3
export const SETTING_INITIAL_WINDOW_SIZE = 4
export const SETTING_MAX_FRAME_SIZE = 5
export const SETTING_MAX_HEADER_LIST_SIZE = 6
/** RFC 8441 section 3. */
export const SETTING_ENABLE_CONNECT_PROTOCOL = 8

export const ERROR_NONE = 0
export const ERROR_PROTOCOL = 1
export const ERROR_INTERNAL = 2
export const ERROR_FLOW_CONTROL = 3
export const ERROR_SETTINGS_TIMEOUT = 4
export const ERROR_STREAM_CLOSED = 5
export const ERROR_FRAME_SIZE = 6
export const ERROR_REFUSED_STREAM = 7
export const ERROR_CANCEL = 8
export const ERROR_COMPRESSION = 9
export const ERROR_CONNECT = 10
export const ERROR_ENHANCE_YOUR_CALM = 11

/** Sizes before any SETTINGS frame (RFC 9113 section 6.5.2), and the bounds of their values. */
export const WINDOW_BYTES_DEFAULT = 65_535
export const FRAME_BYTES_DEFAULT = 16_384
export const FRAME_BYTES_LARGEST = 16_777_215
export const WINDOW_BYTES_LARGEST = 0x7fff_ffff

/** What a client sends first (RFC 9113 section 3.4). */
export const PREFACE: Uint8Array = Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 'latin1')

const ERROR_NAMES: readonly string[] = [
  'NO_ERROR',
  'PROTOCOL_ERROR',
  'INTERNAL_ERROR',
  'FLOW_CONTROL_ERROR',
  'SETTINGS_TIMEOUT',
  'STREAM_CLOSED',
  'FRAME_SIZE_ERROR',
  'REFUSED_STREAM',
  'CANCEL',
  'COMPRESSION_ERROR',
  'CONNECT_ERROR',
  'ENHANCE_YOUR_CALM',
  'INADEQUATE_SECURITY',
  'HTTP_1_1_REQUIRED',
]

/** The RFC's name of an error code, for messages. */
export function errorName(code: number): string {
  return ERROR_NAMES[code] ?? `error ${code}`
}
