import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { PathMatch, StringMatch } from '../../src/model/route.ts'
import { NamedMatcher, PathMatcher, queryValue, requestValue, StringMatcher } from '../../src/proxy/matchers.ts'
import { pathEndOf } from '../../src/proxy/path.ts'
import { requestHead } from '../support/proxy-objects.ts'

const BROKEN: StringMatch = { kind: 'regex', value: '(' }

describe('a string condition', () => {
  const cases: readonly [match: StringMatch, matching: readonly string[], others: readonly string[]][] = [
    [{ kind: 'exact', value: 'a' }, ['a'], ['', 'A', 'ab']],
    [{ kind: 'exact', value: '' }, [''], ['a']],
    [{ kind: 'prefix', value: 'ab' }, ['ab', 'abc'], ['a', 'xab', 'Ab']],
    [{ kind: 'suffix', value: 'ab' }, ['ab', 'xab'], ['b', 'abx']],
    [{ kind: 'regex', value: 'a|b+' }, ['a', 'bb'], ['', 'ab', 'xa']],
    [{ kind: 'regex', value: '(?i)a' }, ['a', 'A'], ['b']],
    [{ kind: 'present' }, ['a'], ['']],
    [BROKEN, [], ['', '(', 'a']],
  ]
  for (const [match, matching, others] of cases) {
    test(JSON.stringify(match), () => {
      const matcher = new StringMatcher(match)
      for (const value of matching) assert.equal(matcher.matches(value), true, value)
      for (const value of others) assert.equal(matcher.matches(value), false, value)
    })
  }

  test('says that it is broken when it cannot be compiled', () => {
    assert.equal(new StringMatcher(BROKEN).isBroken, true)
    assert.equal(new StringMatcher({ kind: 'regex', value: '.*' }).isBroken, false)
  })
})

describe('a condition on a header or parameter', () => {
  const cases: readonly [match: StringMatch, value: string | null, plain: boolean, inverted: boolean][] = [
    [{ kind: 'exact', value: 'a' }, 'a', true, false],
    [{ kind: 'exact', value: 'a' }, 'b', false, true],
    // A missing value is no value, but counts as the empty string when the condition is inverted.
    [{ kind: 'exact', value: 'a' }, null, false, true],
    [{ kind: 'exact', value: '' }, null, false, false],
    [{ kind: 'regex', value: '.*' }, null, false, false],
    [{ kind: 'present' }, 'a', true, false],
    [{ kind: 'present' }, '', true, false],
    [{ kind: 'present' }, null, false, true],
    [BROKEN, 'a', false, false],
    [BROKEN, null, false, false],
  ]
  for (const [match, value, plain, inverted] of cases) {
    test(`${JSON.stringify(match)} on ${JSON.stringify(value)}`, () => {
      assert.equal(new NamedMatcher({ name: 'x', match, isNegated: false }, true).matches(value), plain)
      assert.equal(new NamedMatcher({ name: 'x', match, isNegated: true }, true).matches(value), inverted)
    })
  }

  test('header names have no case, parameter names have', () => {
    const match: StringMatch = { kind: 'present' }
    assert.equal(new NamedMatcher({ name: 'X-A', match, isNegated: false }, true).name, 'x-a')
    assert.equal(new NamedMatcher({ name: 'X-A', match, isNegated: false }, false).name, 'X-A')
  })
})

describe('a path condition', () => {
  const cases: readonly [match: PathMatch | null, matching: readonly string[], others: readonly string[]][] = [
    [null, ['/', '*', '', '/a?b'], []],
    [{ kind: 'exact', value: '/a', ignoreCase: false }, ['/a', '/a?x=/b'], ['/a/', '/A', '/ab', '/']],
    [{ kind: 'exact', value: '/Ab', ignoreCase: true }, ['/aB', '/ab?x'], ['/a', '/abc']],
    [{ kind: 'prefix', value: '/foo', ignoreCase: false }, ['/foo', '/foobar', '/foo/x?y'], ['/fo', '/fo?o', '/Foo']],
    [{ kind: 'prefix', value: '/Foo', ignoreCase: true }, ['/fOObar'], ['/fo']],
    [
      { kind: 'pathSegments', value: '/v2', ignoreCase: false },
      ['/v2', '/v2/', '/v2/x', '/v2?x'],
      ['/v2x', '/v', '/V2'],
    ],
    [{ kind: 'pathSegments', value: '/v2/', ignoreCase: false }, ['/v2', '/v2/', '/v2/x'], ['/v2x']],
    [{ kind: 'pathSegments', value: '/', ignoreCase: false }, ['/', '/x', '/?x'], ['*']],
    [{ kind: 'regex', value: '/[a-z]+', ignoreCase: false }, ['/abc', '/abc?1'], ['/abc/', '/1', '/ABC']],
    [{ kind: 'regex', value: '/[a-z]+', ignoreCase: true }, ['/aBc'], ['/1']],
    [{ kind: 'regex', value: '(', ignoreCase: false }, [], ['/', '(']],
  ]
  for (const [match, matching, others] of cases) {
    test(JSON.stringify(match), () => {
      const matcher = new PathMatcher(match)
      for (const target of matching) assert.equal(matcher.matches(target, pathEndOf(target)), true, target)
      for (const target of others) assert.equal(matcher.matches(target, pathEndOf(target)), false, target)
    })
  }

  test('a query never takes part', () => {
    const matcher = new PathMatcher({ kind: 'prefix', value: '/a?b', ignoreCase: false })
    assert.equal(matcher.matches('/a?b', pathEndOf('/a?b')), false)
  })
})

describe('the first query parameter of a name', () => {
  const cases: readonly [target: string, name: string, expected: string | null][] = [
    ['/a?x=1', 'x', '1'],
    ['/a?x=1&x=2', 'x', '1'],
    ['/a?y=1&x=2', 'x', '2'],
    ['/a?xx=1&x=2', 'x', '2'],
    ['/a?x', 'x', ''],
    ['/a?x&y', 'x', ''],
    ['/a?x=', 'x', ''],
    ['/a?x=1=2', 'x', '1=2'],
    ['/a?x=a%20b', 'x', 'a%20b'],
    ['/a?%78=1', 'x', null],
    ['/a?X=1', 'x', null],
    ['/a?', 'x', null],
    ['/a', 'x', null],
    ['/x=1', 'x', null],
    ['/a?&&x=1', 'x', '1'],
    ['/a?yx=1', 'x', null],
  ]
  for (const [target, name, expected] of cases) {
    test(`${name} of ${target} is ${expected}`, () => {
      assert.equal(queryValue(target, pathEndOf(target), name), expected)
    })
  }
})

test('a value of a request is found by header name, pseudo name, or host', () => {
  const head = requestHead({
    method: 'PUT',
    target: '/p?q',
    authority: 'h:1',
    scheme: 'http',
    headers: [
      ['X-A', '1'],
      ['x-b', 'b'],
      ['x-a', '2'],
    ],
  })
  assert.deepEqual(
    [':method', ':path', ':authority', ':scheme', ':status', 'host', 'x-a', 'x-b', 'x-c'].map((name) =>
      requestValue(head, name),
    ),
    ['PUT', '/p?q', 'h:1', 'http', null, 'h:1', head.headers.getJoined('x-a'), 'b', null],
  )
  assert.match(requestValue(head, 'x-a')!, /^1, ?2$/)
})
