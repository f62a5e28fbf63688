import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { HeaderList } from '../../src/http/headers.ts'
import type { HeaderEdits, PathMatch, Rewrite } from '../../src/model/route.ts'
import { PathMatcher } from '../../src/proxy/matchers.ts'
import { applyEdits, authorityOf, CompiledRewrite, compileEdits, rewriteTarget } from '../../src/proxy/rewrite.ts'
import { headerPairs, NO_EDITS, requestHead } from '../support/proxy-objects.ts'

function edited(edits: Partial<HeaderEdits>, pairs: readonly [string, string][]): [string, string][] {
  const list = HeaderList.of(pairs)
  const compiled = compileEdits({ ...NO_EDITS, ...edits })
  if (compiled !== null) applyEdits(compiled, list)
  return headerPairs(list)
}

describe('header edits', () => {
  test('set overwrites every field of the name, or creates one', () => {
    const set = [{ name: 'X-A', value: 'new' }]
    const before: [string, string][] = [
      ['x-a', '1'],
      ['x-b', '2'],
      ['X-a', '3'],
    ]
    assert.deepEqual(edited({ set }, before), [
      ['x-b', '2'],
      ['x-a', 'new'],
    ])
    assert.deepEqual(edited({ set }, []), [['x-a', 'new']])
  })

  test('add appends a field of its own', () => {
    assert.deepEqual(edited({ add: [{ name: 'x-a', value: '2' }] }, [['x-a', '1']]), [
      ['x-a', '1'],
      ['x-a', '2'],
    ])
  })

  test('remove takes all fields of the name, whatever the case', () => {
    const before: [string, string][] = [
      ['x-a', '1'],
      ['x-a', '2'],
      ['x-b', '3'],
    ]
    assert.deepEqual(edited({ remove: ['X-A'] }, before), [['x-b', '3']])
  })

  test('removal comes first, then set, then add', () => {
    const edits = {
      remove: ['x'],
      set: [{ name: 'x', value: 'set' }],
      add: [{ name: 'x', value: 'added' }],
    }
    assert.deepEqual(edited(edits, [['x', 'old']]), [
      ['x', 'set'],
      ['x', 'added'],
    ])
  })

  test('headers that frame the message cannot be touched', () => {
    const names = [
      'Content-Length',
      'transfer-encoding',
      'Connection',
      'te',
      'trailer',
      'upgrade',
      'keep-alive',
      ':path',
      'a b',
      '',
    ]
    const pairs = names.map((name) => ({ name, value: '1' }))
    assert.equal(compileEdits({ set: pairs, add: pairs, remove: names }), null)
  })

  test('values that would begin another line are left out', () => {
    const set = ['a\r\nx: y', 'a\nb', 'a\0b', '\u20ac'].map((value) => ({ name: 'x', value }))
    assert.equal(compileEdits({ ...NO_EDITS, set }), null)
  })

  test('an edit of the host is no edit of a header', () => {
    const edits = { ...NO_EDITS, set: [{ name: 'Host', value: 'a.com' }] }
    assert.equal(compileEdits(edits), null)
    assert.equal(authorityOf(edits), 'a.com')
    assert.equal(authorityOf({ ...NO_EDITS, add: [{ name: ':authority', value: 'b.com' }] }), 'b.com')
    assert.equal(authorityOf({ ...NO_EDITS, set: [{ name: 'host', value: 'a\r\nb: c' }] }), null)
    assert.equal(authorityOf(NO_EDITS), null)
    assert.equal(authorityOf(null), null)
  })

  test('nothing to do is null', () => {
    assert.equal(compileEdits(NO_EDITS), null)
    assert.equal(compileEdits(null), null)
  })
})

const PREFIX_FOO: PathMatch = { kind: 'prefix', value: '/foo', ignoreCase: false }
const SEGMENTS_FOO: PathMatch = { kind: 'pathSegments', value: '/foo', ignoreCase: false }

function rewritten(match: PathMatch | null, rewrite: Partial<Rewrite>, target: string): string {
  const head = requestHead({ target })
  const compiled = new CompiledRewrite({ authority: null, path: null, regex: null, ...rewrite })
  rewriteTarget({ path: new PathMatcher(match), rewrite: compiled }, head)
  return head.target
}

describe('rewriting the path', () => {
  const cases: readonly [match: PathMatch | null, replacement: string, target: string, expected: string][] = [
    [PREFIX_FOO, '/bar', '/foo', '/bar'],
    [PREFIX_FOO, '/bar', '/foo/x?y=/foo', '/bar/x?y=/foo'],
    [PREFIX_FOO, '/bar', '/foobar', '/barbar'],
    [PREFIX_FOO, '/', '/foo/x', '//x'],
    [PREFIX_FOO, '', '/foo', '/'],
    [PREFIX_FOO, '', '/foox', '/x'],
    [{ kind: 'prefix', value: '/FOO', ignoreCase: true }, '/bar', '/Foo/x', '/bar/x'],
    [{ kind: 'exact', value: '/foo', ignoreCase: false }, '/bar', '/foo?a=b', '/bar?a=b'],
    [{ kind: 'regex', value: '/f.*', ignoreCase: false }, '/bar', '/foo/x', '/bar'],
    // No condition on the path stands for the prefix `/`.
    [null, '/v2', '/a', '/v2a'],
    [null, '/v2/', '/a?b', '/v2/a?b'],
    [SEGMENTS_FOO, '/xyz', '/foo/bar', '/xyz/bar'],
    [SEGMENTS_FOO, '/xyz/', '/foo/bar', '/xyz/bar'],
    [SEGMENTS_FOO, '/xyz', '/foo', '/xyz'],
    [SEGMENTS_FOO, '/xyz', '/foo/', '/xyz/'],
    [SEGMENTS_FOO, '/', '/foo', '/'],
    [SEGMENTS_FOO, '', '/foo', '/'],
    [SEGMENTS_FOO, '/', '/foo/bar?q', '/bar?q'],
    [SEGMENTS_FOO, '', '/foo/bar', '/bar'],
    [{ kind: 'pathSegments', value: '/foo/', ignoreCase: false }, '/xyz', '/foo/bar', '/xyz/bar'],
    [{ kind: 'pathSegments', value: '/', ignoreCase: false }, '/xyz', '/a', '/xyz/a'],
  ]
  for (const [match, replacement, target, expected] of cases) {
    test(`${match === null ? 'no condition' : `${match.kind} ${match.value}`} by "${replacement}": ${target} becomes ${expected}`, () => {
      assert.equal(rewritten(match, { path: replacement }, target), expected)
    })
  }

  test('a regular expression replaces every match of the path, and keeps the query', () => {
    const regex = { pattern: '/service/([^/]+)(/.*)', substitution: '\\2/instance/\\1' }
    assert.equal(
      rewritten(null, { regex }, '/service/foo/v1/api?a=/service/x/y'),
      '/v1/api/instance/foo?a=/service/x/y',
    )
  })

  test('the outcome always begins with a slash', () => {
    assert.equal(rewritten(null, { regex: { pattern: '^/', substitution: '' } }, '/a'), '/a')
    assert.equal(rewritten(PREFIX_FOO, { path: 'bar' }, '/foo'), '/bar')
  })

  test('an expression or a substitution that cannot be read rewrites nothing', () => {
    assert.equal(rewritten(null, { regex: { pattern: '(', substitution: '' } }, '/a'), '/a')
    assert.equal(rewritten(null, { regex: { pattern: 'a', substitution: '\\q' } }, '/a'), '/a')
  })

  test('text that would end the request line rewrites nothing', () => {
    assert.equal(rewritten(PREFIX_FOO, { path: '/x HTTP/1.1\r\nx: y' }, '/foo'), '/foo')
    assert.equal(rewritten(null, { regex: { pattern: 'a', substitution: 'b c' } }, '/a'), '/a')
  })

  test('what is no path is left alone', () => {
    assert.equal(rewritten(null, { path: '/v2' }, '*'), '*')
    assert.equal(rewritten(null, { path: '/v2' }, ''), '')
  })

  test('the authority is replaced as well', () => {
    const head = requestHead()
    const rewrite = new CompiledRewrite({ authority: 'other.com', path: null, regex: null })
    rewriteTarget({ path: new PathMatcher(null), rewrite }, head)
    assert.deepEqual([head.authority, head.target], ['other.com', '/'])
  })

  test('a route without rewriting changes nothing', () => {
    const head = requestHead({ target: '/a?b' })
    rewriteTarget({ path: new PathMatcher(null), rewrite: null }, head)
    assert.equal(head.target, '/a?b')
  })
})
