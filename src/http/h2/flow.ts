// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Flow-control windows (RFC 9113 section 5.2): what the peer may still send us, and what we may still send.
 *
 * Received bytes are first taken from the window and later, once their reader has really passed them on, given back;
 * they are announced in steps of a quarter of the window, so that updates stay few and bulk never stalls.
 */
import { WINDOW_BYTES_LARGEST } from './frame.ts'

export class ReceiveWindow {
  private size: number
  /** Below zero after it was made smaller, until enough was given back (RFC 9113 section 6.9.2). */
  private available: number
  private owed = 0

  constructor(size: number) {
    this.size = size
    this.available = size
  }

  /** False when the peer has sent more than it may. */
  take(length: number): boolean {
    this.available -= length
    // Nothing may be sent at any time.
    return this.available >= 0 || length === 0
  }

  resize(size: number): void {
    this.available += size - this.size
    this.size = size
  }

  giveBack(length: number): void {
    this.owed += length
  }

  /** The increment to announce now; 0 while it is not worth a frame. The caller sends it. */
  announce(): number {
    const increment = this.owed
    if (increment < this.size >>> 2 || increment === 0) return 0
    this.owed = 0
    this.available += increment
    return increment
  }
}

export class SendWindow {
  /** May be negative after the peer has lowered its initial window (RFC 9113 section 6.9.2). */
  available: number

  constructor(size: number) {
    this.available = size
  }

  take(length: number): void {
    this.available -= length
  }

  /** False when the window would exceed 2^31-1. `increment` may be negative for a change of settings. */
  add(increment: number): boolean {
    this.available += increment
    return this.available <= WINDOW_BYTES_LARGEST
  }
}
