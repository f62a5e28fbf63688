// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * What was read of a request's body and is still needed: by a connection that is yet to come, or by another try.
 *
 * A body is held in whole or not at all: one that lost a byte (because it is long, or because nothing could have sent it
 * again) is LOST_BODY from then on, and its request is never repeated. Which bodies are worth holding is decided where a
 * request meets its connection (Exchange.onUpstream), since HTTP/1 says less of what was not processed than HTTP/2.
 */
import { assert } from '../base/assert.ts'
import { BytePieces } from '../base/byte-pieces.ts'
import type { ClientStream } from '../http/codec.ts'
import type { MirroredRequest } from './mirror.ts'

/** Request body kept for another try. 64 KiB as in Linkerd: more costs memory and is seldom idempotent. */
export const REPLAY_BYTES_MAX = 65_536

/** The body of one request, as far as it was read. */
export class HeldBody {
  private readonly pieces: BytePieces
  private length: number

  constructor(length: number) {
    this.pieces = new BytePieces()
    this.length = length
  }

  /** All that was read is here, and it is not more than may be kept. */
  get canReplay(): boolean {
    return this.length <= REPLAY_BYTES_MAX
  }

  /** True when `length` further bytes may be kept for another try as well. */
  hasRoom(length: number): boolean {
    return this.length + length <= REPLAY_BYTES_MAX
  }

  add(/* lent */ bytes: Uint8Array, offset: number, end: number): void {
    assert(this !== LOST_BODY, 'a body that lost a byte goes to no other connection')
    this.length += end - offset
    this.pieces.add(bytes, offset, end)
  }

  writeTo(client: ClientStream): void {
    for (const piece of this.pieces.all()) client.writeBody(piece, 0, piece.length)
  }

  copyTo(mirror: MirroredRequest): void {
    for (const piece of this.pieces.all()) mirror.add(piece, 0, piece.length)
  }
}

/** A body of which bytes are gone. Shared: nothing is ever added to it. */
export const LOST_BODY: HeldBody = new HeldBody(REPLAY_BYTES_MAX + 1)
