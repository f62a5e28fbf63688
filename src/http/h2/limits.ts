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
  /** The same while paused receivers hold much (HELD_BYTES_NARROW); left out when it never changes. */
  readonly narrowWindowBytes?: number
  /** Bytes in flight towards us on the connection. */
  readonly connectionWindowBytes: number
  /** Largest frame payload we take. Frames are passed on in pieces as they arrive, never collected. */
  readonly frameBytesMax: number
  /** Largest header list we take: names, values and 32 bytes per pair. */
  readonly headerListBytesMax: number
  /** Streams the peer may have open at a time; 0 for clients (a server never opens any). */
  readonly peerStreamsMax: number
  /** Server: CONNECT may name a protocol (RFC 8441), as WebSocket over HTTP/2 does. */
  readonly acceptsProtocols?: boolean
  /** The peer is an application, whose tiny DATA frames are its own doing (TINY_DATA_BURST). */
  readonly boundsTinyData?: boolean
}

/** 4 MiB: more than the bandwidth-delay product of 10 Gbit/s at 3 ms. */
const STREAM_WINDOW_BYTES = 4 << 20
/** 64 KiB: a hundred stalled streams take less than half of what the connection's window is, and 1 ms is 500 Mbit/s still. */
const NARROW_WINDOW_BYTES = 65_536
/** 16 MiB: four stalled streams before the others feel it, and see HELD_BYTES_FREE. */
const CONNECTION_WINDOW_BYTES = 16 << 20
/** 1 MiB: costs nothing, since frames are never collected, and saves the sender frame headers. */
const FRAME_BYTES_MAX = 1 << 20

/** HBONE, the side that opens tunnels. 16 KiB: the answer to CONNECT has a handful of headers. */
export const HBONE_CLIENT_SETTINGS: H2Settings = {
  role: ROLE_CLIENT,
  streamWindowBytes: STREAM_WINDOW_BYTES,
  narrowWindowBytes: NARROW_WINDOW_BYTES,
  connectionWindowBytes: CONNECTION_WINDOW_BYTES,
  frameBytesMax: FRAME_BYTES_MAX,
  headerListBytesMax: 16_384,
  peerStreamsMax: 0,
}

/** HBONE, the side that serves tunnels. 200 streams: twice what a client of ours or a ztunnel opens on a connection. */
export const HBONE_SERVER_SETTINGS: H2Settings = {
  role: ROLE_SERVER,
  streamWindowBytes: STREAM_WINDOW_BYTES,
  narrowWindowBytes: NARROW_WINDOW_BYTES,
  connectionWindowBytes: CONNECTION_WINDOW_BYTES,
  frameBytesMax: FRAME_BYTES_MAX,
  headerListBytesMax: 65_536,
  peerStreamsMax: 200,
}

/**
 * Bytes in flight on one stream of an application. 1 MiB: 4 Gbit/s at 2 ms between zones, and not more than what a slow
 * reader may make the proxy hold for it.
 */
const APP_STREAM_WINDOW_BYTES = 1 << 20
/** 4 MiB: four bulk streams at full speed; given back at once, so that it never holds a stream up (HELD_BYTES_FREE). */
const APP_CONNECTION_WINDOW_BYTES = 4 << 20
/** 64 KiB: one read of a socket. Larger frames would let one stream delay the others at the sender. */
const APP_FRAME_BYTES_MAX = 65_536
/** 64 KiB, as for HTTP/1.1: a head is held in memory before anyone is authorised. */
const APP_HEADER_LIST_BYTES_MAX = 65_536

/** An application's server, seen from its client's side. */
export const APP_CLIENT_SETTINGS: H2Settings = {
  role: ROLE_CLIENT,
  streamWindowBytes: APP_STREAM_WINDOW_BYTES,
  connectionWindowBytes: APP_CONNECTION_WINDOW_BYTES,
  frameBytesMax: APP_FRAME_BYTES_MAX,
  headerListBytesMax: APP_HEADER_LIST_BYTES_MAX,
  peerStreamsMax: 0,
}

/**
 * An application's client. 1,000 streams: gRPC clients keep long-lived streams by the hundred on one connection and wait
 * for ever when there is no room; and as many as may be cancelled at once (RESETS_BURST).
 */
export const APP_SERVER_SETTINGS: H2Settings = {
  role: ROLE_SERVER,
  streamWindowBytes: APP_STREAM_WINDOW_BYTES,
  connectionWindowBytes: APP_CONNECTION_WINDOW_BYTES,
  frameBytesMax: APP_FRAME_BYTES_MAX,
  headerListBytesMax: APP_HEADER_LIST_BYTES_MAX,
  peerStreamsMax: 1000,
  acceptsProtocols: true,
  boundsTinyData: true,
}

/** Streams on a connection to a server that has not told its limit yet: what RFC 9113 section 6.5.2 asks servers to allow. */
export const STREAMS_BEFORE_SETTINGS_MAX = 100

/** Streams on one connection, whatever the server allows: beyond it another connection serves everyone better. */
export const CLIENT_STREAMS_MAX = 1000

/** Fields of one head. 128, as for HTTP/1.1: each costs a look in every search by name. */
export const FIELD_COUNT_MAX = 128

/** Interim responses to one request. 16, as for HTTP/1.1. */
export const INFORMATIONAL_COUNT_MAX = 16

/** Backlog of a stream, or of the connection's sink, above which a writer waits for the drain event. As in transport. */
export const BACKLOG_HIGH = 262_144

/**
 * Bytes kept for streams whose readers are paused that do not hold up the connection's window. 32 MiB: eight stalled
 * streams on top of the connection window's four. What one connection can cost is this plus the window.
 */
export const HELD_BYTES_FREE = 32 << 20

/**
 * Bytes kept for paused readers above which streams' windows are made narrow. 8 MiB: two stalled streams; with what is
 * under way until the peer knows, and a narrow window for each of a hundred, it stays below HELD_BYTES_FREE.
 */
export const HELD_BYTES_NARROW = 8 << 20
/** And wide again, at one of the owner's looks, below this: less than half of one stream's window. */
export const HELD_BYTES_WIDE = 1 << 20

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

/**
 * Streams that end in RST_STREAM: 1,000 at once, then 500 a second. A client that cancels all its tunnels at once is
 * fine; rapid reset attacks send some 100,000 a second.
 */
export const RESETS_BURST = 1000
export const RESETS_PER_SECOND = 500

/**
 * Frames that carry nothing and cost us an answer or a call: PING, SETTINGS, GOAWAY, empty DATA, PRIORITY, unknown types,
 * RST_STREAM of streams that are over. 1,000 at once, then 100 a second; keepalives send one in ten seconds.
 */
export const IDLE_FRAMES_BURST = 1000
export const IDLE_FRAMES_PER_SECOND = 100
/**
 * And one for every stream and for every DATA frame that we send: gRPC clients measure the bandwidth of a transfer with a
 * PING per round trip, which inside a data centre is thousands a second; browsers send a priority with each request.
 */
export const IDLE_FRAMES_PER_WORK = 1

/** Window updates below this count: real ones open a good part of a window, dribbles (CVE-2019-9511) single bytes. */
export const TINY_UPDATE_BYTES = 1024
/**
 * Tiny window updates, and those for streams that are over: 1,000 at once, then 1,000 a second, and two for each stream
 * and DATA frame of ours, so that a client may return the bytes of every small answer to both windows.
 */
export const TINY_UPDATES_BURST = 1000
export const TINY_UPDATES_PER_SECOND = 1000
export const TINY_UPDATES_PER_WORK = 2

/** DATA frames below this are tiny: less than the frame around them and a gRPC message's prefix. */
export const TINY_DATA_BYTES = 16
/**
 * Tiny DATA frames of an application: 100,000 at once, then 50,000 a second. Streams of small messages send that many
 * only in benchmarks; it is the share of a worker that one connection may take with frames that are nearly all overhead.
 */
export const TINY_DATA_BURST = 100_000
export const TINY_DATA_PER_SECOND = 50_000

/**
 * Output that a peer leaves unread. DATA stops at BACKLOG_HIGH; this is for what does not: heads of answers and
 * acknowledgements. 8 MiB: a thousand heads of 8 KiB each.
 */
export const OUTPUT_BYTES_MAX = 8 << 20

/**
 * Bytes that all streams of a connection together may queue before each is told to stop at its first unsent byte.
 * 8 MiB: 32 streams with full queues; without it a client that opens a thousand streams and no window would make us hold
 * BACKLOG_HIGH for each.
 */
export const QUEUED_BYTES_HIGH = 8 << 20

/** Own resets that are remembered, because frames of the peer may still be under way. Twice the streams of a connection. */
export const RECENT_RESETS_MAX = 512
