// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Rules for header lists (RFC 9113 sections 8.1 to 8.3, 8.5). The characters of names and values are checked by the HPACK
 * decoder; here it is the order and set of pseudo-headers, and what HTTP/2 forbids.
 *
 * Lists are flat: names and values alternate. A check returns null, or a short reason why the message is malformed.
 */

const COLON = 0x3a

/** Value of the first field called `name`; null when there is none. */
export function fieldValue(fields: readonly string[], name: string): string | null {
  for (let i = 0; i < fields.length; i += 2) if (fields[i] === name) return fields[i + 1]!
  return null
}

/** Content-Length of the list: -1 without one, -2 when it is not one number. */
export function contentLengthOf(fields: readonly string[]): number {
  let text: string | null = null
  for (let i = 0; i < fields.length; i += 2) {
    if (fields[i] !== 'content-length') continue
    if (text !== null && text !== fields[i + 1]) return -2
    text = fields[i + 1]!
  }
  if (text === null) return -1
  // Fifteen digits stay exact in a double.
  if (text.length === 0 || text.length > 15) return -2
  for (let i = 0; i < text.length; i++) {
    const digit = text.charCodeAt(i) - 48
    if (digit < 0 || digit > 9) return -2
  }
  return Number(text)
}

/** Status of a response list, 100..599; -1 when it has none or a bad one. */
export function statusOf(fields: readonly string[]): number {
  if (fields[0] !== ':status') return -1
  const text = fields[1]!
  if (text.length !== 3) return -1
  let status = 0
  for (let i = 0; i < 3; i++) {
    const digit = text.charCodeAt(i) - 48
    if (digit < 0 || digit > 9) return -1
    status = status * 10 + digit
  }
  return status >= 100 && status <= 599 ? status : -1
}

/** `mayNameProtocol`: CONNECT may carry `:protocol`, and then has scheme and path as well (RFC 8441 section 4). */
export function checkRequest(fields: readonly string[], mayNameProtocol = false): string | null {
  let method: string | null = null
  let scheme: string | null = null
  let path: string | null = null
  let authority: string | null = null
  let protocol: string | null = null
  let at = 0
  for (; at < fields.length; at += 2) {
    const name = fields[at]!
    if (name.charCodeAt(0) !== COLON) break
    const value = fields[at + 1]!
    if (name === ':method' && method === null) method = value
    else if (name === ':scheme' && scheme === null) scheme = value
    else if (name === ':path' && path === null) path = value
    else if (name === ':authority' && authority === null) authority = value
    else if (name === ':protocol' && protocol === null && mayNameProtocol) protocol = value
    else return 'bad pseudo-header'
  }
  if (method === null || method === '') return 'no method'
  if (protocol !== null && (method !== 'CONNECT' || protocol === '' || authority === null)) return 'bad protocol'
  if (method === 'CONNECT' && protocol === null) {
    if (authority === null || scheme !== null || path !== null) return 'bad connect'
  } else {
    if (scheme === null || scheme === '' || path === null || path === '') return 'no scheme or path'
    if (path.charCodeAt(0) !== 0x2f && !(path === '*' && method === 'OPTIONS')) return 'bad path'
  }
  const reason = checkRegular(fields, at)
  if (reason !== null) return reason
  const host = fieldValue(fields, 'host')
  if (host !== null && authority !== null && host.toLowerCase() !== authority.toLowerCase()) return 'two hosts'
  return null
}

export function checkResponse(fields: readonly string[]): string | null {
  const status = statusOf(fields)
  if (status < 0) return 'no status'
  // 101 has no meaning in HTTP/2 (RFC 9113 section 8.6).
  if (status === 101) return 'status 101'
  return checkRegular(fields, 2)
}

export function checkTrailers(fields: readonly string[]): string | null {
  return checkRegular(fields, 0)
}

function checkRegular(fields: readonly string[], from: number): string | null {
  for (let i = from; i < fields.length; i += 2) {
    const name = fields[i]!
    if (name.charCodeAt(0) === COLON) return 'misplaced pseudo-header'
    switch (name) {
      case 'connection':
      case 'proxy-connection':
      case 'keep-alive':
      case 'transfer-encoding':
      case 'upgrade':
        return 'connection-specific header'
      case 'te':
        if (fields[i + 1] !== 'trailers') return 'bad te'
    }
  }
  return null
}
