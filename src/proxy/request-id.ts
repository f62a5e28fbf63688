// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * `x-request-id`: the name under which the log lines of all proxies and apps on a request's way can be found together.
 * Made where a request enters the mesh, unless the app brought one; then passed on as it is.
 */
import { latin1Slice } from '../base/bytes.ts'
import type { HeaderList } from '../http/headers.ts'

const LENGTH = 36
const DASH = 0x2d
const DIGITS: readonly number[] = Array.from('0123456789abcdef', (digit) => digit.charCodeAt(0))

/** Where ids are spelled: strings put together from pieces would cost ten times the memory of the id. */
const spelled = new Uint8Array(LENGTH).fill(DASH)

/** Adds an id in the form of a random UUID (RFC 9562 section 5.4) where there is none. `random` gives [0, 1). */
export function addRequestId(headers: HeaderList, random: () => number): void {
  if (!headers.has('x-request-id')) headers.append('x-request-id', newRequestId(random))
}

/** A random UUID. */
export function newRequestId(random: () => number): string {
  const a = (random() * 0x1_0000_0000) | 0
  const b = (random() * 0x1_0000_0000) | 0
  const c = (random() * 0x1_0000_0000) | 0
  const d = (random() * 0x1_0000_0000) | 0
  spell(a >>> 16, 0)
  spell(a, 4)
  spell(b >>> 16, 9)
  spell((b & 0x0fff) | 0x4000, 14)
  spell(((c >>> 16) & 0x3fff) | 0x8000, 19)
  spell(c, 24)
  spell(d >>> 16, 28)
  spell(d, 32)
  return latin1Slice(spelled, 0, LENGTH)
}

/** Four digits of the lower 16 bits. */
function spell(bits: number, at: number): void {
  spelled[at] = DIGITS[(bits >>> 12) & 0xf]!
  spelled[at + 1] = DIGITS[(bits >>> 8) & 0xf]!
  spelled[at + 2] = DIGITS[(bits >>> 4) & 0xf]!
  spelled[at + 3] = DIGITS[bits & 0xf]!
}
