// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * What the streams of one connection may send us, and what of it waits for receivers that have paused.
 *
 *      wide --much is held--> SETTINGS --acknowledged--> narrow --relax(), hardly anything is held--> SETTINGS --> wide
 *
 * All streams share the connection's window, so many readers that stop would use it up together and hold up everybody
 * else. When they hold much, the window of every stream is made narrow by a change of settings (RFC 9113 section 6.9.2):
 * those that stand still get hardly any further, and those that are read lose nothing but bytes in flight. A change counts
 * from the peer's acknowledgement on: what came before it was sent under the window before.
 */
import { SETTING_INITIAL_WINDOW_SIZE } from './frame.ts'
import type { FrameWriter } from './frame-writer.ts'
import { type H2Settings, HELD_BYTES_NARROW, HELD_BYTES_WIDE } from './limits.ts'

export class StreamWindows {
  /** Of each stream, as the peer has acknowledged it. */
  bytes: number
  /** Bytes that paused receivers hold. */
  heldBytes: number
  private readonly wideBytes: number
  /** 0 when windows are never made narrow. */
  private readonly narrowBytes: number
  private readonly writer: FrameWriter
  /** What was announced last. */
  private announced: number
  /** Announced and not acknowledged, oldest first: the greeting, and at most one more. */
  private readonly pending: number[]

  /** After the greeting, which announces `settings`. */
  constructor(settings: H2Settings, writer: FrameWriter) {
    this.bytes = settings.streamWindowBytes
    this.heldBytes = 0
    this.wideBytes = settings.streamWindowBytes
    this.narrowBytes = settings.narrowWindowBytes ?? 0
    this.writer = writer
    this.announced = settings.streamWindowBytes
    this.pending = [settings.streamWindowBytes]
  }

  addHeld(delta: number): void {
    this.heldBytes += delta
    if (this.heldBytes > HELD_BYTES_NARROW && this.narrowBytes > 0 && this.announced !== this.narrowBytes)
      this.announce(this.narrowBytes)
  }

  /** Windows are made wide again if hardly anything is held. To be called seldom: a change costs the peer a look at each stream. */
  relax(): void {
    if (this.announced === this.wideBytes || this.heldBytes > HELD_BYTES_WIDE || this.pending.length > 0) return
    this.announce(this.wideBytes)
  }

  /** The peer has acknowledged the oldest settings. True when `bytes` changed. */
  acknowledge(): boolean {
    const acknowledged = this.pending.shift()
    if (acknowledged === undefined || acknowledged === this.bytes) return false
    this.bytes = acknowledged
    return true
  }

  private announce(bytes: number): void {
    this.announced = bytes
    this.pending.push(bytes)
    this.writer.settings([SETTING_INITIAL_WINDOW_SIZE, bytes])
  }
}
