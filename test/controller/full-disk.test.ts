/** A disk that is full when the authority is made: nothing of it is there afterwards, and it is made when there is room. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import test from 'node:test'
import { promisify } from 'node:util'
import { temporaryDirectory } from '../support/control-plane.ts'
import { needsRoot } from '../support/netns.ts'

const MAIN = join(import.meta.dirname, '../../src/cli/main.ts')

/** In a mount namespace of its own, which takes the full file system along when it ends. */
const SCRIPT = `
  state=$1 out=$2; shift 2
  mount -t tmpfs -o size=64k,mode=700 weft-test "$state" || exit 99
  dd if=/dev/zero of="$state/filler" bs=4k 2>/dev/null
  "$@" 2>&1; echo "ended with $?"
  echo "left: $(ls -A "$state" | tr '\\n' ' ')"
  rm "$state/filler"
  "$@" 2>&1; echo "ended with $?"
  echo "left: $(ls -A "$state" | tr '\\n' ' ')"
`

test('a root that does not fit on the disk is not half there, and made when there is room', needsRoot, async (t) => {
  const [state, out] = [await temporaryDirectory(t), await temporaryDirectory(t)]
  const weft = [process.execPath, MAIN, 'controller', 'issue', '--node', 'node1', '--state', state, '--out', out]
  const args = ['--mount', '--propagation', 'private', 'sh', '-c', SCRIPT, 'sh', state, out, ...weft]
  const { stdout } = await promisify(execFile)('unshare', args)
  const [complaint, first, left, done, second, kept] = stdout.trim().split('\n')
  assert.match(complaint!, new RegExp(`${state}.*(ENOSPC|no space)`))
  assert.notEqual(first, 'ended with 0')
  assert.equal(left!.trim(), 'left: filler')
  assert.match(done!, /node1 until /)
  assert.equal(second, 'ended with 0')
  assert.equal(kept!.trim(), 'left: ca')
})
