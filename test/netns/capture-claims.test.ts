/**
 * What the object of a pod may claim, with the real kernel: anybody who may write a pod may write any path into it, so
 * that no path may do harm, and none may make one pod pass for another.
 */
import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'
import { createServer } from 'node:net'
import { afterEach, beforeEach, describe, it } from 'node:test'
import type { PodToCapture } from '../../src/agent/capture.ts'
import { loadAddon } from '../../src/kernel/addon.ts'
import { answerIn, podToCapture } from '../support/answering-pod.ts'
import { CaptureSite } from '../support/capture-site.ts'
import { needsRoot } from '../support/netns.ts'

describe('the network namespace that a pod claims', needsRoot, () => {
  let site: CaptureSite

  beforeEach(async () => {
    site = await CaptureSite.create()
  })

  afterEach(async () => {
    await site?.close()
  })

  /** A pod with the netns of `a`, and addresses of its own. */
  function thief(addresses: readonly string[]): PodToCapture {
    const { pod, ...rest } = podToCapture(site.a)
    return { ...rest, pod: { ...pod, uid: 'thief' }, displayName: 'test/thief', addresses }
  }

  const FALSE_CLAIMS: readonly [addresses: readonly string[], reason: RegExp][] = [
    [['198.18.0.77', 'fd77::77'], /none of its addresses \(198\.18\.0\.77, fd77::77\) is there/],
    [[], /the pod has no address/],
  ]

  it('is its own only when one of its addresses is there, whoever comes first; whose it is has it', async () => {
    const capture = site.open()
    const refuse = async (): Promise<void> => {
      for (const [addresses, reason] of FALSE_CLAIMS) {
        await assert.rejects(capture.enrol(thief(addresses), 1), (error: Error & { code: string }) => {
          assert.equal(error.code, 'WEFT_CONFIG')
          assert.match(error.message, /^the network namespace \S+ that pod test\/thief claims .* is not its own: /)
          assert.match(error.message, reason)
          return true
        })
      }
    }
    await refuse()
    assert.equal(await site.read(site.a, site.b), `read app b ${site.a.ipv4}`, 'nothing is captured')
    await site.enrol(capture, site.a)
    assert.equal(answerIn(await site.read(site.a, site.b)).pod, 'a')
    await assert.rejects(capture.enrol(thief([]), 1), /pods test\/thief and test\/a share a network namespace/)
    assert.equal(answerIn(await site.read(site.a, site.b)).pod, 'a')
    await capture.withdraw(podToCapture(site.a).pod.uid)
    await refuse()
  })

  it('stays with the pod that an earlier agent has captured in it, also when the thief is first with the next agent', async () => {
    const earlier = site.open()
    await site.enrol(earlier, site.a)
    await site.release(earlier)
    const capture = site.open()
    await assert.rejects(capture.enrol(thief(['198.18.0.77']), 1), /is not its own/)
    await site.enrol(capture, site.a)
    assert.equal(answerIn(await site.read(site.a, site.b)).pod, 'a')
    assert.deepEqual(capture.audit(podToCapture(site.a).pod.uid)!.faults, [])
  })

  it('is looked at without being opened: a device, a pipe or a socket is refused and nothing happens to it', async () => {
    const addon = loadAddon()
    const path = `${site.directory}/socket`
    const server = createServer()
    await new Promise<void>((resolve) => server.listen(path, resolve))
    try {
      // Opening a socket's file would fail with ENXIO; opening a pipe would wait for ever.
      for (const other of [path, '/dev/null', '/etc/passwd', site.directory, '/proc/self/ns/mnt']) {
        assert.throws(() => closeSync(addon.openNetns(other)), { code: other.endsWith('mnt') ? 'EINVAL' : 'ENOTTY' })
      }
    } finally {
      await new Promise((resolve) => server.close(resolve))
    }
  })
})
