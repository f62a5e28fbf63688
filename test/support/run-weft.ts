/** Runs a command of `weft` in this process, with what it prints kept apart. */
import { main } from '../../src/cli/main.ts'

/** How a command ended. */
export interface Finished {
  readonly code: number
  readonly out: string
  readonly err: string
}

/** No variable of this process's environment is seen by the command. */
export async function runWeft(...args: readonly string[]): Promise<Finished> {
  let out = ''
  let err = ''
  const streams = {
    out: (text: string) => {
      out += text
    },
    err: (text: string) => {
      err += text
    },
    isTerminal: false,
    rows: () => 24,
  }
  const code = await main(args, streams, {})
  return { code, out, err }
}
