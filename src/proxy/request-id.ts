// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * `x-request-id`: the name under which the log lines of all proxies and apps on a request's way can be found together.
 * Made where a request enters the mesh, unless the app brought one; then passed on as it is.
 */
import type { HeaderList } from '../http/headers.ts'

const HEX: readonly string[] = Array.from({ length: 256 }, (_, byte) => byte.toString(16).padStart(2, '0'))

/** Adds an id in the form of a random UUID (RFC 9562 section 5.4) where there is none. `random` gives [0, 1). */
export function addRequestId(headers: HeaderList, random: () => number): void {
  if (headers.has('x-request-id')) return
  const a = (random() * 0x1_0000_0000) | 0
  const b = (random() * 0x1_0000_0000) | 0
  const c = (random() * 0x1_0000_0000) | 0
  const d = (random() * 0x1_0000_0000) | 0
  const id =
    `${pair(a >>> 16)}${pair(a)}-${pair(b >>> 16)}-${pair((b & 0x0fff) | 0x4000)}` +
    `-${pair(((c >>> 16) & 0x3fff) | 0x8000)}-${pair(c)}${pair(d >>> 16)}${pair(d)}`
  headers.append('x-request-id', id)
}

function pair(bits: number): string {
  return HEX[(bits >>> 8) & 0xff]! + HEX[bits & 0xff]!
}
