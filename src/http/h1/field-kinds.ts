// Hot path: see ARCHITECTURE.md, "Hot path rules".
/** The headers that the engine acts on, told from their name's bytes. Everything else is FIELD_OTHER and is forwarded. */
import { equalsTokenLower } from '../../base/bytes.ts'

export const FIELD_OTHER = 0
export const FIELD_HOST = 1
export const FIELD_CONTENT_LENGTH = 2
export const FIELD_TRANSFER_ENCODING = 3
export const FIELD_CONNECTION = 4
export const FIELD_UPGRADE = 5
export const FIELD_EXPECT = 6
export const FIELD_TE = 7
/** Keep-Alive and Proxy-Connection: never looked at, never forwarded. */
export const FIELD_HOP = 8
/** Named by Connection: not forwarded either. */
export const FIELD_NOMINATED = 9

/** Kinds that a name alone decides: all but FIELD_NOMINATED. */
export const NAMED_KIND_COUNT = 9

/** Kind of the field whose name is `bytes[start..start + length)`, in any case. */
export function fieldKind(bytes: Uint8Array, start: number, length: number): number {
  switch (length) {
    case 2:
      return equalsTokenLower(bytes, start, 'te') ? FIELD_TE : FIELD_OTHER
    case 4:
      return equalsTokenLower(bytes, start, 'host') ? FIELD_HOST : FIELD_OTHER
    case 6:
      return equalsTokenLower(bytes, start, 'expect') ? FIELD_EXPECT : FIELD_OTHER
    case 7:
      return equalsTokenLower(bytes, start, 'upgrade') ? FIELD_UPGRADE : FIELD_OTHER
    case 10:
      if (equalsTokenLower(bytes, start, 'connection')) return FIELD_CONNECTION
      return equalsTokenLower(bytes, start, 'keep-alive') ? FIELD_HOP : FIELD_OTHER
    case 14:
      return equalsTokenLower(bytes, start, 'content-length') ? FIELD_CONTENT_LENGTH : FIELD_OTHER
    case 16:
      return equalsTokenLower(bytes, start, 'proxy-connection') ? FIELD_HOP : FIELD_OTHER
    case 17:
      return equalsTokenLower(bytes, start, 'transfer-encoding') ? FIELD_TRANSFER_ENCODING : FIELD_OTHER
    default:
      return FIELD_OTHER
  }
}

/** Names, and beginnings of names, that say who asks and what for. */
const FOR_EVERY_HOP: readonly string[] = ['authorization', 'cookie', 'forwarded', 'x-real-ip', 'x-request-id']
const FOR_EVERY_HOP_PREFIXES: readonly string[] = ['x-forwarded-', 'x-envoy-']

/**
 * False for a header (lower case) that Connection must not name: whoever could, would decide which of a request's
 * credentials and origins the next hop gets to see. RFC 9110 section 7.6.1 forbids it to the sender.
 */
export function mayBeNominated(name: string): boolean {
  if (FOR_EVERY_HOP.includes(name)) return false
  for (const prefix of FOR_EVERY_HOP_PREFIXES) if (name.startsWith(prefix)) return false
  return true
}
