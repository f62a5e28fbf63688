/** Frames out of bytes, wherever they are cut. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { FLAG_PADDED, FRAME_DATA, FRAME_PING, FRAME_SETTINGS, PREFACE } from '../../../src/http/h2/frame.ts'
import {
  FrameReader,
  type FrameReceiver,
  TAKE_PIECES,
  TAKE_SKIP,
  TAKE_WHOLE,
  type Take,
} from '../../../src/http/h2/frame-reader.ts'
import type { H2Violation } from '../../../src/http/h2/violations.ts'
import { dataFrame, frame, pingFrame, settingsFrame } from '../../support/scripted-h2-peer.ts'
import { SeededRandom } from '../../support/seeded-random.ts'

const TYPE_SKIPPED = 0x77

/** Writes down what it is told; pieces of data that follow each other are joined, so that cuts do not show. */
class Recorder implements FrameReceiver {
  readonly events: string[] = []
  reader: FrameReader | null = null
  stopAfter = Number.POSITIVE_INFINITY
  private data = ''

  onFrameStart(type: number, flags: number, streamId: number, length: number): Take {
    this.note(`frame ${type} ${flags} ${streamId} ${length}`)
    if (type === FRAME_DATA) return TAKE_PIECES
    return type === TYPE_SKIPPED ? TAKE_SKIP : TAKE_WHOLE
  }

  onFramePayload(bytes: Uint8Array, offset: number, end: number): void {
    this.note(`payload ${Buffer.from(bytes.subarray(offset, end)).toString('latin1')}`)
  }

  onDataBytes(bytes: Uint8Array, offset: number, end: number): void {
    assert.ok(end > offset, 'an empty piece')
    this.data += Buffer.from(bytes.subarray(offset, end)).toString('latin1')
  }

  onDataPadding(length: number): void {
    this.note(`padding ${length}`)
  }

  onDataEnd(): void {
    this.note(`data ${this.data}`)
    this.data = ''
  }

  onFrameError({ code, reason }: H2Violation): void {
    this.note(`error ${code} ${reason}`)
    this.reader?.stop()
  }

  private note(event: string): void {
    this.events.push(event)
    if (this.events.length >= this.stopAfter) this.reader?.stop()
  }
}

function read(pieces: readonly Uint8Array[], expectsPreface = false, stopAfter = Number.POSITIVE_INFINITY): string[] {
  const recorder = new Recorder()
  recorder.reader = new FrameReader(recorder, expectsPreface)
  recorder.stopAfter = stopAfter
  for (const piece of pieces) {
    const lent = Buffer.concat([Buffer.from('junk'), piece, Buffer.from('junk')])
    recorder.reader.receive(lent, 4, 4 + piece.length)
    lent.fill(0)
  }
  return recorder.events
}

/** DATA with its padding length before and zeros behind. */
function padded(streamId: number, text: string, padding: number): Buffer {
  const payload = Buffer.concat([Buffer.from([padding]), Buffer.from(text), Buffer.alloc(padding)])
  return frame(FRAME_DATA, FLAG_PADDED, streamId, payload)
}

const SAMPLE = Buffer.concat([
  PREFACE,
  settingsFrame(1, 2),
  dataFrame(1, 'hello'),
  dataFrame(3, ''),
  padded(5, 'padded', 3),
  padded(5, '', 2),
  padded(5, 'none', 0),
  frame(TYPE_SKIPPED, 0, 7, Buffer.from('whatever')),
  frame(TYPE_SKIPPED, 0, 7),
  frame(FRAME_SETTINGS, 1, 0),
  frame(FRAME_DATA, 0, 0xffff_ffff, Buffer.from('x')),
  pingFrame(),
])

const SAMPLE_EVENTS = [
  'frame 4 0 0 6',
  'payload \x00\x01\x00\x00\x00\x02',
  'frame 0 0 1 5',
  'data hello',
  'frame 0 0 3 0',
  'data ',
  'frame 0 8 5 10',
  'padding 4',
  'data padded',
  'frame 0 8 5 3',
  'padding 3',
  'data ',
  'frame 0 8 5 5',
  'padding 1',
  'data none',
  'frame 119 0 7 8',
  'frame 119 0 7 0',
  'frame 4 1 0 0',
  'payload ',
  'frame 0 0 2147483647 1',
  'data x',
  'frame 6 0 0 8',
  'payload 12345678',
]

describe('the frame reader', () => {
  test('takes a stream of frames apart', () => {
    assert.deepEqual(read([SAMPLE], true), SAMPLE_EVENTS)
  })

  test('does so cut in two at every byte', () => {
    for (let cut = 0; cut <= SAMPLE.length; cut++) {
      assert.deepEqual(read([SAMPLE.subarray(0, cut), SAMPLE.subarray(cut)], true), SAMPLE_EVENTS, `cut at ${cut}`)
    }
  })

  test('does so byte by byte', () => {
    assert.deepEqual(
      read(
        Array.from(SAMPLE, (byte) => Uint8Array.of(byte)),
        true,
      ),
      SAMPLE_EVENTS,
    )
  })

  test('does so in random pieces', () => {
    const random = new SeededRandom(9113)
    for (let round = 0; round < 300; round++) {
      const pieces: Uint8Array[] = []
      for (let at = 0; at < SAMPLE.length; ) {
        const end = Math.min(SAMPLE.length, at + random.integer(1, 30))
        pieces.push(SAMPLE.subarray(at, end))
        at = end
      }
      assert.deepEqual(read(pieces, true), SAMPLE_EVENTS)
    }
  })

  test('hands the beginning of a DATA frame on before its end is there', () => {
    const received: string[] = []
    const recorder = new Recorder()
    recorder.onDataBytes = (bytes, offset, end) => {
      received.push(Buffer.from(bytes.subarray(offset, end)).toString())
    }
    const reader = new FrameReader(recorder, false)
    const bytes = dataFrame(1, 'abcdef')
    reader.receive(bytes, 0, 12)
    assert.deepEqual(received, ['abc'])
    reader.receive(bytes, 12, 15)
    assert.deepEqual(received, ['abc', 'def'])
  })

  test('reports nothing after it was stopped, wherever that was', () => {
    for (let count = 1; count < SAMPLE_EVENTS.length; count++) {
      assert.deepEqual(read([SAMPLE], true, count), SAMPLE_EVENTS.slice(0, count))
    }
  })

  test('refuses another preface, also when it is cut', () => {
    const bad = Buffer.from('PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n')
    for (let cut = 0; cut < bad.length; cut++) {
      assert.deepEqual(read([bad.subarray(0, cut), bad.subarray(cut)], true), ['error 1 bad_preface'])
    }
  })

  test('refuses padding longer than the frame, or without its length', () => {
    const long = frame(FRAME_DATA, FLAG_PADDED, 1, Buffer.from([5, 0, 0]))
    assert.deepEqual(read([long, pingFrame()]), ['frame 0 8 1 3', 'error 1 bad_padding'])
    const empty = frame(FRAME_DATA, FLAG_PADDED, 1)
    assert.deepEqual(read([empty, pingFrame()]), ['frame 0 8 1 0', 'error 6 bad_frame_size'])
  })

  test('skips frames of any length without keeping them', () => {
    const large = frame(TYPE_SKIPPED, 0, 0, Buffer.alloc(500_000))
    assert.deepEqual(read([large.subarray(0, 300_000), large.subarray(300_000), pingFrame()]), [
      'frame 119 0 0 500000',
      `frame ${FRAME_PING} 0 0 8`,
      'payload 12345678',
    ])
  })
})
