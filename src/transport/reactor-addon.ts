/**
 * What the native reactor (native/addon/reactor_api.cc) exports. The loaded object comes from kernel/reactor-addon.ts.
 *
 * Ids carry a generation: a call with the id of a connection that is gone does nothing. Offsets and lengths are checked
 * in native code, a wrong one throws RangeError.
 */

import { WeftError } from '../base/errors.ts'

/** Credentials of one identity in OpenSSL's form; only handed back to the reactor. */
export interface NativeTlsContext {
  readonly native: unique symbol
}

export interface ReactorAddon {
  /** See REACTOR_REVISION. */
  readonly revision: number
  readonly opensslVersion: string
  /**
   * A reactor of the calling thread, or a negative errno. `onBatch(count)` is called with `count` events in `events`,
   * four numbers each: id, kind, a, b. If it throws it is called again, and goes on behind the event that threw.
   */
  createReactor(
    arena: Uint8Array,
    events: Int32Array,
    onBatch: (count: number) => void,
    backlogHigh: number,
    keepAliveSeconds: number,
    isPoisoning: boolean,
  ): Reactor | number
  /**
   * PEM texts; protocols as RFC 7301 writes them, each behind its length. `resumptionScope` is 32 bytes: a session is
   * resumed only where they are the same; null when none is. Throws Error with the reason when they cannot be used.
   */
  createTlsContext(
    chain: string,
    key: string,
    bundle: string,
    protocols: Uint8Array,
    resumptionScope: Uint8Array | null,
  ): NativeTlsContext
  /** OpenSSL's words for an error; empty when it has none. */
  describeTlsError(code: number): string
  describeVerifyResult(code: number): string
}

/**
 * What this file declares, counted up (with kRevision of reactor_api.cc) whenever a function or an event changes: an addon
 * of another revision would take its arguments for something else.
 */
export const REACTOR_REVISION = 2

/** What kernel/reactor-addon.ts has loaded. Throws WeftError WEFT_UNSUPPORTED when it was built from other sources. */
export function asReactorAddon(loaded: unknown): ReactorAddon {
  const addon = loaded as ReactorAddon
  if (addon.revision === REACTOR_REVISION) return addon
  throw new WeftError(
    'WEFT_UNSUPPORTED',
    `the reactor was built from other sources (revision ${addon.revision ?? 'none'}, ${REACTOR_REVISION} is needed); build it with \`make -C native\``,
  )
}

export interface Reactor {
  /** Id or negative errno. `fd` -1 binds the address; otherwise it is owned from success on. */
  listen(fd: number, address: string, port: number, isShared: boolean, isTls: boolean, backlog: number): number
  /** After EVENT_ACCEPT_FAILED. */
  resumeAccept(id: number): void
  /** Id or negative errno. Owns `fd`, unless it is -1, in every case. */
  connect(fd: number, address: string, port: number, localAddress: string, tls: NativeTlsContext | null): number
  /** The server's side of a handshake, on a connection accepted by a listener with TLS. */
  startTls(id: number, tls: NativeTlsContext): void
  /** After EVENT_SECURED of a dialled connection: finishes the handshake. Before it, nothing of ours is sent. */
  approve(id: number): void
  /** Takes all bytes; returns the backlog. They leave at the end of the batch, or at once when they are many. */
  write(id: number, bytes: Uint8Array, offset: number, length: number): number
  /** The same for bytes of the arena. */
  writeArena(id: number, offset: number, length: number): number
  backlog(id: number): number
  /** Half-closes behind what was written; EVENT_FINISHED tells when it is done. */
  end(id: number): void
  pause(id: number): void
  resume(id: number): void
  /** Sends nothing more and drops what arrives; EVENT_ENDED (or a failure) when there will be no more of it. */
  discard(id: number): void
  /**
   * Id or negative errno; owns `fd` in every case. With an address it is connected to it, and hears from it alone; else
   * it is bound already.
   */
  openDatagram(fd: number, address: string, port: number): number
  /** From a connected datagram socket, at once. 0 or negative errno. */
  sendDatagram(id: number, bytes: Uint8Array, offset: number, length: number): number
  /** Answers a datagram with these ends (see datagram.ts), at the end of the batch. */
  replyDatagram(id: number, ends: Uint8Array, bytes: Uint8Array, offset: number, length: number): void
  /** Datagrams that the kernel did not take, of all sockets. */
  droppedDatagrams(): number
  /** Gives the descriptor back to the kernel, with a reset if asked for. No event of the id follows. */
  close(id: number, isReset: boolean): void
  /** To be called at the end of a turn in which anything else was called outside of `onBatch`. */
  endBatch(): void
  /**
   * Local address and port, remote address and port of an IPv4 connection (also in IPv6's form), as numbers; an address
   * is its four bytes, the first one highest. False when it is not IPv4 or not known: see `endpoints`.
   */
  ipv4Ends(id: number, ends: Int32Array): boolean
  /** Canonical: local address, local port, remote address, remote port. */
  endpoints(id: number): [string, number, string, number]
  /**
   * The URI names in the peer's certificate, in the text form that subject-alt-name.ts reads; empty without one. To be
   * asked once: what else the peer had sent with its certificate is given back.
   */
  takePeerNames(id: number): string
  /** Open descriptors, those of listeners and datagram sockets among them. */
  connectionCount(): number
}

/** On a listener; a: the new connection's id. */
export const EVENT_ACCEPTED = 1
/** The TCP connection stands; with TLS the handshake begins. */
export const EVENT_CONNECTED = 2
/** The handshake is done and the chain verified; a: which of the context's protocols was agreed on, -1 for none. */
export const EVENT_SECURED = 3
/** a: offset in the arena, b: length. */
export const EVENT_BYTES = 4
export const EVENT_ENDED = 5
export const EVENT_FINISHED = 6
export const EVENT_DRAINED = 7
/** a: a FAILURE, above its low byte why a certificate was refused (X509_V_*); b: errno or OpenSSL's error. */
export const EVENT_FAILED = 8
/** On a listener, which accepts no more until `resumeAccept`; a: errno. */
export const EVENT_ACCEPT_FAILED = 9
/** On a datagram socket. a: offset of its ends in the arena, b: length of ends and datagram. */
export const EVENT_DATAGRAM = 10
/** On a datagram socket; a: errno. */
export const EVENT_DATAGRAM_FAILED = 11

export const FAILURE_ERRNO = 1
export const FAILURE_TLS = 2
/** TCP's end came before TLS's own. */
export const FAILURE_TRUNCATED = 3
export const FAILURE_FLOODED = 4
