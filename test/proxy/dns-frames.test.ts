/** DNS messages on a byte stream, cut in every way. */
import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { test } from 'node:test'
import { DnsFrames, frameMessage, type MessageSink } from '../../src/proxy/dns-frames.ts'
import { SeededRandom } from '../support/seeded-random.ts'

class Messages implements MessageSink {
  readonly texts: string[] = []
  /** Messages that are taken before the reading ends. */
  max = Number.POSITIVE_INFINITY

  onMessage(message: Uint8Array): boolean {
    this.texts.push(Buffer.from(message).toString('latin1'))
    return this.texts.length < this.max
  }
}

const stream = (...messages: readonly string[]): Uint8Array =>
  Buffer.concat(messages.map((text) => frameMessage(Buffer.from(text, 'latin1'))))

/** Pushes a copy that is overwritten afterwards, as lent bytes may be. */
function push(frames: DnsFrames, bytes: Uint8Array, from: number, to: number): void {
  const lent = Uint8Array.from(bytes)
  frames.push(lent, from, to)
  lent.fill(0x58)
}

test('messages come out whole and in order, wherever the stream is cut', () => {
  const texts = ['a', 'hello', '\0\x05', 'x'.repeat(700)]
  const bytes = stream(...texts)
  for (let cut = 0; cut <= bytes.length; cut++) {
    const messages = new Messages()
    const frames = new DnsFrames(messages)
    push(frames, bytes, 0, cut)
    push(frames, bytes, cut, bytes.length)
    assert.deepEqual(messages.texts, texts, `cut at ${cut}`)
    assert.ok(frames.isBetweenMessages)
  }
})

test('single bytes and random pieces are as good as all at once', () => {
  const random = new SeededRandom(53)
  for (let round = 0; round < 50; round++) {
    const texts = Array.from({ length: random.integer(1, 6) }, () => 'm'.repeat(random.integer(1, 3000)))
    const bytes = stream(...texts)
    const messages = new Messages()
    const frames = new DnsFrames(messages)
    for (let at = 0; at < bytes.length; ) {
      const to = round === 0 ? at + 1 : Math.min(bytes.length, at + random.integer(1, 2000))
      push(frames, bytes, at, to)
      at = to
    }
    assert.deepEqual(messages.texts, texts)
  }
})

test('the longest message passes, and an empty one is told', () => {
  const messages = new Messages()
  const frames = new DnsFrames(messages)
  const longest = 'l'.repeat(65_535)
  push(frames, stream(longest, '', 'b'), 0, 65_537 + 2 + 3)
  assert.deepEqual(messages.texts, [longest, '', 'b'])
})

test('what is announced and does not come takes no room', () => {
  const frames = new DnsFrames(new Messages())
  frames.push(Uint8Array.of(0xff, 0xff, 1), 0, 3)
  const { room } = frames as unknown as { room: Uint8Array }
  assert.ok(room.length <= 512, `${room.length} bytes for one that came`)
  assert.equal(frames.isBetweenMessages, false)
})

test('nothing is read on when the sink has enough', () => {
  const messages = new Messages()
  messages.max = 2
  const frames = new DnsFrames(messages)
  push(frames, stream('a', 'b', 'c'), 0, 9)
  push(frames, stream('d'), 0, 3)
  assert.deepEqual(messages.texts, ['a', 'b'])
})
