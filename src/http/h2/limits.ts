/**
 * Limits and windows of HTTP/2 connections. Each has its reason; those of the HBONE profile are what a ztunnel uses, so
 * that bulk through a tunnel is not throttled by HTTP/2's small defaults.
 */

export const ROLE_CLIENT = 0
export const ROLE_SERVER = 1
export type Role = typeof ROLE_CLIENT | typeof ROLE_SERVER

/** What one connection promises its peer, and holds it to. */
export interface H2Settings {
  readonly role: Role
  /** Bytes in flight towards us on one stream. */
  readonly streamWindowBytes: number
  /** Bytes in flight towards us on the connection. */
  readonly connectionWindowBytes: number
  /** Largest frame payload we take. Frames are passed on in pieces as they arrive, never collected. */
  readonly frameBytesMax: number
  /** Largest header list we take: names, values and 32 bytes per pair. */
  readonly headerListBytesMax: number
  /** Streams the peer may have open at a time; 0 for clients (a server never opens any). */
  readonly peerStreamsMax: number
}

/** 4 MiB: more than the bandwidth-delay product of 10 Gbit/s at 3 ms. */
const STREAM_WINDOW_BYTES = 4 << 20
/** 16 MiB: four stalled streams before the others feel it, and see HELD_BYTES_FREE. */
const CONNECTION_WINDOW_BYTES = 16 << 20
/** 1 MiB: costs nothing, since frames are never collected, and saves the sender frame headers. */
const FRAME_BYTES_MAX = 1 << 20

/** HBONE, the side that opens tunnels. 16 KiB: the answer to CONNECT has a handful of headers. */
export const HBONE_CLIENT_SETTINGS: H2Settings = {
  role: ROLE_CLIENT,
  streamWindowBytes: STREAM_WINDOW_BYTES,
  connectionWindowBytes: CONNECTION_WINDOW_BYTES,
  frameBytesMax: FRAME_BYTES_MAX,
  headerListBytesMax: 16_384,
  peerStreamsMax: 0,
}

/** HBONE, the side that serves tunnels. 200 streams: twice what a client of ours or a ztunnel opens on a connection. */
export const HBONE_SERVER_SETTINGS: H2Settings = {
  role: ROLE_SERVER,
  streamWindowBytes: STREAM_WINDOW_BYTES,
  connectionWindowBytes: CONNECTION_WINDOW_BYTES,
  frameBytesMax: FRAME_BYTES_MAX,
  headerListBytesMax: 65_536,
  peerStreamsMax: 200,
}

/** Backlog of a stream, or of the connection's sink, above which a writer waits for the drain event. As in transport. */
export const BACKLOG_HIGH = 262_144

/**
 * Bytes kept for streams whose readers are paused that do not hold up the connection's window. 32 MiB: eight stalled
 * streams on top of the connection window's four. What one connection can cost is this plus the window.
 */
export const HELD_BYTES_FREE = 32 << 20

/** Bytes that a stream queues for a slow peer. A writer that heeds the backlog stays far below; beyond it is reset. */
export const SEND_QUEUE_BYTES_MAX = 16 << 20

/**
 * A header block in its compressed form, as a multiple of the largest list. Plain literals are at most as long as the
 * list they make, so twice that still tells "too large" (an error of the stream) from abuse (of the connection).
 */
export const HEADER_BLOCK_FACTOR = 2

/** CONTINUATION frames of one block. 128 KiB in frames of 16 KiB are eight. */
export const CONTINUATION_FRAMES_MAX = 16

/** Pairs in one SETTINGS frame. Ten are defined so far; each costs us little. */
export const SETTINGS_PAIRS_MAX = 64

/** Bytes of unknown frames and padding are skipped as they come; only their number counts, as ABUSE_FRAMES. */

/**
 * Streams that end in RST_STREAM: 1,000 at once, then 500 a second. A client that cancels all its tunnels at once is
 * fine; rapid reset attacks send some 100,000 a second.
 */
export const RESETS_BURST = 1000
export const RESETS_PER_SECOND = 500

/**
 * Frames that carry nothing and cost us an answer or a call: PING, SETTINGS, empty DATA, PRIORITY, unknown types.
 * 1,000 at once, then 100 a second; keepalives send one in ten seconds.
 */
export const IDLE_FRAMES_BURST = 1000
export const IDLE_FRAMES_PER_SECOND = 100

/** Own resets that are remembered, because frames of the peer may still be under way. Twice the streams of a connection. */
export const RECENT_RESETS_MAX = 512
