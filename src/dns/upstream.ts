/** The seam between the DNS logic and whoever has the sockets: questions go out by `Upstream`, answers come back. */

/** Why a forwarded query got no reply. Metrics know these words. */
export type ForwardFailure =
  /** The resolver's host said that nobody listens there. */
  | 'refused'
  /** No route, or no socket could be made. */
  | 'unreachable'
  /** A TCP connection ended before the reply. */
  | 'closed'
  /** The sockets of the worker or of the pod are used up. */
  | 'exhausted'

/** Told how a forwarded query went: `onReply` any number of times (replies may be forged), `onFailure` at most once. */
export interface ReplyHandler {
  /** A whole message that came from the resolver's address and port. The bytes are the handler's from now on. */
  onReply(bytes: Uint8Array): void
  /** There will be no reply, and no further call. */
  onFailure(reason: ForwardFailure): void
}

/** A forwarded query that somebody may lose interest in. */
export interface Cancellation {
  /** Releases the sockets; no call of the handler follows. No effect when it is over. Always called exactly once. */
  cancel(): void
}

/** Sends queries to the resolvers of pods. */
export interface Upstream {
  /**
   * Sends `bytes` (a whole message; over TCP the length prefix is the implementer's) from the network namespace of pod
   * `source` to port 53 of `resolverAddress`, over UDP from a port that cannot be guessed. The bytes stay the caller's
   * after the call. May call the handler before it returns.
   */
  forward(
    source: string,
    resolverAddress: string,
    bytes: Uint8Array,
    isTcp: boolean,
    handler: ReplyHandler,
  ): Cancellation
}
