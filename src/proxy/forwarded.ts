/** The `forwarded` header of HBONE tunnels (RFC 7239 syntax, as ztunnel writes it): who the client is, and the service. */

/** `for="ip:port"`, and `;host=<service>` when the client dialled a service. */
export function writeForwarded(clientHostPort: string, host: string): string {
  const forPart = clientHostPort === '' ? '' : `for="${clientHostPort}"`
  if (host === '') return forPart
  return forPart === '' ? `host=${host}` : `${forPart};host=${host}`
}

/**
 * The `host` of the first element; empty when there is none. It picks among the services that
 * the destination really belongs to: for telemetry, and for the protocol of the port. Policies never go by it.
 */
export function parseForwardedHost(value: string | null): string {
  if (value === null) return ''
  for (const part of value.split(',')[0]!.split(';')) {
    const equals = part.indexOf('=')
    if (equals < 0 || part.slice(0, equals).trim().toLowerCase() !== 'host') continue
    const host = part.slice(equals + 1).trim()
    return host.startsWith('"') && host.endsWith('"') ? host.slice(1, -1) : host
  }
  return ''
}
