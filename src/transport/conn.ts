/**
 * The transport seam: everything protocol code knows of sockets and TLS. Interfaces only.
 *
 * A `Conn` is one ordered, two-way byte stream: a TCP socket, a TLS session, an HBONE tunnel stream, or one end of an
 * in-memory pipe. Protocol code cannot tell them apart. Rules that every implementation keeps:
 *
 *  - `onOpen` comes first and once, and never inside the call that made the Conn. After `onClose` nothing comes.
 *  - Bytes handed to `onBytes` are lent: valid until it returns. Who keeps them copies them.
 *  - `write` takes all bytes before it returns (the caller may reuse its buffer at once).
 *  - `onEnd` is the peer's half-close: it will send no more, we may still write.
 *  - `onClose(conn, null)` means that both directions ended in order; an error means reset, refusal, time-out or TLS
 *    failure. A reset is never reported as an end.
 *  - Calls on a closed Conn do nothing.
 *
 * Closing states:
 *
 *      open --end()--> write side ended --peer's end--> closed (onClose null)
 *      open --peer's end--> onEnd ------end()---------> closed (onClose null)
 *      any  --abort()--> closed; the peer sees a reset. The local handler gets onClose with no error.
 *      any  --peer's reset--> onClose(error)
 */
import type { WeftError } from '../base/errors.ts'
import type { Datagrams } from './datagram.ts'

/** A connection: TCP, TLS or a tunnel. See the head of the file. */
export interface Conn {
  /** Who is told what happens. May be replaced at any time, for instance once the protocol is known. */
  handler: Handler
  /** Bytes taken by `write` and not yet with the kernel (or, for a tunnel, with its connection). */
  readonly backlog: number
  readonly isClosed: boolean
  /** Canonical addresses. On a captured connection the local one is the original destination. */
  readonly localAddress: string
  readonly localPort: number
  readonly remoteAddress: string
  readonly remotePort: number
  /** SPIFFE identity that the peer's certificate proved; null without mutual TLS. */
  readonly peerIdentity: string | null
  /** Application protocol that TLS agreed on (RFC 7301); null without TLS, and inside a tunnel. */
  readonly alpn: string | null

  /** Takes `length` bytes from `offset`; returns the backlog. Above `BACKLOG_HIGH` stop writing until `onDrain`. */
  write(bytes: Uint8Array, offset: number, length: number): number
  /** Half-closes: what was written is still sent. */
  end(): void
  /** Drops everything and resets the connection. */
  abort(): void
  /** Sends what was written, then closes both directions without waiting for the peer. */
  close(): void
  /** Counted: each pause needs its own resume (several parties may hold a connection back). */
  pauseReading(): void
  resumeReading(): void
  /**
   * Resets the connection if nothing is received or sent for this long; 0 switches it off. Used sparingly: see the
   * timer wheel for timeouts with a meaning of their own.
   */
  setIdleTimeout(timeoutMs: number): void
}

/** Who is told what a connection does. */
export interface Handler {
  onOpen(conn: Conn): void
  /** `bytes[offset..end)` arrived; lent until return. */
  onBytes(conn: Conn, bytes: Uint8Array, offset: number, end: number): void
  onEnd(conn: Conn): void
  /** The backlog fell to zero after a `write` had returned more than `BACKLOG_HIGH`. */
  onDrain(conn: Conn): void
  onClose(conn: Conn, error: WeftError | null): void
  /**
   * What carries this connection takes no new ones (a tunnel's connection that drains). It goes on, for as long as it is
   * needed; who would keep it for later use should not. May come more than once.
   */
  onRetiring?(conn: Conn): void
}

/** Backlog above which a writer must wait for `onDrain`. 256 KiB: a few round trips of bulk at 10 Gbit/s. */
export const BACKLOG_HIGH = 262_144

/** Credentials of one identity, as TLS uses them. Made by `Transport.tlsContext`; replaced whole at rotation. */
export interface TlsContext {
  readonly identity: string
  readonly options: TlsOptions
}

/** What credentials are used for: made once for the tunnels, and once more for a listener of another kind. */
export interface TlsOptions {
  /** Application protocols, best first. A peer that offers none of them is refused with the alert for that. */
  readonly alpn: readonly string[]
  /**
   * Clients may come back to a listener, at any worker of the process, without another full handshake: for an hour at
   * most, while their certificate lasts, and only to the same identity, bundle and protocols. Off for HBONE. What we
   * dial is never resumed. The transport on node:tls never resumes.
   */
  readonly isResumable: boolean
}

/** HBONE: HTTP/2 alone, and every connection proves anew who it is. */
export const TLS_OF_TUNNELS: TlsOptions = { alpn: ['h2'], isResumable: false }

/** PEM texts. `key` never leaves the process. */
export interface TlsMaterial {
  readonly identity: string
  /** Leaf first, then intermediates. */
  readonly certificateChain: string
  readonly key: string
  /** Trusted roots. */
  readonly bundle: string
  /** Peers must have a SPIFFE identity in this trust domain. */
  readonly trustDomain: string
}

/** Gives the context to use for the next handshake, so that a rotation reaches listeners that are already open. */
export interface TlsContextSource {
  /** The address is the connection's local one, which on a captured connection is its original destination. */
  current(localAddress: string, localPort: number): TlsContext | null
}

/** Where a listener listens: a descriptor that is already bound (by the capture), or an address to bind. */
export type ListenTarget =
  | { readonly fd: number }
  | { readonly address: string; readonly port: number; readonly isShared: boolean }

/** From where a connection is made: a descriptor of an unconnected socket (in a pod's netns), or a local address. */
export interface ConnectOrigin {
  readonly fd: number | null
  readonly localAddress: string | null
}

export const ORIGIN_ANY: ConnectOrigin = { fd: null, localAddress: null }

/** Who is told of connections that a listener accepts. */
export interface Acceptor {
  /** A connection was accepted (and, with TLS, its handshake is done). Returns its handler; `onOpen` follows. */
  onAccept(conn: Conn): Handler
  /** A TLS handshake failed, or accepting did. `remoteAddress` may be empty. */
  onAcceptError(error: WeftError, remoteAddress: string): void
}

/** A listener that was opened. */
export interface ListenerHandle {
  /** The port that is really bound. */
  readonly port: number
  readonly address: string
  /** Stops accepting. Open connections live on. */
  close(): void
}

/** Opens connections and listeners. One per thread. */
export interface Transport {
  /** Rejects with WeftError WEFT_SYSCALL when the address cannot be bound. */
  listen(target: ListenTarget, tls: TlsContextSource | null, acceptor: Acceptor): Promise<ListenerHandle>
  /**
   * Connects; the outcome comes as `handler.onOpen` or `onClose(error)`. With TLS the peer must prove exactly one of
   * `expectedIdentities` (WEFT_PEER_IDENTITY otherwise). Takes ownership of `origin.fd` in every case.
   */
  connect(options: ConnectOptions, handler: Handler): Conn
  /** For tunnels, unless told otherwise. Throws WeftError WEFT_CERTIFICATE when key, chain or bundle are not usable. */
  tlsContext(material: TlsMaterial, options?: TlsOptions): TlsContext
  /** UDP sockets, where the transport has them. */
  readonly datagrams?: Datagrams
  /** Runs `flushable.flush()` once at the end of the current batch of events (coalesced output). */
  atBatchEnd(flushable: Flushable): void
}

/** Where to, from where, and who must be there. */
export interface ConnectOptions {
  readonly address: string
  readonly port: number
  readonly origin: ConnectOrigin
  readonly timeoutMs: number
  readonly tls: TlsContext | null
  readonly expectedIdentities: readonly string[]
}

/** An object with output to flush; `isFlushPending` guards against being queued twice. */
export interface Flushable {
  isFlushPending: boolean
  flush(): void
}
