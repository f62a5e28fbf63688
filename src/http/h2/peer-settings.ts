/** The peer's SETTINGS: values, bounds, and what a change means (RFC 9113 section 6.5.2). */
import {
  ERROR_FLOW_CONTROL,
  ERROR_NONE,
  ERROR_PROTOCOL,
  FRAME_BYTES_DEFAULT,
  FRAME_BYTES_LARGEST,
  SETTING_ENABLE_CONNECT_PROTOCOL,
  SETTING_ENABLE_PUSH,
  SETTING_HEADER_TABLE_SIZE,
  SETTING_INITIAL_WINDOW_SIZE,
  SETTING_MAX_CONCURRENT_STREAMS,
  SETTING_MAX_FRAME_SIZE,
  WINDOW_BYTES_DEFAULT,
  WINDOW_BYTES_LARGEST,
} from './frame.ts'
import { readUint32 } from './frame-intake.ts'
import { ROLE_CLIENT, type Role } from './limits.ts'

export class PeerSettings {
  /** Streams we may open; no limit until the peer states one. */
  streamsMax = Number.POSITIVE_INFINITY
  frameBytesMax = FRAME_BYTES_DEFAULT
  windowBytes = WINDOW_BYTES_DEFAULT
  headerTableBytes = 4096
  /** The peer has sent its settings. */
  isKnown = false
  /** CONNECT may name a protocol (RFC 8441). */
  acceptsProtocols = false
  private readonly role: Role

  /** `role` is ours. */
  constructor(role: Role) {
    this.role = role
  }

  /** Applies the payload of a SETTINGS frame. Returns an error code, ERROR_NONE when all is well. */
  apply(bytes: Uint8Array, offset: number, end: number): number {
    this.isKnown = true
    for (let at = offset; at < end; at += 6) {
      const error = this.applyOne((bytes[at]! << 8) | bytes[at + 1]!, readUint32(bytes, at + 2))
      if (error !== ERROR_NONE) return error
    }
    return ERROR_NONE
  }

  private applyOne(identifier: number, value: number): number {
    switch (identifier) {
      case SETTING_HEADER_TABLE_SIZE:
        this.headerTableBytes = value
        return ERROR_NONE
      case SETTING_ENABLE_PUSH:
        // A server must not announce push at all; we never push, whatever a client says.
        return value > 1 || (value === 1 && this.role === ROLE_CLIENT) ? ERROR_PROTOCOL : ERROR_NONE
      case SETTING_MAX_CONCURRENT_STREAMS:
        this.streamsMax = value
        return ERROR_NONE
      case SETTING_INITIAL_WINDOW_SIZE:
        if (value > WINDOW_BYTES_LARGEST) return ERROR_FLOW_CONTROL
        this.windowBytes = value
        return ERROR_NONE
      case SETTING_MAX_FRAME_SIZE:
        if (value < FRAME_BYTES_DEFAULT || value > FRAME_BYTES_LARGEST) return ERROR_PROTOCOL
        this.frameBytesMax = value
        return ERROR_NONE
      case SETTING_ENABLE_CONNECT_PROTOCOL:
        // Once allowed it must not be taken back (RFC 8441 section 3).
        if (value > 1 || (value === 0 && this.acceptsProtocols)) return ERROR_PROTOCOL
        this.acceptsProtocols = value === 1
        return ERROR_NONE
      default:
        // Unknown settings are ignored; the header list size is advice that our lists never come near.
        return ERROR_NONE
    }
  }
}
