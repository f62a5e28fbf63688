/** Limits and sizes of the node:net transport. Tests set smaller ones; programs use the defaults. */

export interface NodeTransportSettings {
  /** Time that a TLS client has for its handshake, milliseconds. */
  readonly handshakeTimeoutMs: number
  /** Unfinished handshakes of one listener; beyond it a connection is reset at once. */
  readonly handshakesMax: number
  /** A closing connection whose peer takes nothing for this long is reset, milliseconds. */
  readonly closeStallMs: number
  /** How long a closed connection waits for the peer's end before it is dropped, milliseconds. */
  readonly lingerMs: number
  /** A listener that cannot accept says so at most once in this time, milliseconds. */
  readonly acceptReportMs: number
}

export const DEFAULT_NODE_TRANSPORT_SETTINGS: NodeTransportSettings = {
  // What ztunnel gives a whole connect; a healthy handshake takes milliseconds.
  handshakeTimeoutMs: 10_000,
  // At about 50 KB each, what peers that connect and say nothing can take is bounded by 50 MB.
  handshakesMax: 1_024,
  // A live peer that reads at all makes progress well within this.
  closeStallMs: 10_000,
  // Longer than the round trip on any path inside a cluster.
  lingerMs: 1_000,
  // At its limit a process accepts whenever a connection ends: one line per ten seconds says the same.
  acceptReportMs: 10_000,
}

/** Idle time before TCP probes a silent peer. 180 s: as ztunnel; a vanished node frees its connections in minutes. */
export const KEEP_ALIVE_MS = 180_000
