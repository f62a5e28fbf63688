/** A Handler and an Acceptor that write down what they are told, for tests of transports. */
import type { WeftError } from '../../src/base/errors.ts'
import type { Acceptor, Conn, Handler } from '../../src/transport/conn.ts'

/** Events as words: open, bytes, end, drain, close. */
export class ConnRecorder implements Handler {
  readonly events: string[] = []
  received: Buffer = Buffer.alloc(0)
  error: WeftError | null = null
  conn: Conn | null = null
  private waiting: (() => void)[] = []

  onOpen(conn: Conn): void {
    this.conn = conn
    this.note('open')
  }

  onBytes(_conn: Conn, bytes: Uint8Array, offset: number, end: number): void {
    this.received = Buffer.concat([this.received, bytes.subarray(offset, end)])
    this.note('bytes')
  }

  onEnd(_conn: Conn): void {
    this.note('end')
  }

  onDrain(_conn: Conn): void {
    this.note('drain')
  }

  onClose(_conn: Conn, error: WeftError | null): void {
    this.error = error
    this.note('close')
  }

  /** Resolves once `condition` holds; it is looked at after every event. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.waiting.push(resolve))
  }

  /** Resolves once the event has come. */
  async seen(event: string): Promise<void> {
    await this.until(() => this.events.includes(event))
  }

  get text(): string {
    return this.received.toString('latin1')
  }

  private note(event: string): void {
    this.events.push(event)
    const waiting = this.waiting
    this.waiting = []
    for (const resolve of waiting) resolve()
  }
}

/** Sends back what it gets, and ends when its peer does. */
export class Echo extends ConnRecorder {
  override onBytes(conn: Conn, bytes: Uint8Array, offset: number, end: number): void {
    conn.write(bytes, offset, end - offset)
    super.onBytes(conn, bytes, offset, end)
  }

  override onEnd(conn: Conn): void {
    conn.end()
    super.onEnd(conn)
  }
}

/** Accepts everything with a new handler each, and keeps them in order. */
export class AcceptRecorder<H extends ConnRecorder = ConnRecorder> implements Acceptor {
  readonly handlers: H[] = []
  readonly errors: { readonly error: WeftError; readonly remoteAddress: string }[] = []
  private readonly create: () => H
  private waiting: (() => void)[] = []

  constructor(create: () => H) {
    this.create = create
  }

  onAccept(conn: Conn): Handler {
    const handler = this.create()
    handler.conn = conn
    this.handlers.push(handler)
    this.wake()
    return handler
  }

  onAcceptError(error: WeftError, remoteAddress: string): void {
    this.errors.push({ error, remoteAddress })
    this.wake()
  }

  /** The handler of the connection accepted as number `index`, once there is one. */
  async handler(index: number): Promise<H> {
    while (this.handlers.length <= index) await new Promise<void>((resolve) => this.waiting.push(resolve))
    return this.handlers[index]!
  }

  async failure(index: number): Promise<{ readonly error: WeftError; readonly remoteAddress: string }> {
    while (this.errors.length <= index) await new Promise<void>((resolve) => this.waiting.push(resolve))
    return this.errors[index]!
  }

  private wake(): void {
    const waiting = this.waiting
    this.waiting = []
    for (const resolve of waiting) resolve()
  }
}

/** Writes text, in latin1. */
export function writeText(conn: Conn, text: string): number {
  const bytes = Buffer.from(text, 'latin1')
  return conn.write(bytes, 0, bytes.length)
}
