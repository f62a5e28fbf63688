/** Bodies of any size that cost no memory: a pattern whose every byte follows from its place. */
import type { Readable, Writable } from 'node:stream'

/** A prime, so that no buffer's length divides it and a lost or repeated buffer shows. */
const PERIOD = 1_048_573
const PIECE_BYTES = 65_536

const PATTERN = pattern()

function pattern(): Buffer {
  const once = Buffer.allocUnsafe(Math.ceil(PERIOD / 4) * 4)
  for (let at = 0, value = 1; at < once.length; at += 4) {
    value = (Math.imul(value, 1_664_525) + 1_013_904_223) >>> 0
    once.writeUInt32LE(value, at)
  }
  const period = once.subarray(0, PERIOD)
  return Buffer.concat([period, period])
}

/** Writes `length` bytes with back-pressure, then ends. Stops when the stream is gone. */
export function writeBulk(stream: Writable, length: number, onWritten: (bytes: number) => void = () => {}): void {
  let written = 0
  const pump = (): void => {
    while (written < length) {
      if (stream.destroyed) return
      const at = written % PERIOD
      const size = Math.min(PIECE_BYTES, length - written)
      written += size
      onWritten(written)
      if (!stream.write(PATTERN.subarray(at, at + size))) {
        stream.once('drain', pump)
        return
      }
    }
    stream.end()
  }
  pump()
}

/** Compares what comes with the pattern. */
export class BulkCheck {
  received = 0
  /** Place of the first piece with a byte that should not be there; -1 while all is well. */
  wrongAt = -1

  take(chunk: Buffer): void {
    for (let done = 0; done < chunk.length; ) {
      const at = this.received % PERIOD
      const size = Math.min(PERIOD, chunk.length - done)
      const isRight = chunk.compare(PATTERN, at, at + size, done, done + size) === 0
      if (!isRight && this.wrongAt < 0) this.wrongAt = this.received
      this.received += size
      done += size
    }
  }

  /** Reads a stream to its end. */
  async readAll(stream: Readable): Promise<void> {
    for await (const chunk of stream) this.take(chunk as Buffer)
  }
}
