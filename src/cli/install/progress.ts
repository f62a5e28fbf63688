/** Tells on standard error what happens, while a command works on a cluster; the result goes to standard output. */

import type { Streams } from '../command.ts'
import { paint } from '../output.ts'

/** Width of the column that says what is done to what. */
const VERB_WIDTH = 10

export class Progress {
  private readonly streams: Streams
  private readonly last = new Map<string, string>()

  constructor(streams: Streams) {
    this.streams = streams
  }

  /** One thing that was done: `created    Service weft-system/weft-controller`. */
  done(verb: string, what: string): void {
    this.streams.err(`${verb.padEnd(VERB_WIDTH)} ${what}\n`)
  }

  /** A state that may be told again and again; only changes are printed. */
  state(what: string, text: string): void {
    if (this.last.get(what) === text) return
    this.last.set(what, text)
    this.streams.err(`${'waiting'.padEnd(VERB_WIDTH)} ${what}: ${text}\n`)
  }

  /** Something that the user should read. */
  note(text: string): void {
    const { bold } = paint(this.streams.isTerminal)
    this.streams.err(`${bold('note'.padEnd(VERB_WIDTH))} ${text}\n`)
  }
}
