import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BACKLOG_HIGH } from '../../../src/http/h1/limits.ts'
import { beginBatch, endBatch, Output } from '../../../src/http/h1/output.ts'
import { FakeSink } from '../../support/fake-sink.ts'
import { latin1 } from '../../support/h1-recorders.ts'
import { SeededRandom } from '../../support/seeded-random.ts'

/** A sink that runs something when it is written to. */
class CallingSink extends FakeSink {
  onWrite: (() => void) | null = null

  override write(bytes: Uint8Array, offset: number, length: number): number {
    const backlog = super.write(bytes, offset, length)
    const onWrite = this.onWrite
    this.onWrite = null
    onWrite?.()
    return backlog
  }
}

test('outside of a batch a commit sends at once', () => {
  const sink = new FakeSink()
  const output = new Output(sink)
  output.writeText('head ')
  output.writeBytes(latin1('..body..'), 2, 4)
  assert.deepEqual(sink.writes, [])
  output.commit()
  output.commit()
  assert.deepEqual(sink.writes, ['head body'])
})

test('within batches output is gathered until the outermost ends', () => {
  const sinks = [new FakeSink(), new FakeSink()]
  const outputs = sinks.map((sink) => new Output(sink))
  beginBatch()
  for (const output of outputs) {
    output.writeText('a')
    output.commit()
    beginBatch()
    output.writeText('b')
    assert.equal(output.commit(), 2)
    endBatch()
  }
  assert.deepEqual(
    sinks.map((sink) => sink.writes.length),
    [0, 0],
  )
  endBatch()
  assert.deepEqual(
    sinks.map((sink) => sink.writes),
    [['ab'], ['ab']],
  )
})

test('what a write calls back to write is sent too', () => {
  const sink = new CallingSink()
  const other = new FakeSink()
  const output = new Output(sink)
  const second = new Output(other)
  sink.onWrite = () => {
    beginBatch()
    second.writeText('answer')
    second.commit()
    output.writeText('more')
    output.commit()
    endBatch()
  }
  beginBatch()
  output.writeText('question')
  output.commit()
  endBatch()
  assert.deepEqual(other.writes, ['answer'])
  assert.deepEqual(sink.writes, ['question', 'more'])
})

test('pieces of any size leave in order and whole', () => {
  const random = new SeededRandom(5)
  for (let round = 0; round < 50; round++) {
    const sink = new FakeSink()
    const output = new Output(sink)
    let expected = ''
    beginBatch()
    for (let piece = 0; piece < 60; piece++) {
      const size = random.pick([0, 1, 11, 12, 13, 31, 32, 33, 500, 4000, 16_383, 16_384, 16_385, 40_000])
      const text = String.fromCharCode(random.integer(0x21, 0xff)).repeat(size)
      if (random.boolean()) output.writeText(text)
      else output.writeBytes(latin1(`..${text}.`), 2, size)
      output.commit()
      expected += text
    }
    endBatch()
    assert.equal(sink.text === expected, true, `round ${round}`)
  }
})

test('what was gathered can be dropped', () => {
  const sink = new FakeSink()
  const output = new Output(sink)
  beginBatch()
  output.writeText('never')
  output.commit()
  output.discard()
  endBatch()
  output.writeText('sent')
  output.commit()
  assert.deepEqual(sink.writes, ['sent'])
})

test('the backlog is what the sink reported, and a commit counts what is gathered as well', () => {
  const sink = new FakeSink()
  const output = new Output(sink)
  sink.backlog = 100
  beginBatch()
  output.writeText('abc')
  assert.equal(output.backlogBytes, 0)
  assert.equal(output.commit(), 3)
  endBatch()
  assert.equal(output.backlogBytes, 100)
  beginBatch()
  output.writeText('abc')
  assert.equal(output.commit(), 103)
  output.onDrain()
  assert.equal(output.commit(), 3)
  endBatch()
})

test('a backlog that makes the writer wait is one that the sink owes a drain for', () => {
  const sink = new FakeSink()
  const output = new Output(sink)
  sink.backlog = BACKLOG_HIGH
  output.writeText('abc')
  assert.equal(output.commit(), BACKLOG_HIGH)
  // The sink has sent everything since, and owes no drain: it has never said that there was too much.
  sink.backlog = 3
  beginBatch()
  output.writeText('abc')
  assert.equal(output.commit(), 3)
  assert.deepEqual(sink.writes, ['abc', 'abc'])
  sink.backlog = BACKLOG_HIGH + 1
  output.writeBytes(new Uint8Array(BACKLOG_HIGH), 0, BACKLOG_HIGH)
  output.writeText('abc')
  assert.equal(output.commit(), BACKLOG_HIGH + 1)
  endBatch()
  assert.equal(sink.writes.length, 4)
})
