/** A server engine of HTTP/2 with tunnels open, for tests of its windows and turns. */
import { FRAME_DATA, FRAME_WINDOW_UPDATE } from '../../src/http/h2/frame.ts'
import { HBONE_SERVER_SETTINGS } from '../../src/http/h2/limits.ts'
import type { H2Stream } from '../../src/http/h2/stream.ts'
import { type Frame, ScriptedH2Peer, settingsFrame, windowUpdateFrame } from './scripted-h2-peer.ts'

/** Of RFC 9113, before any SETTINGS. */
export const WINDOW_DEFAULT = 65_535

/** A server engine with a tunnel open on each of `count` streams, and a generous window on the connection. */
export function tunnels(
  count: number,
  greeting = settingsFrame(4, 0x7fff_ffff),
): { peer: ScriptedH2Peer; streams: H2Stream[] } {
  const peer = new ScriptedH2Peer(HBONE_SERVER_SETTINGS, true, greeting)
  peer.send(windowUpdateFrame(0, 0x7fff_ffff - WINDOW_DEFAULT))
  const streams: H2Stream[] = []
  for (let i = 0; i < count; i++) {
    const { stream } = peer.request(2 * i + 1)
    stream!.sendHeaders([':status', '200'], false)
    streams.push(stream!)
  }
  peer.flush()
  peer.take()
  return { peer, streams }
}

/** DATA bytes per stream. */
export function dataBytes(frames: readonly Frame[]): Map<number, number> {
  const bytes = new Map<number, number>()
  for (const one of frames) {
    if (one.type === FRAME_DATA) bytes.set(one.streamId, (bytes.get(one.streamId) ?? 0) + one.payload.length)
  }
  return bytes
}

/** Increments of windows per stream. */
export function increments(frames: readonly Frame[]): Map<number, number> {
  const sums = new Map<number, number>()
  for (const one of frames) {
    if (one.type !== FRAME_WINDOW_UPDATE) continue
    sums.set(one.streamId, (sums.get(one.streamId) ?? 0) + one.payload.readUInt32BE(0))
  }
  return sums
}
