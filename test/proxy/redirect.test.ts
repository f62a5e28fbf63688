import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { PathMatch, Redirect } from '../../src/model/route.ts'
import { buildRedirect } from '../../src/proxy/redirect.ts'
import { RouteTable } from '../../src/proxy/route-table.ts'
import { ANY_MATCH, type HeadFields, requestHead, routeOf } from '../support/proxy-objects.ts'

const PLAIN: Redirect = {
  status: 301,
  path: null,
  prefixRewrite: null,
  authority: null,
  scheme: null,
  port: null,
  derivePort: null,
}

const PREFIX_FOO: PathMatch = { kind: 'prefix', value: '/foo', ignoreCase: false }
const SEGMENTS_FOO: PathMatch = { kind: 'pathSegments', value: '/foo', ignoreCase: false }

function locationOf(redirect: Partial<Redirect>, head: HeadFields, path: PathMatch | null = null, port = 0): string {
  const route = routeOf({ clusters: [], redirect: { ...PLAIN, ...redirect }, matches: [{ ...ANY_MATCH, path }] })
  const request = requestHead({ authority: 'a.com', target: '/foo/x?q=1', ...head })
  return buildRedirect(new RouteTable([route]).match(request)!, request, port).location
}

describe('a redirect', () => {
  const cases: readonly [name: string, redirect: Partial<Redirect>, head: HeadFields, expected: string][] = [
    ['keeps what it does not name', {}, {}, 'http://a.com/foo/x?q=1'],
    ['replaces the path and keeps the query', { path: '/new' }, {}, 'http://a.com/new?q=1'],
    ['a path with a query of its own replaces both', { path: '/new?z=2' }, {}, 'http://a.com/new?z=2'],
    ['replaces the authority', { authority: 'b.com' }, { authority: 'a.com:81' }, 'http://b.com/foo/x?q=1'],
    ['an authority may have a port', { authority: 'b.com:81' }, {}, 'http://b.com:81/foo/x?q=1'],
    ['replaces the scheme', { scheme: 'https' }, {}, 'https://a.com/foo/x?q=1'],
    ['keeps the port of the request', {}, { authority: 'a.com:8080' }, 'http://a.com:8080/foo/x?q=1'],
    [
      'keeps it under another scheme, too',
      { scheme: 'https' },
      { authority: 'a.com:8080' },
      'https://a.com:8080/foo/x?q=1',
    ],
    [
      'the default port does not outlive its scheme',
      { scheme: 'https' },
      { authority: 'a.com:80' },
      'https://a.com/foo/x?q=1',
    ],
    ['a port that the rule names stays', { scheme: 'https', authority: 'b.com:80' }, {}, 'https://b.com:80/foo/x?q=1'],
    ['replaces the port', { port: 8083 }, { authority: 'a.com:8080' }, 'http://a.com:8083/foo/x?q=1'],
    ['replaces authority and port', { port: 8083, authority: 'b.com:1' }, {}, 'http://b.com:8083/foo/x?q=1'],
    ['leaves port 80 out of http', { port: 80 }, {}, 'http://a.com/foo/x?q=1'],
    ['leaves port 443 out of https', { port: 443, scheme: 'https' }, {}, 'https://a.com/foo/x?q=1'],
    ['writes port 443 under http', { port: 443 }, {}, 'http://a.com:443/foo/x?q=1'],
    [
      'derives the port from the scheme',
      { derivePort: 'protocol' },
      { authority: 'a.com:8080' },
      'http://a.com/foo/x?q=1',
    ],
    [
      'derives the port from the authority',
      { derivePort: 'request', authority: 'b.com' },
      { authority: 'a.com:8080' },
      'http://b.com:8080/foo/x?q=1',
    ],
    ['an IPv6 authority is no host with port', {}, { authority: '[fd00::1]' }, 'http://[fd00::1]/foo/x?q=1'],
    ['an IPv6 authority may have a port', { port: 81 }, { authority: '[fd00::1]:80' }, 'http://[fd00::1]:81/foo/x?q=1'],
    ['OPTIONS * goes to the root', {}, { target: '*' }, 'http://a.com/'],
  ]
  for (const [name, redirect, head, expected] of cases) {
    test(name, () => assert.equal(locationOf(redirect, head), expected))
  }

  test('replaces a prefix as plain text', () => {
    assert.equal(locationOf({ prefixRewrite: '/' }, {}, PREFIX_FOO), 'http://a.com//x?q=1')
    assert.equal(locationOf({ prefixRewrite: '/bar' }, {}, PREFIX_FOO), 'http://a.com/bar/x?q=1')
  })

  test('replaces a prefix of segments as segments', () => {
    assert.equal(locationOf({ prefixRewrite: '/' }, {}, SEGMENTS_FOO), 'http://a.com/x?q=1')
  })

  test('derives the port from the one that the client addressed, when it is known', () => {
    assert.equal(locationOf({ derivePort: 'request' }, {}, null, 9080), 'http://a.com:9080/foo/x?q=1')
  })

  test('has the status of the rule', () => {
    const route = new RouteTable([routeOf({ redirect: { ...PLAIN, status: 308 } })]).match(requestHead())!
    assert.equal(buildRedirect(route, requestHead()).status, 308)
  })
})
