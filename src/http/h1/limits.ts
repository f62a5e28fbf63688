/** Limits of the HTTP/1.1 engine on what a peer may send. Each is enforced at the same byte however input is cut. */

/** Bytes of a request or status line. 16 KiB: twice what nginx takes by default; longer targets belong in a body. */
export const LINE_BYTES_MAX = 16_384

/** Bytes of a whole head. 64 KiB: Envoy's limit rounded up; a head is held in memory before anyone is authorised. */
export const HEAD_BYTES_MAX = 65_536

/** Fields of a head. 128: Envoy takes 100; each costs a look in every search by name. */
export const FIELD_COUNT_MAX = 128

/** Headers that Connection may name. 32: nobody names five; each one is searched among all headers of the head. */
export const NOMINATIONS_MAX = 32

/** Bytes of a method. 32: the longest registered one (UPDATEREDIRECTREF) has 17. */
export const METHOD_BYTES_MAX = 32

/** Empty lines before a request line. 4: old clients send one after a body (RFC 9112 section 2.2); nobody sends five. */
export const LEADING_EMPTY_LINES_MAX = 4

/** Bytes of a trailer section. 8 KiB: trailers carry a status or a checksum; gRPC's largest are about 8 KiB. */
export const TRAILER_BYTES_MAX = 8192

/** Digits of a chunk size. 8 (4 GiB): nobody makes such chunks, and the value stays exact far from overflow. */
export const CHUNK_SIZE_DIGITS_MAX = 8

/** Bytes of chunk extensions in one message. 4 KiB: they mean nothing to anyone; without a limit they are free load. */
export const CHUNK_EXTENSION_BYTES_MAX = 4096

/** Interim responses to one request. 16: a server sends one or two; more is an endless response in disguise. */
export const INFORMATIONAL_COUNT_MAX = 16

/** Pipelined input held while a response is under way. 256 KiB: reading is paused, so only what was in flight comes. */
export const HELD_BYTES_MAX = 262_144

/** Backlog of the sink above which a writer waits for its drain. As in transport. */
export const BACKLOG_HIGH = 262_144

/** Request body read and dropped after an early response, to save the connection. 64 KiB: cheaper than a new one. */
export const DRAIN_BYTES_MAX = 65_536

/**
 * Input read and dropped after our last response. 1 MiB: closing a socket with unread input resets it, and the reset
 * can destroy the response before the client has read it (RFC 9112 section 9.6).
 */
export const LINGER_BYTES_MAX = 1_048_576
