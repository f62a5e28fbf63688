import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'
import { needsNativeBuild } from '../support/native-build.ts'

/** A program for tests that no agent loads. */
const REJECTED = 'rejected.bpf.o'

const generated = new URL('../../src/kernel/layout.generated.ts', import.meta.url)

test('layout.generated.ts is what the BTF of the shared structs says', needsNativeBuild, () => {
  const objects = readdirSync(NATIVE_BUILD_DIRECTORY).filter((name) => name.endsWith('.bpf.o') && name !== REJECTED)
  const files = ['layout.o', ...objects.sort()].map((name) => `${NATIVE_BUILD_DIRECTORY}${name}`)
  const printed = execFileSync(`${NATIVE_BUILD_DIRECTORY}print_layout`, files, { encoding: 'utf8' })
  assert.equal(readFileSync(generated, 'utf8'), printed, 'run `make -C native` and commit the file')
})

test('the printer refuses a file without the shared structs', needsNativeBuild, () => {
  const print = (file: string) => () =>
    execFileSync(`${NATIVE_BUILD_DIRECTORY}print_layout`, [file], { stdio: ['ignore', 'ignore', 'pipe'] })
  assert.throws(print(`${NATIVE_BUILD_DIRECTORY}connect.bpf.o`), /has no struct layout/)
  assert.throws(print('/nowhere'), /usage/)
})
