/**
 * Levelled logger: one JSON object per line on a sink (standard error in programs).
 *
 * `log.isDebug` guards debug lines on warm paths so that their arguments are not even built.
 */

/** From the least to the most that is written. */
export type LogLevel = 'error' | 'warn' | 'info' | 'debug'
const LEVELS: readonly LogLevel[] = ['error', 'warn', 'info', 'debug']

/** Fields of a line. Never put keys, tokens or bodies here. */
export type LogFields = Readonly<Record<string, unknown>>

/** Where lines go; `line` has no newline. */
export type LogSink = (line: string) => void

/** Writes what is at its level or above. */
export class Logger {
  readonly component: string
  readonly isDebug: boolean
  private readonly sink: LogSink
  private readonly rank: number
  private readonly now: () => number

  constructor(component: string, level: LogLevel, sink: LogSink, now: () => number = Date.now) {
    this.component = component
    this.sink = sink
    this.rank = LEVELS.indexOf(level)
    this.isDebug = this.rank >= 3
    this.now = now
  }

  /** A logger for a part of this component, with the same sink and level. */
  child(component: string): Logger {
    return new Logger(component, LEVELS[this.rank]!, this.sink, this.now)
  }

  error(message: string, fields?: LogFields): void {
    this.write(0, message, fields)
  }

  warn(message: string, fields?: LogFields): void {
    this.write(1, message, fields)
  }

  info(message: string, fields?: LogFields): void {
    this.write(2, message, fields)
  }

  debug(message: string, fields?: LogFields): void {
    this.write(3, message, fields)
  }

  private write(rank: number, message: string, fields: LogFields | undefined): void {
    if (rank > this.rank) return
    const time = new Date(this.now()).toISOString()
    this.sink(JSON.stringify({ time, level: LEVELS[rank], component: this.component, message, ...fields }))
  }
}

/** A logger that drops everything, for tests. */
export const silentLog = new Logger('silent', 'error', () => {})
