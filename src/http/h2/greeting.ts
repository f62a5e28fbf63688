/** What an endpoint says first: the preface and its SETTINGS (RFC 9113 sections 3.4 and 6.5.2). */
import {
  PREFACE,
  SETTING_ENABLE_CONNECT_PROTOCOL,
  SETTING_ENABLE_PUSH,
  SETTING_INITIAL_WINDOW_SIZE,
  SETTING_MAX_CONCURRENT_STREAMS,
  SETTING_MAX_FRAME_SIZE,
  SETTING_MAX_HEADER_LIST_SIZE,
  WINDOW_BYTES_DEFAULT,
} from './frame.ts'
import type { FrameWriter } from './frame-writer.ts'
import { type H2Settings, ROLE_CLIENT } from './limits.ts'

/** Streams may be opened behind it at once, without waiting for the peer's settings. */
export function writeGreeting(writer: FrameWriter, settings: H2Settings): void {
  const pairs = [
    SETTING_INITIAL_WINDOW_SIZE,
    settings.streamWindowBytes,
    SETTING_MAX_FRAME_SIZE,
    settings.frameBytesMax,
    SETTING_MAX_HEADER_LIST_SIZE,
    settings.headerListBytesMax,
  ]
  if (settings.role === ROLE_CLIENT) {
    writer.raw(PREFACE)
    pairs.push(SETTING_ENABLE_PUSH, 0)
  } else {
    pairs.push(SETTING_MAX_CONCURRENT_STREAMS, settings.peerStreamsMax)
    if (settings.acceptsProtocols === true) pairs.push(SETTING_ENABLE_CONNECT_PROTOCOL, 1)
  }
  writer.settings(pairs)
  const increment = settings.connectionWindowBytes - WINDOW_BYTES_DEFAULT
  if (increment > 0) writer.windowUpdate(0, increment)
}
