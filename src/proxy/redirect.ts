/**
 * Redirects. `Location` is always absolute: the part that the rule does not name comes from the request.
 *
 * The query is kept, unless the rule's path has one of its own. A port that is the scheme's default is left out.
 */
import { assert } from '../base/assert.ts'
import type { RequestHead } from '../http/codec.ts'
import { pathEndOf } from './path.ts'
import { replaceMatched } from './rewrite.ts'
import type { CompiledRoute } from './route-table.ts'

/** Status and location of a redirect. */
export interface RedirectReply {
  readonly status: number
  readonly location: string
}

/**
 * The answer of a route that redirects. `requestPort` is the port that the client addressed, for rules that keep it; 0
 * when it is not known, the authority's port then stands for it.
 */
export function buildRedirect(route: CompiledRoute, head: RequestHead, requestPort = 0): RedirectReply {
  const redirect = route.redirect
  assert(redirect !== null, 'only routes with a redirect build one')
  const scheme = redirect.scheme ?? head.scheme
  const authority = redirect.authority ?? head.authority
  const portStart = portStartOf(authority)
  const host = portStart < 0 ? authority : authority.slice(0, portStart)
  let port = portStart < 0 ? 0 : Number(authority.slice(portStart + 1))
  if (redirect.port !== null) port = redirect.port
  else if (redirect.derivePort === 'request') port = requestPort > 0 ? requestPort : portOfRequest(head)
  else if (redirect.derivePort === 'protocol') port = 0
  // The default port of the old scheme means nothing under the new one.
  else if (redirect.authority === null && scheme !== head.scheme && port === defaultPort(head.scheme)) port = 0
  const portText = port === 0 || port === defaultPort(scheme) ? '' : `:${port}`
  return { status: redirect.status, location: `${scheme}://${host}${portText}${pathOf(route, head)}` }
}

function pathOf(route: CompiledRoute, head: RequestHead): string {
  const redirect = route.redirect!
  const target = head.target.charCodeAt(0) === 0x2f ? head.target : '/'
  const end = pathEndOf(target)
  const path = target.slice(0, end)
  const query = target.slice(end)
  if (redirect.path !== null) {
    const replaced = redirect.path.startsWith('/') ? redirect.path : `/${redirect.path}`
    return replaced.includes('?') ? replaced : replaced + query
  }
  if (redirect.prefixRewrite !== null) return replaceMatched(route.path, path, redirect.prefixRewrite) + query
  return target
}

function portOfRequest(head: RequestHead): number {
  const start = portStartOf(head.authority)
  return start < 0 ? defaultPort(head.scheme) : Number(head.authority.slice(start + 1))
}

function defaultPort(scheme: string): number {
  return scheme === 'https' ? 443 : 80
}

/** Index of the colon before the port; -1 when there is no port. Brackets hold IPv6 addresses. */
function portStartOf(authority: string): number {
  const colon = authority.lastIndexOf(':')
  if (colon < 0 || authority.indexOf(']', colon) >= 0) return -1
  return /^[0-9]{1,5}$/.test(authority.slice(colon + 1)) ? colon : -1
}
