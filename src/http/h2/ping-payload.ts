/** What our PINGs carry, so that an answer tells which of them it answers (RFC 9113 section 6.7). */

export const PING_KEEPALIVE: Uint8Array = Buffer.from('weftlive', 'latin1')
export const PING_DRAIN: Uint8Array = Buffer.from('weftdrai', 'latin1')

/** True when the eight bytes at `offset` are `payload`. */
export function isPayload(bytes: Uint8Array, offset: number, payload: Uint8Array): boolean {
  for (let i = 0; i < payload.length; i++) if (bytes[offset + i] !== payload[i]) return false
  return true
}
