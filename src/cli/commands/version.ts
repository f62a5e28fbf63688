/** `weft version`. */
import { readFileSync } from 'node:fs'
import { describeFlags, outputFlag, parseFlags } from '../../base/flags.ts'
import { type Command, EXIT_OK, helpText } from '../command.ts'
import { jsonText } from '../output.ts'

const FLAGS = { output: outputFlag }

export const versionCommand: Command = {
  help() {
    return helpText({
      summary: 'Prints the version of Weft, and of the runtime it runs on.',
      usage: 'weft version [flags]',
      flags: describeFlags(FLAGS),
      examples: [
        ['weft version', 'one line'],
        ['weft version -o json', 'for scripts'],
      ],
    })
  },

  async run(args, streams) {
    const { output } = parseFlags(FLAGS, args)
    const versions = { weft: weftVersion(), node: process.versions.node, openssl: process.versions.openssl }
    if (output === 'json') streams.out(jsonText(versions))
    else streams.out(`weft ${versions.weft} (Node.js ${versions.node}, OpenSSL ${versions.openssl})\n`)
    return EXIT_OK
  },
}

/** Version of the package this file belongs to. */
export function weftVersion(): string {
  // The same number of levels up in src/cli/commands and in dist/cli/commands.
  const text = readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')
  return (JSON.parse(text) as { version: string }).version
}
