// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Output of one connection, gathered so that a head and the first piece of its body, or several pipelined responses,
 * leave in one write.
 *
 * While any engine of this thread works on input (between `beginBatch` and `endBatch`) output is only gathered; it leaves
 * when the outermost batch ends. Outside of a batch `commit` sends at once. A connection holds a buffer only while it
 * has output, so that idle ones cost nothing. Order is kept: what does not fit goes out after what was gathered.
 */
import { copyBytes, latin1Bytes, latin1Write } from '../../base/bytes.ts'
import type { ByteSink } from '../codec.ts'
import type { FieldOutput } from '../headers.ts'
import { BACKLOG_HIGH } from './limits.ts'

/** 16 KiB: one TLS record; beyond it copying costs more than a second write. */
const BUFFER_BYTES = 16_384

/** Buffers kept for reuse. 64: more connections than that rarely have output within one batch. */
const SPARE_BUFFERS_MAX = 64

const spareBuffers: Uint8Array[] = []
const waiting: Output[] = []
let batchDepth = 0

/** From here on output is gathered. Each call needs one `endBatch`, whatever happens between. */
export function beginBatch(): void {
  batchDepth++
}

/** Sends what was gathered, when this was the outermost batch. */
export function endBatch(): void {
  batchDepth--
  if (batchDepth > 0) return
  // Sending may call back and gather more: then the length has grown, or the list was emptied by a batch in there.
  for (let output = waiting.pop(); output !== undefined; output = waiting.pop()) output.flush()
}

export class Output implements FieldOutput {
  private readonly sink: ByteSink
  private buffer: Uint8Array | null
  private used: number
  private backlog: number
  private isWaiting: boolean

  constructor(sink: ByteSink) {
    this.sink = sink
    this.buffer = null
    this.used = 0
    this.backlog = 0
    this.isWaiting = false
  }

  /** What the sink had not yet sent after the last write; bytes. Above BACKLOG_HIGH it owes a drain. */
  get backlogBytes(): number {
    return this.backlog
  }

  /** Takes bytes; they are copied or sent before it returns. */
  writeBytes(bytes: Uint8Array, offset: number, length: number): void {
    if (length > BUFFER_BYTES - this.used) {
      this.flush()
      if (length >= BUFFER_BYTES) {
        this.backlog = this.sink.write(bytes, offset, length)
        return
      }
    }
    copyBytes(bytes, offset, length, this.open(), this.used)
    this.used += length
  }

  /** Takes text, one byte per character. */
  writeText(text: string): void {
    if (text.length > BUFFER_BYTES - this.used) {
      if (text.length > BUFFER_BYTES) {
        this.writeBytes(latin1Bytes(text), 0, text.length)
        return
      }
      this.flush()
    }
    const buffer = this.open()
    if (text.length <= 12) for (let i = 0; i < text.length; i++) buffer[this.used + i] = text.charCodeAt(i)
    else latin1Write(buffer, text, this.used)
    this.used += text.length
  }

  /**
   * The writer is at a point where what it wrote may leave. Returns the backlog. Above BACKLOG_HIGH the writer waits for
   * the sink's drain, which the sink owes only when it has said so itself: then nothing is kept back, so that it is asked.
   */
  commit(): number {
    if (this.used === 0) return this.backlog
    if (batchDepth === 0 || this.backlog + this.used > BACKLOG_HIGH) {
      this.flush()
    } else if (!this.isWaiting) {
      this.isWaiting = true
      waiting.push(this)
    }
    return this.backlog + this.used
  }

  /** Sends what is gathered. */
  flush(): void {
    this.isWaiting = false
    const buffer = this.buffer
    const used = this.used
    if (buffer === null || used === 0) return
    this.buffer = null
    this.used = 0
    this.backlog = this.sink.write(buffer, 0, used)
    if (spareBuffers.length < SPARE_BUFFERS_MAX) spareBuffers.push(buffer)
  }

  /** Drops what is gathered. */
  discard(): void {
    this.used = 0
    if (this.buffer !== null && spareBuffers.length < SPARE_BUFFERS_MAX) spareBuffers.push(this.buffer)
    this.buffer = null
  }

  /** The sink has sent everything. */
  onDrain(): void {
    this.backlog = 0
  }

  private open(): Uint8Array {
    this.buffer ??= spareBuffers.pop() ?? new Uint8Array(BUFFER_BYTES)
    return this.buffer
  }
}
