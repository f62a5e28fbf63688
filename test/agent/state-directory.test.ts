import assert from 'node:assert/strict'
import { chmodSync, chownSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, it } from 'node:test'
import { makeStateDirectory } from '../../src/agent/state-directory.ts'
import { needsRoot } from '../support/netns.ts'

describe('the state directory', () => {
  let parent: string
  let path: string

  beforeEach(() => {
    parent = mkdtempSync(join(tmpdir(), 'weft-state-'))
    path = join(parent, 'a', 'b')
  })

  afterEach(() => {
    rmSync(parent, { recursive: true })
  })

  it('is made for its user alone, and used again', () => {
    for (let start = 0; start < 2; start++) makeStateDirectory(path)
    assert.equal(statSync(path).mode & 0o777, 0o700)
  })

  it('may be read by others', () => {
    makeStateDirectory(path)
    chmodSync(path, 0o755)
    makeStateDirectory(path)
  })

  for (const mode of [0o770, 0o707, 0o1777]) {
    it(`in which others can write is refused: ${mode.toString(8)}`, () => {
      makeStateDirectory(path)
      chmodSync(path, mode)
      assert.throws(() => makeStateDirectory(path), { code: 'WEFT_CONFIG', message: /others can write.*chmod go-w/ })
    })
  }

  it('of another user is refused', needsRoot, () => {
    makeStateDirectory(path)
    chownSync(path, 65_534, 65_534)
    assert.throws(() => makeStateDirectory(path), { code: 'WEFT_CONFIG', message: /belongs to user 65534/ })
  })

  it('that is a file is named', () => {
    writeFileSync(join(parent, 'a'), '')
    assert.throws(() => makeStateDirectory(path), { code: 'WEFT_CONFIG', message: /cannot be made/ })
  })
})
