/** What is sent: the peer's windows, back-pressure, and turns between streams. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { FLAG_END_STREAM, FRAME_DATA, FRAME_HEADERS } from '../../../src/http/h2/frame.ts'
import { BACKLOG_HIGH, HBONE_CLIENT_SETTINGS, HBONE_SERVER_SETTINGS } from '../../../src/http/h2/limits.ts'
import { CLOSED_BY_LIMIT, type H2Stream } from '../../../src/http/h2/stream.ts'
import { dataBytes, tunnels, WINDOW_DEFAULT } from '../../support/h2-tunnels.ts'
import {
  CONNECT_FIELDS,
  type Frame,
  ScriptedH2Peer,
  StreamRecorder,
  settingsFrame,
  windowUpdateFrame,
} from '../../support/scripted-h2-peer.ts'
import { SeededRandom } from '../../support/seeded-random.ts'

const MIB = 1 << 20

describe('what is sent', () => {
  test('stops at the stream window and goes on when it is raised', () => {
    const { peer, streams } = tunnels(1, settingsFrame(4, 1000))
    const bytes = Buffer.alloc(3000, 'abc')
    assert.equal(streams[0]!.write(bytes, 0, 3000), 2000)
    peer.flush()
    assert.equal(dataBytes(peer.take()).get(1), 1000)
    peer.send(windowUpdateFrame(1, 500))
    assert.equal(dataBytes(peer.take()).get(1), 500)
    assert.equal(streams[0]!.backlog, 1500)
    peer.send(settingsFrame(4, 5000))
    assert.equal(dataBytes(peer.take()).get(1), 1500)
    assert.equal(streams[0]!.backlog, 0)
  })

  test('stops at the connection window and goes on when it is raised', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS, true, settingsFrame(4, 1 << 20))
    const { stream } = peer.request(1)
    stream!.sendHeaders([':status', '200'], false)
    stream!.write(Buffer.alloc(100_000), 0, 100_000)
    peer.flush()
    assert.equal(dataBytes(peer.take()).get(1), WINDOW_DEFAULT)
    peer.send(windowUpdateFrame(0, 10))
    assert.equal(dataBytes(peer.take()).get(1), 10)
    peer.send(windowUpdateFrame(0, 1 << 20))
    assert.equal(dataBytes(peer.take()).get(1), 100_000 - WINDOW_DEFAULT - 10)
  })

  test('nothing goes into a window of 0, nor into one that a change of settings made negative', () => {
    const { peer, streams } = tunnels(1, settingsFrame(4, 1000))
    streams[0]!.write(Buffer.alloc(1000), 0, 1000)
    peer.send(settingsFrame(4, 0))
    peer.take()
    streams[0]!.write(Buffer.alloc(100), 0, 100)
    peer.send(windowUpdateFrame(1, 1000))
    assert.equal(dataBytes(peer.take()).size, 0)
    peer.send(windowUpdateFrame(1, 60))
    assert.equal(dataBytes(peer.take()).get(1), 60)
    peer.send(settingsFrame(4, 40))
    assert.equal(dataBytes(peer.take()).get(1), 40)
  })

  test('obeys the frame size of the peer', () => {
    const { peer, streams } = tunnels(1)
    streams[0]!.write(Buffer.alloc(50_000), 0, 50_000)
    peer.flush()
    assert.deepEqual(
      peer.take().map((one) => one.payload.length),
      [16_384, 16_384, 16_384, 848],
    )
    peer.send(settingsFrame(5, 1 << 20))
    peer.take()
    streams[0]!.write(Buffer.alloc(50_000), 0, 50_000)
    peer.flush()
    assert.deepEqual(
      peer.take().map((one) => one.payload.length),
      [50_000],
    )
  })

  test('the end comes behind the last byte, on the same frame', () => {
    const { peer, streams } = tunnels(1, settingsFrame(4, 10))
    streams[0]!.write(Buffer.alloc(20), 0, 20)
    streams[0]!.end()
    assert.equal(streams[0]!.isLocalEnded, false)
    peer.flush()
    peer.take()
    peer.send(windowUpdateFrame(1, 100))
    const frames = peer.take()
    assert.deepEqual(
      frames.map((one) => [one.payload.length, one.flags]),
      [[10, FLAG_END_STREAM]],
    )
    assert.equal(streams[0]!.isLocalEnded, true)
  })

  test('trailers wait for the body', () => {
    const { peer, streams } = tunnels(1, settingsFrame(4, 10))
    streams[0]!.write(Buffer.alloc(20), 0, 20)
    streams[0]!.endWith(['a', 'b'])
    peer.send(windowUpdateFrame(1, 100))
    const frames = peer.take()
    const last = frames.at(-1)!
    assert.equal(last.type, FRAME_HEADERS)
    assert.equal(last.flags & FLAG_END_STREAM, FLAG_END_STREAM)
    assert.equal(dataBytes(frames).get(1), 20)
  })

  test('one batch is one write', () => {
    const { peer, streams } = tunnels(20)
    const before = peer.sink.writes
    for (const stream of streams) stream.write(Buffer.from('small'), 0, 5)
    assert.equal(peer.sink.writes, before)
    peer.flush()
    assert.equal(peer.sink.writes, before + 1)
    assert.equal(dataBytes(peer.take()).size, 20)
  })

  test('a blocked sink makes streams queue, and its drain lets them go on', () => {
    const { peer, streams } = tunnels(1)
    const stream = streams[0]!
    const recorder = peer.streams.get(1)!
    peer.sink.backlog = BACKLOG_HIGH + 1
    const chunk = Buffer.alloc(65_536)
    let backlog = 0
    let written = 0
    while (backlog <= BACKLOG_HIGH) {
      backlog = stream.write(chunk, 0, chunk.length)
      written += chunk.length
    }
    peer.flush()
    assert.ok(dataBytes(peer.take()).get(1)! <= 2 * 65_536, 'little goes to a blocked sink')
    assert.deepEqual(recorder.events, [])
    peer.sink.backlog = 0
    peer.engine.receiveDrain()
    peer.flush()
    assert.deepEqual(recorder.events, ['drain'])
    assert.equal(stream.backlog, 0)
    assert.equal(dataBytes(peer.sink.frames).get(1), written)
  })

  test('a writer that ignores the backlog loses the stream, not the memory', () => {
    const { peer, streams } = tunnels(1, settingsFrame(4, 0))
    const recorder = peer.streams.get(1)!
    const chunk = Buffer.alloc(MIB)
    for (let i = 0; i < 30; i++) streams[0]!.write(chunk, 0, chunk.length)
    assert.equal(recorder.closed, null, 'not inside the call')
    peer.flush()
    assert.equal(recorder.closed?.[0], CLOSED_BY_LIMIT)
    assert.deepEqual(peer.resetNames(), ['1:INTERNAL_ERROR'])
  })

  test('what is corked waits, with its end', () => {
    const peer = new ScriptedH2Peer(HBONE_CLIENT_SETTINGS)
    const recorder = new StreamRecorder()
    const stream = peer.engine.open(CONNECT_FIELDS, false, recorder)
    stream.cork()
    stream.write(Buffer.from('early'), 0, 5)
    stream.end()
    peer.flush()
    assert.deepEqual(
      peer.take().map((one) => one.type),
      [FRAME_HEADERS],
    )
    stream.uncork()
    peer.flush()
    const [data] = peer.take()
    assert.equal(data?.payload.toString(), 'early')
    assert.equal(data?.flags, FLAG_END_STREAM)
  })
})

describe('turns', () => {
  test('a stream with little to say is not stalled by one with much', () => {
    const { peer, streams } = tunnels(2)
    const [bulk, small] = streams
    peer.sink.backlog = BACKLOG_HIGH + 1
    const chunk = Buffer.alloc(MIB)
    for (let i = 0; i < 8; i++) bulk!.write(chunk, 0, chunk.length)
    peer.flush()
    peer.take()
    small!.write(Buffer.from('hello'), 0, 5)
    // The sink takes one buffer at a time.
    peer.engine.receiveDrain()
    peer.flush()
    const bytes = dataBytes(peer.take())
    assert.equal(bytes.get(3), 5)
    assert.ok(bulk!.backlog > 7 * MIB - 200_000)
  })

  test('streams share what there is by bytes', () => {
    const { peer, streams } = tunnels(5)
    peer.sink.backlog = BACKLOG_HIGH + 1
    const chunk = Buffer.alloc(MIB)
    for (const stream of streams) stream.write(chunk, 0, chunk.length)
    peer.flush()
    peer.take()
    let frames: Frame[] = []
    for (let i = 0; i < 20; i++) {
      peer.engine.receiveDrain()
      frames = frames.concat(peer.take())
    }
    const shares = [...dataBytes(frames).values()]
    assert.equal(shares.length, 5)
    assert.ok(Math.max(...shares) - Math.min(...shares) <= 2 * 16_384, `${shares}`)
  })

  test('a stream that writes again as soon as it has drained does not overtake those that wait', () => {
    const { peer, streams } = tunnels(2)
    const [eager, waiting] = streams
    peer.sink.backlog = BACKLOG_HIGH + 1
    const chunk = Buffer.alloc(400_000)
    eager!.write(chunk, 0, chunk.length)
    waiting!.write(chunk, 0, chunk.length)
    peer.flush()
    peer.take()
    peer.streams.get(1)!.onDrain = () => {
      eager!.write(Buffer.alloc(MIB), 0, MIB)
    }
    // Each drain lets one buffer (64 KiB) through; the last one is filled by whoever has something left.
    let frames: Frame[] = []
    while (waiting!.backlog > 0) {
      peer.engine.receiveDrain()
      frames = frames.concat(peer.take())
    }
    const bytes = dataBytes(frames)
    assert.ok(bytes.get(1)! - bytes.get(3)! <= 65_536 + 16_384, `${bytes.get(1)} against ${bytes.get(3)}`)
  })

  test('a small connection window is shared as well', () => {
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS, true, settingsFrame(4, 1 << 30))
    const first = peer.request(1).stream!
    const second = peer.request(3).stream!
    first.sendHeaders([':status', '200'], false)
    second.sendHeaders([':status', '200'], false)
    first.write(Buffer.alloc(MIB), 0, MIB)
    second.write(Buffer.alloc(MIB), 0, MIB)
    peer.flush()
    peer.take()
    peer.send(windowUpdateFrame(0, 16 * 16_384))
    const bytes = dataBytes(peer.take())
    assert.equal(bytes.get(1), 8 * 16_384)
    assert.equal(bytes.get(3), 8 * 16_384)
  })

  test('a stream without window gives its turn away and takes it again later', () => {
    const { peer, streams } = tunnels(2, settingsFrame(4, 1000))
    for (const stream of streams) stream.write(Buffer.alloc(2000), 0, 2000)
    peer.flush()
    peer.take()
    peer.send(windowUpdateFrame(3, 1000))
    assert.deepEqual([...dataBytes(peer.take())], [[3, 1000]])
    peer.send(windowUpdateFrame(1, 1000))
    assert.deepEqual([...dataBytes(peer.take())], [[1, 1000]])
  })

  test('a stream that is reset while it waits is skipped', () => {
    const { peer, streams } = tunnels(3)
    peer.sink.backlog = BACKLOG_HIGH + 1
    const chunk = Buffer.alloc(MIB)
    for (const stream of streams) stream.write(chunk, 0, chunk.length)
    peer.flush()
    peer.take()
    streams[1]!.reset(8)
    peer.sink.backlog = 0
    peer.engine.receiveDrain()
    peer.flush()
    const bytes = dataBytes(peer.sink.frames)
    assert.equal(bytes.get(1), MIB)
    assert.equal(bytes.get(5), MIB)
  })
})

test('under random windows, backlogs and sizes no window is exceeded and every byte arrives in order', () => {
  for (let seed = 1; seed <= 12; seed++) {
    const random = new SeededRandom(seed)
    const initial = random.integer(0, 5000)
    const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS, true, settingsFrame(4, initial))
    let connectionWindow = WINDOW_DEFAULT
    const windows = new Map<number, number>()
    const sent = new Map<number, string>()
    const got = new Map<number, string>()
    const streams: H2Stream[] = []
    for (let id = 1; id <= 7; id += 2) {
      const { stream } = peer.request(id)
      stream!.sendHeaders([':status', '200'], false)
      streams.push(stream!)
      windows.set(id, initial)
      sent.set(id, '')
      got.set(id, '')
    }
    const account = (): void => {
      for (const one of peer.take()) {
        if (one.type !== FRAME_DATA) continue
        connectionWindow -= one.payload.length
        windows.set(one.streamId, windows.get(one.streamId)! - one.payload.length)
        assert.ok(connectionWindow >= 0, 'connection window')
        assert.ok(windows.get(one.streamId)! >= 0, 'stream window')
        got.set(one.streamId, got.get(one.streamId)! + one.payload.toString('latin1'))
      }
    }
    for (let step = 0; step < 400; step++) {
      const stream = random.pick(streams)
      const text = String(step).repeat(random.integer(1, 300))
      peer.sink.backlog = random.next() < 0.2 ? BACKLOG_HIGH + 1 : 0
      stream.write(Buffer.from(text), 0, text.length)
      sent.set(stream.id, sent.get(stream.id)! + text)
      account()
      const increment = random.integer(1, 4000)
      if (random.boolean()) {
        connectionWindow += increment
        peer.send(windowUpdateFrame(0, increment))
      } else {
        windows.set(stream.id, windows.get(stream.id)! + increment)
        peer.send(windowUpdateFrame(stream.id, increment))
      }
      account()
      if (random.next() < 0.3) peer.engine.receiveDrain()
      peer.flush()
      account()
    }
    peer.sink.backlog = 0
    for (const id of windows.keys()) {
      windows.set(id, windows.get(id)! + 10_000_000)
      peer.send(windowUpdateFrame(id, 10_000_000))
      account()
    }
    connectionWindow += 100_000_000
    peer.send(windowUpdateFrame(0, 100_000_000))
    peer.engine.receiveDrain()
    peer.flush()
    account()
    for (const [id, text] of sent) assert.ok(got.get(id) === text, `seed ${seed} stream ${id}`)
  }
})
