/** A ByteSink that keeps what it is given, and checks what every sink may rely on: pauses are matched by resumes. */
import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import type { ByteSink } from '../../src/http/codec.ts'

export class FakeSink implements ByteSink {
  /** What was written, one text (latin1) per write. */
  readonly writes: string[] = []
  /** Ends of the connection in order: 'end', 'abort', 'close'. */
  readonly endings: string[] = []
  /** Backlog that `write` reports. */
  backlog = 0
  private pauses = 0

  get text(): string {
    return this.writes.join('')
  }

  get isPaused(): boolean {
    return this.pauses > 0
  }

  /** What was written since the last call. */
  take(): string {
    const text = this.text
    this.writes.length = 0
    return text
  }

  write(bytes: Uint8Array, offset: number, length: number): number {
    assert.ok(length > 0, 'nothing was written')
    assert.ok(!this.endings.includes('end'), 'written after end')
    this.writes.push(Buffer.from(bytes.buffer, bytes.byteOffset + offset, length).toString('latin1'))
    return this.backlog
  }

  end(): void {
    this.endings.push('end')
  }

  abort(): void {
    this.endings.push('abort')
  }

  close(): void {
    this.endings.push('close')
  }

  pauseReading(): void {
    this.pauses++
    assert.ok(this.pauses <= 2, 'a reason has paused reading twice')
  }

  resumeReading(): void {
    this.pauses--
    assert.ok(this.pauses >= 0, 'reading was resumed more often than paused')
  }
}
