import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { lenientPath, lenientPattern, normalizeTarget, pathEndOf } from '../../src/proxy/path.ts'
import { SeededRandom } from '../support/seeded-random.ts'

describe('normalising a target', () => {
  const cases: readonly [target: string, expected: string][] = [
    ['/', '/'],
    ['/a/b', '/a/b'],
    ['/a/./b', '/a/b'],
    ['/a/../b', '/b'],
    ['/a/..', '/'],
    ['/a/b/..', '/a/'],
    ['/a/.', '/a/'],
    ['/../../etc', '/etc'],
    ['/a/%2e%2E/b', '/b'],
    ['/%61dmin', '/admin'],
    ['/%7euser%2D', '/~user-'],
    ['\\admin', '/admin'],
    ['/a\\..\\b', '/b'],
    ['//admin', '//admin'],
    ['/a//../b', '/a/b'],
    ['/a%2Fb', '/a%2Fb'],
    ['/a%5cb', '/a%5cb'],
    ['/a%zzb%', '/a%zzb%'],
    ['/%2', '/%2'],
    ['/%2561', '/%2561'],
    ['/%%361dmin', '/admin'],
    ['/%%3361', '/61'],
    ['/%6%31dmin', '/admin'],
    ['/.well-known/x', '/.well-known/x'],
    ['/...', '/...'],
    ['/a;x=1/b', '/a;x=1/b'],
    ['/a?b=/../%61', '/a?b=/../%61'],
    ['/./a?b', '/a?b'],
    ['?', '?'],
    ['*', '*'],
    ['', ''],
  ]
  for (const [target, expected] of cases) {
    test(`${target} is ${expected}`, () => assert.equal(normalizeTarget(target), expected))
  }

  test('returns a target that needs nothing as it is', () => {
    const target = '/reviews/17?full=true'
    assert.equal(normalizeTarget(target), target)
  })

  test('is done once: the outcome is its own normal form, and has no dot segments', () => {
    const random = new SeededRandom(3)
    for (let i = 0; i < 5_000; i++) {
      let target = '/'
      while (random.next() < 0.85)
        target += random.pick(['a', '/', '.', '..', '%2e', '%2F', '\\', '%', '2', ';', '%61'])
      const once = normalizeTarget(target)
      assert.doesNotMatch(once, /\/\.\.?(\/|$)|\\/, target)
      assert.equal(normalizeTarget(once), once, target)
    }
  })
})

describe('the lenient reading of a path', () => {
  const cases: readonly [path: string, expected: string][] = [
    ['/a/b', '/a/b'],
    ['/a.b/c', '/a.b/c'],
    ['//admin', '/admin'],
    ['/x//y///z', '/x/y/z'],
    ['/a%2fb', '/a/b'],
    ['/public/..%2Fadmin', '/admin'],
    ['/public%2f..%2fadmin', '/admin'],
    ['/public/%2e%2e%5Cadmin', '/admin'],
    ['/admin', '/admin'],
    ['/public/..;x=y/admin;z', '/admin'],
    ['/admin#/public', '/admin'],
    ['/admin%23', '/admin#'],
    ['/admin%3Bx', '/admin'],
    ['/%2561dmin', '/admin'],
    ['/public/%252e%25252e%252fadmin', '/admin'],
    ['/public/%252e%252e%252fadmin', '/admin'],
    ['/\\admin', '/admin'],
    ['/%c3%a9', '/%c3%a9'],
    ['*', '*'],
    ['', ''],
  ]
  for (const [path, expected] of cases) {
    test(`${path} is ${expected}`, () => assert.equal(lenientPath(path), expected))
  }

  test('patterns are decoded alike, without resolving dots', () => {
    assert.equal(lenientPattern('/a%2Fb//c;d/..'), '/a/b/c/..')
    assert.equal(lenientPattern('/admin'), '/admin')
  })
})

test('the path ends where the query begins', () => {
  assert.equal(pathEndOf('/a?b?c'), 2)
  assert.equal(pathEndOf('/a'), 2)
  assert.equal(pathEndOf('?'), 0)
})
