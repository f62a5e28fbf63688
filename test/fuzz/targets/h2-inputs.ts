/** Frames of HTTP/2 for the target h2.ts: seeds, pieces for mutations, and mutations of whole frames. */
import {
  FRAME_CONTINUATION,
  FRAME_DATA,
  FRAME_HEADER_BYTES,
  FRAME_HEADERS,
  FRAME_SETTINGS,
  WINDOW_BYTES_LARGEST,
} from '../../../src/http/h2/frame.ts'
import { HpackEncoder } from '../../../src/http/h2/hpack-encoder.ts'
import {
  frame,
  goAwayFrame,
  pingFrame,
  resetFrame,
  settingsFrame,
  windowUpdateFrame,
} from '../../support/scripted-h2-peer.ts'
import type { SeededRandom } from '../../support/seeded-random.ts'
import { concat } from '../target.ts'

/** The server takes WebSocket over HTTP/2. */
export const SOCKET_SETTINGS = settingsFrame(8, 1)

export const GET = [':method', 'GET', ':scheme', 'http', ':path', '/', ':authority', 'a']
export const POST = [
  ':method',
  'POST',
  ':scheme',
  'https',
  ':path',
  '/p',
  ':authority',
  'b',
  'content-length',
  '5',
  'te',
  'trailers',
]
export const CONNECT = [':method', 'CONNECT', ':authority', '198.18.1.2:8080']
const SOCKET = [...GET.slice(2), ':method', 'CONNECT', ':protocol', 'websocket']

export function headers(fields: readonly string[], streamId: number, flags: number): Uint8Array {
  const encoder = new HpackEncoder()
  const length = encoder.encode(fields)
  return frame(FRAME_HEADERS, flags, streamId, Buffer.from(encoder.block.subarray(0, length)))
}

export function data(streamId: number, text: string, flags = 0): Uint8Array {
  return frame(FRAME_DATA, flags, streamId, Buffer.from(text, 'latin1'))
}

/** Frames that mutations put in. Flags: 1 end of stream, 4 end of headers, 8 padded, 32 priority. */
export const FRAMES: readonly Uint8Array[] = [
  ...[GET, POST, CONNECT, SOCKET].flatMap((fields) => [
    headers(fields, 1, 5),
    headers(fields, 3, 4),
    headers(fields, 5, 0),
  ]),
  ...[
    [':status', '200'],
    [':status', '103', 'link', 'x'],
    [':status', '204'],
    [':status', '200', 'content-length', '5'],
  ].flatMap((fields) => [headers(fields, 1, 4), headers(fields, 3, 5)]),
  headers(['grpc-status', '0'], 1, 5),
  headers(['x-a', 'b', 'cookie', 'c=d', 'cookie', 'e=f'], 3, 5),
  headers([':status', '200'], 2, 4),
  ...[1, 3].flatMap((id) => [
    data(id, 'hello', 1),
    data(id, 'hello'),
    data(id, ''),
    data(id, '\x02abcd', 8),
    data(id, '\xffab', 9),
  ]),
  data(0, 'x'),
  data(1, 'x'.repeat(16_384)),
  frame(FRAME_CONTINUATION, 4, 1, Buffer.from('82', 'hex')),
  frame(FRAME_CONTINUATION, 4, 5),
  frame(
    FRAME_HEADERS,
    0x2d,
    7,
    Buffer.concat([Buffer.from([1, 0, 0, 0, 3, 16]), headers(GET, 7, 5).subarray(9), Buffer.from([0])]),
  ),
  frame(2, 0, 1, Buffer.from([0, 0, 0, 1, 16])),
  frame(2, 0, 3, Buffer.from([0, 0, 0, 1, 16])),
  resetFrame(1, 8),
  resetFrame(3, 7),
  resetFrame(1, 0),
  settingsFrame(),
  settingsFrame(1, 0, 3, 1, 4, 0, 5, 16_384, 6, 100),
  settingsFrame(4, WINDOW_BYTES_LARGEST),
  settingsFrame(4, 0x8000_0000),
  settingsFrame(4, 100),
  settingsFrame(5, 16_777_215, 8, 1, 0xffff, 7),
  settingsFrame(2, 1),
  frame(FRAME_SETTINGS, 1, 0),
  frame(5, 4, 1, Buffer.from([0, 0, 0, 2, 0x82])),
  pingFrame(),
  pingFrame('weftlive', 1),
  pingFrame('weftdrai', 1),
  goAwayFrame(1, 0),
  goAwayFrame(WINDOW_BYTES_LARGEST, 0),
  goAwayFrame(0, 2),
  ...[0, 1, 3].flatMap((id) => [
    windowUpdateFrame(id, 1),
    windowUpdateFrame(id, 65_535),
    windowUpdateFrame(id, WINDOW_BYTES_LARGEST),
  ]),
  windowUpdateFrame(1, 0),
  frame(0xbe, 0xff, 1, Buffer.from('unknown')),
]

/** Cuts an input into its frames; what is left over at the end is the last. */
function framesOf(bytes: Uint8Array): Uint8Array[] {
  const frames: Uint8Array[] = []
  for (let at = 0; at < bytes.length; ) {
    const length =
      at + FRAME_HEADER_BYTES <= bytes.length ? (bytes[at]! << 16) | (bytes[at + 1]! << 8) | bytes[at + 2]! : 0
    const end = Math.min(bytes.length, at + FRAME_HEADER_BYTES + length)
    frames.push(bytes.slice(at, end))
    at = end
  }
  return frames
}

/** Damages frames as wholes, so that what follows stays readable. */
export function mutateFrames(random: SeededRandom, input: Uint8Array): Uint8Array {
  const mode = input.slice(0, 1)
  const frames = framesOf(input.subarray(1))
  const at = random.integer(0, frames.length)
  const chosen = frames[at]
  switch (chosen === undefined ? 0 : random.integer(0, 8)) {
    case 0:
    case 1:
      frames.splice(at, 0, random.pick(FRAMES).slice())
      break
    case 2:
      frames.splice(at, 1)
      break
    case 3:
      frames.splice(random.integer(0, frames.length), 0, chosen!)
      break
    case 4:
      // A flood: the budgets are a thousand frames.
      frames.splice(at, 0, ...new Array<Uint8Array>(random.pick([2, 20, 110, 1_100])).fill(chosen!))
      break
    case 5:
      chosen![8] = random.pick([0, 1, 2, 3, 5, 7, 9])
      break
    case 6:
      chosen![random.pick([3, 4])] = random.integer(0, 10)
      break
    case 7:
      chosen![4] = chosen![4]! ^ random.pick([1, 4, 8, 32])
      break
    default:
      frames[at] = resized(random, chosen!)
  }
  return concat(mode, ...frames)
}

/** Another payload length, told correctly. */
function resized(random: SeededRandom, whole: Uint8Array): Uint8Array {
  const payload = whole.subarray(FRAME_HEADER_BYTES)
  const change = random.integer(-4, 12)
  const next =
    change < 0 ? payload.slice(0, Math.max(0, payload.length + change)) : concat(payload, new Uint8Array(change))
  const head = whole.slice(0, FRAME_HEADER_BYTES)
  head[0] = next.length >>> 16
  head[1] = next.length >>> 8
  head[2] = next.length
  return concat(head, next)
}
