/** A proxy that takes every tunnel, and gives its connection no more window until it is told to. */
import {
  FLAG_ACK,
  FLAG_END_HEADERS,
  FRAME_HEADERS,
  FRAME_SETTINGS,
  PREFACE,
  SETTING_INITIAL_WINDOW_SIZE,
} from '../../src/http/h2/frame.ts'
import type { Conn } from '../../src/transport/conn.ts'
import { ConnRecorder } from './conn-recorder.ts'
import { frame, settingsFrame, windowUpdateFrame } from './scripted-h2-peer.ts'

/** `:status 200` in HPACK's table. */
const STATUS_200 = Buffer.from([0x88])

export class MiserlyProxy extends ConnRecorder {
  private read = PREFACE.length

  override onOpen(conn: Conn): void {
    super.onOpen(conn)
    this.say(settingsFrame(SETTING_INITIAL_WINDOW_SIZE, 1 << 20))
  }

  override onBytes(conn: Conn, bytes: Uint8Array, offset: number, end: number): void {
    super.onBytes(conn, bytes, offset, end)
    const { received } = this
    while (received.length >= this.read + 9) {
      const length = received.readUIntBE(this.read, 3)
      if (received.length < this.read + 9 + length) return
      const [type, flags] = [received[this.read + 3], received[this.read + 4]!]
      const streamId = received.readUInt32BE(this.read + 5)
      this.read += 9 + length
      if (type === FRAME_HEADERS) this.say(frame(FRAME_HEADERS, FLAG_END_HEADERS, streamId, STATUS_200))
      if (type === FRAME_SETTINGS && (flags & FLAG_ACK) === 0) this.say(frame(FRAME_SETTINGS, FLAG_ACK, 0))
    }
  }

  /** More window for the whole connection. */
  give(bytes: number): void {
    this.say(windowUpdateFrame(0, bytes))
  }

  private say(bytes: Uint8Array): void {
    this.conn!.write(bytes, 0, bytes.length)
  }
}
