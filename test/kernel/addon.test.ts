import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { closeSync, mkdtempSync, openSync, readSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, test } from 'node:test'
import { Worker } from 'node:worker_threads'
import { WeftError } from '../../src/base/errors.ts'
import { asSyscallError, hasCode, kernelError, loadAddon } from '../../src/kernel/addon.ts'
import { listenInNetns, socketInNetns } from '../../src/kernel/sockets.ts'
import { needsNativeBuild } from '../support/native-build.ts'

function syscallError(code: string, log?: string): Error {
  const fields = { code, errno: 1, syscall: 'bpf(BPF_PROG_LOAD)', object: 'connect.bpf.o' }
  return Object.assign(new Error(`bpf(BPF_PROG_LOAD) connect.bpf.o: ${code}`), fields, log === undefined ? {} : { log })
}

test('an addon that is not there is reported with what to do', () => {
  assert.throws(() => loadAddon('/nowhere/weft.node'), {
    code: 'WEFT_UNSUPPORTED',
    message: /\/nowhere\/weft\.node cannot be loaded; build it with `make -C native`/,
  })
})

test('what is written at once waits for nobody: not for a pipe that is full', needsNativeBuild, () => {
  const directory = mkdtempSync(join(tmpdir(), 'weft-addon-'))
  const path = join(directory, 'pipe')
  execFileSync('mkfifo', [path])
  // Blocking, as standard error is: a write to the full pipe would last for ever.
  const fd = openSync(path, 'r+')
  try {
    const addon = loadAddon()
    const line = new Uint8Array(1000).fill(0x78)
    let written = 0
    while (addon.writeNow(fd, line)) written += line.length
    assert.ok(written > 10_000, `${written} bytes`)
    const read = readSync(fd, new Uint8Array(1 << 20))
    assert.equal(read, written)
    assert.equal(addon.writeNow(fd, line), true)
    assert.equal(addon.writeNow(-1, line), false)
    assert.throws(() => addon.writeNow(fd, 'text' as unknown as Uint8Array), TypeError)
  } finally {
    closeSync(fd)
    rmSync(directory, { recursive: true })
  }
})

describe('failures', () => {
  test('are system call failures only with their fields', () => {
    assert.equal(asSyscallError(new Error('other')), null)
    assert.equal(asSyscallError('text'), null)
    assert.equal(hasCode(syscallError('ENOENT'), 'ENOENT'), true)
    assert.equal(hasCode(syscallError('ENOENT'), 'EPERM'), false)
    assert.equal(hasCode(new TypeError('x'), 'ENOENT'), false)
  })

  test('keep the cause, and show the end of a log, where the verdict stands', () => {
    const log = Array.from({ length: 100 }, (_, i) => `line ${i}`).join('\n')
    const error = kernelError('WEFT_BPF', 'program x cannot be loaded', syscallError('EACCES', log))
    assert.ok(error instanceof WeftError)
    assert.match(error.message, /^program x cannot be loaded: bpf\(BPF_PROG_LOAD\) connect\.bpf\.o: EACCES/)
    assert.match(error.message, /line 99$/)
    assert.doesNotMatch(error.message, /line 80\n/)
    assert.equal(asSyscallError(error.cause)!.log, log)
  })
})

describe('sockets in a netns', () => {
  /** An addon whose listenInNetns fails for some families. */
  const addonFailing = (codes: Record<number, string>) => ({
    ...({} as ReturnType<typeof loadAddon>),
    listenInNetns: (_netnsFd: number, family: number): number => {
      const code = codes[family]
      if (code !== undefined) throw syscallError(code)
      return 100 + family
    },
    socketInNetns: (): number => {
      throw syscallError(codes[0]!)
    },
  })

  test('listen on both families, and on IPv4 where the kernel has no IPv6', () => {
    assert.equal(listenInNetns(addonFailing({}), 9, 15_001, 'shop/cart'), 110)
    assert.equal(listenInNetns(addonFailing({ 10: 'EAFNOSUPPORT' }), 9, 15_001, 'shop/cart'), 102)
  })

  test('name pod and port when they cannot listen', () => {
    const inUse = () => listenInNetns(addonFailing({ 10: 'EADDRINUSE' }), 9, 15_001, 'shop/cart')
    assert.throws(inUse, { code: 'WEFT_SYSCALL', message: /^port 15001 of pod shop\/cart is in use by the pod/ })
    const refused = () => listenInNetns(addonFailing({ 10: 'EAFNOSUPPORT', 2: 'EMFILE' }), 9, 15_001, 'shop/cart')
    assert.throws(refused, {
      code: 'WEFT_SYSCALL',
      message: /^port 15001 of pod shop\/cart cannot be listened on: .*EMFILE/,
    })
  })

  test('say that the pod is gone when its descriptor is, and nothing of the sort otherwise', () => {
    const open = (code: string) => () => socketInNetns(addonFailing({ 0: code }), 9, 1n, 2, 8)
    for (const code of ['ESTALE', 'EBADF', 'EINVAL']) {
      assert.throws(open(code), { code: 'WEFT_SYSCALL', message: /not enrolled any more/ })
    }
    assert.throws(open('EMFILE'), { code: 'WEFT_SYSCALL', message: /^a socket in a pod cannot be opened/ })
  })
})

test('the addon loads in several threads, each with a netns of its own to come back to', needsNativeBuild, async () => {
  loadAddon()
  const program = `
    const { loadAddon } = await import(${JSON.stringify(new URL('../../src/kernel/addon.ts', import.meta.url).href)})
    const { closeSync } = await import('node:fs')
    const { parentPort } = await import('node:worker_threads')
    const fd = loadAddon().openNetns('/proc/thread-self/ns/net')
    closeSync(fd)
    parentPort.postMessage('loaded')`
  const url = new URL(`data:text/javascript,${encodeURIComponent(program)}`)
  const replies = [1, 2, 3].map(
    () =>
      new Promise((resolve, reject) => {
        const worker = new Worker(url, { trackUnmanagedFds: false })
        worker.once('message', resolve)
        worker.once('error', reject)
      }),
  )
  assert.deepEqual(await Promise.all(replies), ['loaded', 'loaded', 'loaded'])
  closeSync(loadAddon().openNetns('/proc/thread-self/ns/net'))
})
