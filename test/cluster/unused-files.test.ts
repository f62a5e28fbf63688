/** What the cache of clusters keeps: the last few used, what was used lately, and what runs. */
import assert from 'node:assert/strict'
import { type ChildProcess, spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, beforeEach, describe, test } from 'node:test'
import { markUsed, removeUnused } from './support/unused-files.ts'

const MAIN = join(import.meta.dirname, 'main.ts')
const HOUR_MS = 3_600_000

describe('what is cached', () => {
  const scratch = mkdtempSync(join(tmpdir(), 'weft-cache-'))
  const children: ChildProcess[] = []
  let directory = ''

  beforeEach(() => {
    directory = mkdtempSync(join(scratch, 'cache-'))
  })
  after(async () => {
    for (const child of children) {
      child.kill('SIGKILL')
      if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    }
    rmSync(scratch, { recursive: true })
  })

  /** A directory with a file in it, last used so many hours ago. */
  const entry = (name: string, hoursAgo: number): string => {
    const path = join(directory, name)
    mkdirSync(path, { recursive: true })
    writeFileSync(join(path, 'content'), name)
    const used = new Date(Date.now() - hoursAgo * HOUR_MS)
    utimesSync(path, used, used)
    return path
  }

  test('stays while it is one of the last few used, or was used lately', () => {
    for (const [name, hoursAgo] of Object.entries({ a: 9, b: 8, c: 7, d: 6, e: 0.5 })) entry(name, hoursAgo)
    assert.deepEqual([...removeUnused(directory, { keptCount: 2, keptMs: HOUR_MS })].sort(), ['a', 'b', 'c'])
    assert.deepEqual(readdirSync(directory).sort(), ['d', 'e'])
    assert.deepEqual(removeUnused(directory, { keptCount: 0, keptMs: HOUR_MS }), ['d'])
    assert.deepEqual(readdirSync(directory), ['e'])
  })

  test('is used when it is marked, and what is gone says so', () => {
    const path = entry('a', 9)
    assert.equal(markUsed(path), true)
    assert.equal(markUsed(join(directory, 'b')), false)
    assert.deepEqual(removeUnused(directory, { keptCount: 0, keptMs: HOUR_MS }), [])
  })

  test('stays while a process runs a program in it', async () => {
    const path = entry('a', 9)
    const program = join(path, 'sleep')
    copyFileSync('/bin/sleep', program)
    const child = spawn(program, ['600'], { stdio: 'ignore' })
    children.push(child)
    await once(child, 'spawn')
    entry('a', 9)
    entry('b', 9)
    assert.deepEqual(removeUnused(directory, { keptCount: 0, keptMs: HOUR_MS }), ['b'])
    child.kill('SIGKILL')
    await once(child, 'exit')
    assert.deepEqual(removeUnused(directory, { keptCount: 0, keptMs: HOUR_MS }), ['a'])
  })

  test('counts by kind, and what was left unfinished long ago goes without being counted', () => {
    entry('v1', 9)
    entry('v2', 8)
    entry('images', 9)
    entry('.layout-x', 7)
    entry('.layout-y', 0)
    const isOfKind = (name: string): boolean => name.startsWith('v')
    assert.deepEqual([...removeUnused(directory, { keptCount: 1, keptMs: HOUR_MS, isOfKind })].sort(), [
      '.layout-x',
      'v1',
    ])
    assert.deepEqual(readdirSync(directory).sort(), ['.layout-y', 'images', 'v2'])
  })

  test('goes when `clean` is asked for, but not what a start may just be using, and nothing of other kinds', () => {
    entry('v1.30.0-aaaaaaaaaaaa', 9)
    entry('other', 9)
    entry('images/weft-1.tar', 9)
    entry('images/weft-2.tar', 0)
    entry('image-stores/1', 9)
    const env = { ...process.env, WEFT_CLUSTER_CACHE: directory }
    const { status, stderr } = spawnSync(process.execPath, [MAIN, 'clean'], { encoding: 'utf8', env })
    assert.equal(status, 0, stderr)
    assert.deepEqual(readdirSync(directory, { recursive: true }).sort(), [
      'image-stores',
      'images',
      'images/weft-2.tar',
      'images/weft-2.tar/content',
      'other',
      'other/content',
    ])
    assert.match(stderr, /removed 3: /)
    assert.match(spawnSync(process.execPath, [MAIN, 'clean'], { encoding: 'utf8', env }).stderr, /nothing to remove/)
  })
})
