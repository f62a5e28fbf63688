import assert from 'node:assert/strict'
import { closeSync, mkdtempSync, openSync, readdirSync, readlinkSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, it } from 'node:test'
import { UdpMeterQueue } from '../../src/agent/udp-meter-queue.ts'
import { Logger } from '../../src/base/log.ts'
import type { MeteredPod } from '../../src/kernel/udp-meter-programs.ts'
import { FakeClock } from '../support/fake-clock.ts'

/** Makes changes when it is told to. */
class FakeChanger {
  readonly asked: string[] = []
  private readonly open: { resolve: () => void; reject: (error: Error) => void }[] = []

  attach = (pod: MeteredPod): Promise<void> => this.change(`attach ${pod.displayName}`)
  detach = (pod: MeteredPod): Promise<void> => this.change(`detach ${pod.displayName}`)

  private change(what: string): Promise<void> {
    this.asked.push(what)
    return new Promise((resolve, reject) => this.open.push({ resolve, reject }))
  }

  async finish(error: Error | null = null): Promise<void> {
    const change = this.open.shift()
    assert.ok(change !== undefined, 'a change is under way')
    if (error === null) change.resolve()
    else change.reject(error)
    await turn()
  }
}

/** Everything that promises do by themselves. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}

describe('the meters of pods', () => {
  let directory: string
  let fds: number[]
  let clock: FakeClock
  let changer: FakeChanger
  let warnings: string[]
  let queue: UdpMeterQueue

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'weft-meters-'))
    fds = []
    clock = new FakeClock()
    changer = new FakeChanger()
    warnings = []
    const log = new Logger('test', 'warn', (line) => void warnings.push(line))
    // Another file stands for another netns; which file, the queue does not look at again.
    const addon = { duplicateFd: () => openSync(directory, 'r') }
    queue = new UdpMeterQueue(addon, changer, log, clock)
  })

  afterEach(() => {
    for (const fd of fds) closeSync(fd)
    rmSync(directory, { recursive: true })
  })

  function pod(name: string): MeteredPod {
    const netnsFd = openSync(join(directory, name), 'a')
    fds.push(netnsFd)
    return { displayName: name, id: 1, netnsFd, interfaces: [2] }
  }

  function openDescriptors(): number {
    const targets = readdirSync('/proc/self/fd').map((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`)
      } catch {
        // The one that has read the directory.
        return ''
      }
    })
    return targets.filter((target) => target === directory).length
  }

  it('are attached one after the other, when no pod has been enrolled for a moment', async () => {
    queue.attach(pod('a'))
    clock.advance(60)
    queue.attach(pod('b'))
    clock.advance(60)
    assert.deepEqual(changer.asked, [])
    clock.advance(60)
    assert.deepEqual(changer.asked, ['attach a'])
    await changer.finish()
    assert.deepEqual(changer.asked, ['attach a', 'attach b'])
    await changer.finish()
    assert.equal(openDescriptors(), 0)
  })

  it('are not attached to pods that are withdrawn before, and are removed at once', async () => {
    const a = pod('a')
    queue.attach(a)
    let isEnded = false
    const ended = queue.end(a).then(() => {
      isEnded = true
    })
    await turn()
    assert.equal(isEnded, false)
    await changer.finish()
    await ended
    clock.advance(1_000)
    assert.deepEqual(changer.asked, ['detach a'])
    assert.equal(openDescriptors(), 0)
  })

  it('are removed after they were attached when that is under way', async () => {
    const a = pod('a')
    queue.attach(a)
    clock.advance(100)
    const ends = [queue.end(a), queue.end(a)]
    await changer.finish()
    await changer.finish()
    await Promise.all(ends)
    assert.deepEqual(changer.asked, ['attach a', 'detach a'])
    assert.equal(openDescriptors(), 0)
  })

  it('of pods that are withdrawn go before those that are enrolled come', async () => {
    const [a, b, c] = [pod('a'), pod('b'), pod('c')]
    queue.attach(a)
    queue.attach(b)
    clock.advance(100)
    void queue.end(c)
    await changer.finish()
    assert.deepEqual(changer.asked, ['attach a', 'detach c'])
    await changer.finish()
    await changer.finish()
    assert.equal(changer.asked[2], 'attach b')
    assert.equal(openDescriptors(), 0)
  })

  it('rest when all that is under way is done, and what is only wanted is forgotten', async () => {
    queue.attach(pod('a'))
    queue.attach(pod('b'))
    clock.advance(100)
    let isResting = false
    const rested = queue.rest().then(() => {
      isResting = true
    })
    void queue.end(pod('c'))
    await changer.finish()
    assert.equal(isResting, false)
    await changer.finish()
    await rested
    queue.attach(pod('d'))
    clock.advance(1_000)
    assert.deepEqual(changer.asked, ['attach a', 'detach c'])
    assert.equal(openDescriptors(), 0)
    queue.resume()
    queue.attach(pod('b'))
    clock.advance(100)
    assert.equal(changer.asked[2], 'attach b')
    await changer.finish()
  })

  it('cost no pod anything when they cannot be changed', async () => {
    queue.attach(pod('a'))
    clock.advance(100)
    await changer.finish(new Error('no'))
    const ended = queue.end(pod('a'))
    await changer.finish(new Error('no'))
    await ended
    assert.match(warnings[0]!, /the UDP of a pod is not metered/)
    assert.match(warnings[1]!, /the UDP meter of a pod cannot be removed/)
    assert.equal(openDescriptors(), 0)
  })
})
