import assert from 'node:assert/strict'
import { beforeEach, describe, test } from 'node:test'
import { WeftError } from '../../src/base/errors.ts'
import { KubernetesError } from '../../src/kubernetes/error.ts'
import { type PresenceQuestion, ServerPresence } from '../../src/kubernetes/server-presence.ts'
import { FakeClock } from '../support/fake-clock.ts'

/** A server that answers each question when the test says so. */
class Server implements PresenceQuestion {
  questions = 0
  timeouts: number[] = []
  idleClosed = 0
  private answer: (error: Error | null) => void = () => assert.fail('nobody asks')

  askReady(timeoutMs: number): Promise<void> {
    this.questions++
    this.timeouts.push(timeoutMs)
    return new Promise((resolve, reject) => {
      this.answer = (error) => (error === null ? resolve() : reject(error))
    })
  }

  closeIdle(): void {
    this.idleClosed++
  }

  /** Answers the question that waits; 0 is none, 200 "ready". Resolves when that has had its effect. */
  async say(status: number): Promise<void> {
    const text = `status ${status}`
    const error = status === 200 ? null : new KubernetesError(text, { status, reason: '', apiMessage: '' })
    await this.sayError(error)
  }

  async sayError(error: Error | null): Promise<void> {
    this.answer(error)
    await new Promise(setImmediate)
  }
}

describe('the presence of an API server', () => {
  let clock: FakeClock
  let server: Server
  let presence: ServerPresence
  let random: number
  /** Who went on, in order. */
  let gone: string[]

  beforeEach(() => {
    clock = new FakeClock()
    server = new Server()
    random = 0
    presence = new ServerPresence(server, { clock, random: () => random })
    gone = []
  })

  /** Somebody who waits; the function returned ends the wait. */
  function wait(name: string): () => void {
    const abort = new AbortController()
    void presence.returned(abort.signal).then(() => gone.push(name))
    return () => abort.abort()
  }

  test('is asked for once by all who wait, and all go on at the first good answer', async () => {
    for (const name of ['a', 'b', 'c']) wait(name)
    assert.equal(server.idleClosed, 1)
    clock.advance(249)
    assert.equal(server.questions, 0)
    clock.advance(1)
    wait('d')
    assert.equal(server.questions, 1)
    await server.say(0)
    assert.deepEqual(gone, [])
    wait('e')
    clock.advance(500)
    await server.say(200)
    assert.deepEqual(gone, ['a', 'b', 'c', 'd', 'e'])
    assert.equal(server.questions, 2)
    assert.equal(clock.pending, 0)
  })

  test('is asked for every second at most and every half at least, however long it lasts', async () => {
    wait('a')
    clock.advance(250)
    for (const [chance, pauseMs] of [...Array(60).fill([0, 500]), ...Array(60).fill([0.999, 1_000])]) {
      random = chance
      await server.say(0)
      assert.equal(clock.nextDelayMs, pauseMs)
      clock.advance(pauseMs)
    }
    assert.equal(server.questions, 121)
    assert.ok(server.timeouts.every((ms) => ms === 3_000))
    await server.say(200)
    assert.deepEqual(gone, ['a'])
  })

  for (const status of [500, 503, 403, 404, 401]) {
    test(`that answers ${status} is not there yet, and tried after fifteen seconds of it`, async () => {
      wait('a')
      clock.advance(250)
      await server.say(0)
      clock.advance(500)
      const beganMs = clock.now()
      while (gone.length === 0 && clock.now() - beganMs < 60_000) {
        await server.say(status)
        if (gone.length === 0) clock.advance(500)
      }
      assert.deepEqual(gone, ['a'])
      assert.equal(clock.now() - beganMs, 15_000)
    })
  }

  test('that goes away again while it starts has its time anew', async () => {
    wait('a')
    clock.advance(250)
    await server.say(500)
    clock.advance(500)
    await server.say(0)
    clock.advance(500)
    clock.advance(20_000)
    await server.say(500)
    assert.deepEqual(gone, [])
    clock.advance(500)
    await server.say(200)
    assert.deepEqual(gone, ['a'])
  })

  test('that cannot be asked at all is not waited for', async () => {
    wait('a')
    clock.advance(250)
    await server.sayError(new WeftError('WEFT_CONFIG', 'the credentials cannot be used'))
    assert.deepEqual(gone, ['a'])
  })

  test('is not asked for when nobody waits any more, and anew for who comes later', async () => {
    const [stopA, stopB] = [wait('a'), wait('b')]
    stopA()
    assert.equal(clock.pending, 1)
    stopB()
    assert.equal(clock.pending, 0)
    // One whose wait ends while the server is asked.
    const stopC = wait('c')
    clock.advance(250)
    stopC()
    wait('d')
    await server.say(0)
    await Promise.resolve()
    assert.deepEqual(gone, ['a', 'b', 'c'])
    clock.advance(500)
    await server.say(200)
    assert.deepEqual(gone, ['a', 'b', 'c', 'd'])
    assert.equal(server.questions, 2)
  })

  test('does not keep who has stopped already', async () => {
    await presence.returned(AbortSignal.abort())
    assert.equal(clock.pending, 0)
  })
})
