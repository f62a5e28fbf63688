/** RFC 9113 sections 3 to 5: the preface, frames, header blocks, the states and identifiers of streams. */
import { describe } from 'node:test'
import { FLAG_ACK, FLAG_END_HEADERS, FLAG_END_STREAM, FLAG_PADDED, PREFACE } from '../../../src/http/h2/frame.ts'
import {
  openHeaders,
  type Requirement,
  type Script,
  SETTINGS_AFTER_PREFACE,
  testBeginnings,
  testRequirements,
} from '../../support/h2-requirements.ts'
import {
  dataFrame,
  frame,
  GET_FIELDS,
  goAwayFrame,
  pingFrame,
  priorityFrame,
  resetFrame,
  settingsFrame,
  windowUpdateFrame,
} from '../../support/scripted-h2-peer.ts'

const HEADERS = 1
const CONTINUATION = 9

describe('RFC 9113 section 3: starting', () => {
  testBeginnings([
    ['3.4', 'server', 'preface and SETTINGS', SETTINGS_AFTER_PREFACE, 'tolerated'],
    [
      '3.4',
      'server',
      'a preface with a wrong last byte',
      Buffer.from('PRI * HTTP/2.0\r\n\r\nSM\r\n\r '),
      'connection PROTOCOL_ERROR',
    ],
    [
      '3.4',
      'server',
      'no SETTINGS behind the preface',
      Buffer.concat([PREFACE, pingFrame()]),
      'connection PROTOCOL_ERROR',
    ],
    [
      '3.4',
      'server',
      'an acknowledgement instead of SETTINGS',
      Buffer.concat([PREFACE, frame(4, FLAG_ACK, 0)]),
      'connection PROTOCOL_ERROR',
    ],
    ['3.4', 'server', 'HTTP/1.1', Buffer.from('GET / HTTP/1.1\r\nHost: a\r\n\r\n'), 'connection PROTOCOL_ERROR'],
    ['3.4', 'client', 'SETTINGS', settingsFrame(), 'tolerated'],
    ['3.4', 'client', 'another first frame', pingFrame(), 'connection PROTOCOL_ERROR'],
    ['3.4', 'client', 'GOAWAY as the first frame', goAwayFrame(0, 0), 'connection PROTOCOL_ERROR'],
  ])
})

/** What holds for both roles. Header lists are given as the role's own. */
function common(fields: readonly string[], nextId: number): Requirement[] {
  return [
    ['4.1', 'a frame of an unknown type', () => [frame(0xfa, 0xff, 1, Buffer.from('?'))], 'tolerated'],
    ['4.1', 'a frame of an unknown type on an idle stream', () => [frame(0xfa, 0, 77)], 'tolerated'],
    ['4.1', 'unknown flags', () => [frame(6, 0xfe, 0, Buffer.alloc(8))], 'tolerated'],
    ['4.1', 'the reserved bit of a stream id', () => [frame(6, 0, 0x8000_0000, Buffer.alloc(8))], 'tolerated'],
    [
      '4.2',
      'a frame above the announced size',
      () => [frame(0, 0, 1, Buffer.alloc(65_537))],
      'connection FRAME_SIZE_ERROR',
    ],
    [
      '4.2',
      'an unknown frame above the announced size',
      () => [frame(0xfa, 0, 0, Buffer.alloc(65_537))],
      'connection FRAME_SIZE_ERROR',
    ],
    [
      '4.3',
      'a block that cannot be decoded',
      () => [frame(HEADERS, FLAG_END_HEADERS, nextId, Buffer.from([0x80]))],
      'connection COMPRESSION_ERROR',
    ],
    [
      '4.3',
      'a table size update above the limit',
      () => [frame(HEADERS, FLAG_END_HEADERS, nextId, Buffer.from('3fe21f', 'hex'))],
      'connection COMPRESSION_ERROR',
    ],
    [
      '4.3',
      'a table size update behind a field',
      () => [frame(HEADERS, FLAG_END_HEADERS, nextId, Buffer.from('883f00', 'hex'))],
      'connection COMPRESSION_ERROR',
    ],
    [
      '4.3',
      'a frame of the same stream within a header block',
      (peer) => [openHeaders(peer, nextId, fields), dataFrame(nextId, 'x')],
      'connection PROTOCOL_ERROR',
    ],
    [
      '4.3',
      'a frame of the connection within a header block',
      (peer) => [openHeaders(peer, nextId, fields), settingsFrame()],
      'connection PROTOCOL_ERROR',
    ],
    [
      '4.3',
      'an unknown frame within a header block',
      (peer) => [openHeaders(peer, nextId, fields), frame(0xfa, 0, nextId)],
      'connection PROTOCOL_ERROR',
    ],
    [
      '4.3',
      'HEADERS of another stream within a header block',
      (peer) => [openHeaders(peer, nextId, fields), peer.headersFrame(nextId + 2, fields)],
      'connection PROTOCOL_ERROR',
    ],
    [
      '4.3',
      'CONTINUATION of another stream within a header block',
      (peer) => [openHeaders(peer, nextId, fields), frame(CONTINUATION, FLAG_END_HEADERS, 3)],
      'connection PROTOCOL_ERROR',
    ],
    ['5.1', 'DATA on an idle stream', () => [dataFrame(99, 'x')], 'connection PROTOCOL_ERROR'],
    ['5.1', 'RST_STREAM on an idle stream', () => [resetFrame(99, 8)], 'connection PROTOCOL_ERROR'],
    ['5.1', 'WINDOW_UPDATE on an idle stream', () => [windowUpdateFrame(99, 1)], 'connection PROTOCOL_ERROR'],
    ['5.1', 'PRIORITY on an idle stream', () => [priorityFrame(99, 1)], 'tolerated'],
    ['5.1', 'DATA on an even stream', () => [dataFrame(2, 'x')], 'connection PROTOCOL_ERROR'],
    ['5.1', 'WINDOW_UPDATE on a stream that is over', () => [resetFrame(1, 8), windowUpdateFrame(1, 1)], 'tolerated'],
    ['5.1', 'RST_STREAM on a stream that is over', () => [resetFrame(1, 8), resetFrame(1, 8)], 'tolerated'],
    ['5.1', 'PRIORITY on a stream that is over', () => [resetFrame(1, 8), priorityFrame(1, 0)], 'tolerated'],
    [
      '5.1',
      'DATA on a stream that the peer has reset',
      () => [resetFrame(1, 8), dataFrame(1, 'x')],
      'stream 1 STREAM_CLOSED',
    ],
    ['5.3.2', 'PRIORITY, with a dependency on itself', () => [priorityFrame(1, 1)], 'tolerated'],
    ['5.5', 'an extension frame with END_STREAM in its flags', () => [frame(0xfa, FLAG_END_STREAM, 1)], 'tolerated'],
    [
      'RFC 9218 7.1',
      'PRIORITY_UPDATE',
      () => [frame(0x10, 0, 0, Buffer.from([0, 0, 0, 1, 0x75, 0x3d, 0x31]))],
      'tolerated',
    ],
  ]
}

describe('RFC 9113 sections 4 and 5: frames and streams', () => {
  testRequirements('server', [
    ...common(GET_FIELDS, 5),
    [
      '4.3',
      'a header list above the announced size',
      (peer) => peer.cutHeaders(5, [...GET_FIELDS, 'a', 'x'.repeat(66_000)], 30_000),
      'stream 5 ENHANCE_YOUR_CALM',
    ],
    [
      '4.3',
      'an empty HEADERS frame, the block in CONTINUATION',
      (peer) => [
        frame(HEADERS, FLAG_END_STREAM, 5),
        frame(CONTINUATION, FLAG_END_HEADERS, 5, peer.headersFrame(5, GET_FIELDS).subarray(9)),
      ],
      'tolerated',
    ],
    ['5.1', 'DATA on a half-closed stream', () => [dataFrame(3, 'x')], 'stream 3 STREAM_CLOSED'],
    [
      '5.1',
      'HEADERS on a half-closed stream',
      (peer) => [peer.headersFrame(3, ['a', 'b'], true)],
      'stream 3 STREAM_CLOSED',
    ],
    ['5.1', 'WINDOW_UPDATE on a half-closed stream', () => [windowUpdateFrame(3, 1)], 'tolerated'],
    ['5.1', 'RST_STREAM on a half-closed stream', () => [resetFrame(3, 8)], 'tolerated'],
    [
      '5.1',
      'HEADERS on a stream that the peer has reset',
      (peer) => [resetFrame(1, 8), peer.headersFrame(1, ['a', 'b'], true)],
      'connection STREAM_CLOSED',
    ],
    ['5.1.1', 'an even stream', (peer) => [peer.headersFrame(4, GET_FIELDS)], 'connection PROTOCOL_ERROR'],
    [
      '5.1.1',
      'a stream below the last one',
      (peer) => [peer.headersFrame(9, GET_FIELDS), peer.headersFrame(7, GET_FIELDS)],
      'connection STREAM_CLOSED',
    ],
    ['5.1.1', 'a gap in the ids', (peer) => [peer.headersFrame(99, GET_FIELDS, true)], 'tolerated'],
    [
      '5.1.1',
      'a frame on a stream that a gap has closed',
      (peer) => [peer.headersFrame(99, GET_FIELDS, true), resetFrame(97, 8)],
      'tolerated',
    ],
  ])
  testRequirements('client', [
    ...common([':status', '200'], 1),
    [
      '5.1',
      'HEADERS on an idle stream',
      (peer) => [peer.headersFrame(99, [':status', '200'])],
      'connection PROTOCOL_ERROR',
    ],
    [
      '5.1',
      'HEADERS on an even stream',
      (peer) => [peer.headersFrame(2, [':status', '200'])],
      'connection PROTOCOL_ERROR',
    ],
    [
      '5.1',
      'DATA behind the end',
      (peer) => [peer.headersFrame(1, [':status', '200'], true), dataFrame(1, 'x')],
      'stream 1 STREAM_CLOSED',
    ],
    [
      '5.1',
      'HEADERS behind the end',
      (peer) => [peer.headersFrame(1, [':status', '200'], true), peer.headersFrame(1, ['a', 'b'], true)],
      'stream 1 STREAM_CLOSED',
    ],
    [
      '5.1',
      'HEADERS on a stream that the peer has reset',
      (peer) => [resetFrame(1, 8), peer.headersFrame(1, [':status', '200'])],
      'connection STREAM_CLOSED',
    ],
    [
      '5.1',
      'HEADERS on a stream that is over',
      (peer) => [peer.headersFrame(3, [':status', '200'], true), peer.headersFrame(3, ['a', 'b'], true)],
      'connection STREAM_CLOSED',
    ],
    [
      '5.1',
      'DATA on a stream that is over',
      (peer) => [peer.headersFrame(3, [':status', '200'], true), dataFrame(3, 'x')],
      'stream 3 STREAM_CLOSED',
    ],
    [
      '8.1',
      'a complete response and the stop behind it',
      (peer) => [peer.headersFrame(1, [':status', '200'], true), resetFrame(1, 0)],
      'tolerated',
    ],
  ])
})

describe('RFC 9113 section 6: frame definitions', () => {
  /** `first` is what must come before DATA. */
  const both = (first: Script): Requirement[] => [
    ['6.1', 'DATA on stream 0', () => [dataFrame(0, 'x')], 'connection PROTOCOL_ERROR'],
    [
      '6.1',
      'padding as long as the payload',
      (peer) => [...first(peer), frame(0, FLAG_PADDED, 1, Buffer.from([2, 0]))],
      'connection PROTOCOL_ERROR',
    ],
    [
      '6.1',
      'padded DATA without a pad length',
      (peer) => [...first(peer), frame(0, FLAG_PADDED, 1)],
      'connection FRAME_SIZE_ERROR',
    ],
    ['6.2', 'HEADERS on stream 0', (peer) => [peer.headersFrame(0, GET_FIELDS)], 'connection PROTOCOL_ERROR'],
    [
      '6.2',
      'HEADERS with padding longer than the frame',
      () => [frame(HEADERS, FLAG_END_HEADERS | FLAG_PADDED, 1, Buffer.from([2, 0]))],
      'connection PROTOCOL_ERROR',
    ],
    [
      '6.2',
      'HEADERS with a priority cut short',
      () => [frame(HEADERS, FLAG_END_HEADERS | 0x20, 1, Buffer.alloc(4))],
      'connection FRAME_SIZE_ERROR',
    ],
    ['6.3', 'PRIORITY on stream 0', () => [priorityFrame(0, 1)], 'connection PROTOCOL_ERROR'],
    ['6.3', 'PRIORITY of 4 bytes', () => [frame(2, 0, 1, Buffer.alloc(4))], 'stream 1 FRAME_SIZE_ERROR'],
    ['6.4', 'RST_STREAM on stream 0', () => [resetFrame(0, 8)], 'connection PROTOCOL_ERROR'],
    ['6.4', 'RST_STREAM of 3 bytes', () => [frame(3, 0, 1, Buffer.alloc(3))], 'connection FRAME_SIZE_ERROR'],
    ['6.4', 'RST_STREAM with an unknown code', () => [resetFrame(1, 0xffff)], 'tolerated'],
    ['6.5', 'SETTINGS on a stream', () => [frame(4, 0, 1)], 'connection PROTOCOL_ERROR'],
    ['6.5', 'SETTINGS of 5 bytes', () => [frame(4, 0, 0, Buffer.alloc(5))], 'connection FRAME_SIZE_ERROR'],
    [
      '6.5',
      'an acknowledgement with a payload',
      () => [frame(4, FLAG_ACK, 0, Buffer.alloc(6))],
      'connection FRAME_SIZE_ERROR',
    ],
    ['6.5.2', 'an unknown setting', () => [settingsFrame(0x99, 7)], 'tolerated'],
    ['6.5.2', 'ENABLE_PUSH of 2', () => [settingsFrame(2, 2)], 'connection PROTOCOL_ERROR'],
    ['6.5.2', 'INITIAL_WINDOW_SIZE of 2^31', () => [settingsFrame(4, 0x8000_0000)], 'connection FLOW_CONTROL_ERROR'],
    ['6.5.2', 'INITIAL_WINDOW_SIZE of 2^31-1', () => [settingsFrame(4, 0x7fff_ffff)], 'tolerated'],
    ['6.5.2', 'MAX_FRAME_SIZE of 16,383', () => [settingsFrame(5, 16_383)], 'connection PROTOCOL_ERROR'],
    ['6.5.2', 'MAX_FRAME_SIZE of 2^24', () => [settingsFrame(5, 16_777_216)], 'connection PROTOCOL_ERROR'],
    ['6.5.2', 'MAX_FRAME_SIZE of 16,384 and of 2^24-1', () => [settingsFrame(5, 16_384, 5, 16_777_215)], 'tolerated'],
    ['6.5.2', 'HEADER_TABLE_SIZE of 0 and of 2^32-1', () => [settingsFrame(1, 0, 1, 0xffff_ffff)], 'tolerated'],
    ['6.5.2', 'the same setting several times', () => [settingsFrame(4, 5, 4, 6, 4, 7)], 'tolerated'],
    ['RFC 8441 3', 'ENABLE_CONNECT_PROTOCOL of 2', () => [settingsFrame(8, 2)], 'connection PROTOCOL_ERROR'],
    [
      'RFC 8441 3',
      'ENABLE_CONNECT_PROTOCOL taken back',
      () => [settingsFrame(8, 1), settingsFrame(8, 0)],
      'connection PROTOCOL_ERROR',
    ],
    [
      '6.6',
      'PUSH_PROMISE',
      () => [frame(5, FLAG_END_HEADERS, 1, Buffer.from('0000000282', 'hex'))],
      'connection PROTOCOL_ERROR',
    ],
    ['6.7', 'PING on a stream', () => [frame(6, 0, 1, Buffer.alloc(8))], 'connection PROTOCOL_ERROR'],
    ['6.7', 'PING of 7 bytes', () => [frame(6, 0, 0, Buffer.alloc(7))], 'connection FRAME_SIZE_ERROR'],
    ['6.7', 'an answer to a PING that nobody sent', () => [pingFrame('unasked!', FLAG_ACK)], 'tolerated'],
    ['6.8', 'GOAWAY on a stream', () => [frame(7, 0, 1, Buffer.alloc(8))], 'connection PROTOCOL_ERROR'],
    ['6.8', 'GOAWAY of 7 bytes', () => [frame(7, 0, 0, Buffer.alloc(7))], 'connection FRAME_SIZE_ERROR'],
    [
      '6.8',
      'GOAWAY with debug data and an unknown code',
      () => [frame(7, 0, 0, Buffer.concat([Buffer.from('7fffffff000000ff', 'hex'), Buffer.from('bye')]))],
      'tolerated',
    ],
    ['6.9', 'WINDOW_UPDATE of 0 on a stream', () => [windowUpdateFrame(1, 0)], 'stream 1 PROTOCOL_ERROR'],
    ['6.9', 'WINDOW_UPDATE of 0 on the connection', () => [windowUpdateFrame(0, 0)], 'connection PROTOCOL_ERROR'],
    ['6.9', 'WINDOW_UPDATE of 3 bytes', () => [frame(8, 0, 1, Buffer.alloc(3))], 'connection FRAME_SIZE_ERROR'],
    ['6.9', 'the reserved bit of an increment', () => [windowUpdateFrame(0, 0x8000_0001)], 'tolerated'],
    ['6.9.1', 'a stream window above 2^31-1', () => [windowUpdateFrame(1, 0x7fff_ffff)], 'stream 1 FLOW_CONTROL_ERROR'],
    ['6.9.1', 'a stream window of 2^31-1', () => [windowUpdateFrame(1, 0x7fff_ffff - 65_535)], 'tolerated'],
    [
      '6.9.1',
      'a connection window above 2^31-1',
      () => [windowUpdateFrame(0, 0x7fff_ffff)],
      'connection FLOW_CONTROL_ERROR',
    ],
    [
      '6.9.2',
      'settings that make a stream window overflow',
      () => [windowUpdateFrame(1, 0x7fff_0000 - 65_535), settingsFrame(4, 0x7fff_ffff)],
      'connection FLOW_CONTROL_ERROR',
    ],
    [
      '6.9.2',
      'settings that make a stream window negative, and back',
      () => [settingsFrame(4, 0), settingsFrame(4, 65_535)],
      'tolerated',
    ],
    [
      '6.10',
      'CONTINUATION without HEADERS',
      () => [frame(CONTINUATION, FLAG_END_HEADERS, 1)],
      'connection PROTOCOL_ERROR',
    ],
    ['6.10', 'CONTINUATION on stream 0', () => [frame(CONTINUATION, FLAG_END_HEADERS, 0)], 'connection PROTOCOL_ERROR'],
    [
      '6.10',
      'CONTINUATION behind a complete block',
      (peer) => [peer.headersFrame(1, ['a', 'b'], true), frame(CONTINUATION, FLAG_END_HEADERS, 1)],
      'connection PROTOCOL_ERROR',
    ],
  ]
  testRequirements('server', [
    ...both(() => []),
    ['6.5.2', "ENABLE_PUSH of 1, which is a client's right", () => [settingsFrame(2, 1)], 'tolerated'],
  ])
  testRequirements('client', [
    ...both((peer) => [peer.headersFrame(1, [':status', '200'])]),
    ['6.5.2', 'ENABLE_PUSH of 1 from a server', () => [settingsFrame(2, 1)], 'connection PROTOCOL_ERROR'],
    ['6.5.2', 'ENABLE_PUSH of 0 from a server', () => [settingsFrame(2, 0)], 'tolerated'],
  ])
})
