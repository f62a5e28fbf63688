/** What a command of `weft` is, as main.ts dispatches it. Implementations lie in commands/, one file each. */

export const EXIT_OK = 0
/** Something that was checked does not hold, or the command failed. */
export const EXIT_FAILED = 1
/** The command line was wrong; nothing was done. */
export const EXIT_USAGE = 2

/** Where a command writes; tests collect it. Results go to `out`, notices and errors to `err`. Both take whole lines. */
export interface Streams {
  readonly out: (text: string) => void
  readonly err: (text: string) => void
  /** True when standard output is a terminal that may be redrawn. */
  readonly isTerminal: boolean
  /** Height of that terminal, as it is now. */
  readonly rows: () => number
}

export interface Command {
  /** Complete text of `--help`, made when it is asked for. */
  help(): string
  /** Resolves with the exit code. Throws UsageError for a wrong command line, WeftError for other failures. */
  run(args: readonly string[], streams: Streams, environment: NodeJS.ProcessEnv): Promise<number>
}

/** Help in its one form: what it does, usage, flags, examples. */
export function helpText(parts: {
  readonly summary: string
  readonly usage: string
  readonly flags: string
  readonly examples: readonly (readonly [command: string, meaning: string])[]
}): string {
  const width = Math.max(...parts.examples.map(([command]) => command.length))
  const examples = parts.examples.map(([command, meaning]) => `  ${command.padEnd(width)}  # ${meaning}\n`).join('')
  const flags = parts.flags === '' ? '' : `\nFlags:\n${parts.flags}`
  return `${parts.summary}\n\nUsage: ${parts.usage}\n${flags}\nExamples:\n${examples}`
}
