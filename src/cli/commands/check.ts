/** `weft check`: can this machine run the mesh? */
import { describeFlags, outputFlag, parseFlags } from '../../base/flags.ts'
import { type Command, EXIT_FAILED, EXIT_OK, helpText } from '../command.ts'
import { agentRequirements } from '../machine.ts'
import { jsonText, paint, tableText } from '../output.ts'

const FLAGS = { output: outputFlag }

export const checkCommand: Command = {
  help() {
    return helpText({
      summary:
        'Checks whether this machine can run an agent: kernel, privileges, file systems, ports. One line each, `ok` or\n' +
        '`missing` with what to do. Changes nothing. Exit code 1 if anything required is missing.',
      usage: 'weft check [flags]',
      flags: describeFlags(FLAGS),
      examples: [
        ['weft check', 'read it'],
        ['weft check -o json', 'for scripts: {"ok","requirements":[{"name","isMet","isRequired","detail"}]}'],
      ],
    })
  },

  async run(args, streams) {
    const { output } = parseFlags(FLAGS, args)
    const requirements = await agentRequirements()
    const ok = requirements.every(({ isMet, isRequired }) => isMet || !isRequired)
    if (output === 'json') {
      streams.out(jsonText({ ok, requirements }))
      return ok ? EXIT_OK : EXIT_FAILED
    }
    const { good, bad, dim } = paint(streams.isTerminal)
    const rows = requirements.map(({ name, isMet, isRequired, detail }) => {
      const verdict = isMet ? 'ok' : isRequired ? 'missing' : 'absent'
      return [verdict, name, detail] as const
    })
    const colours = { ok: good, missing: bad, absent: dim }
    const lines = tableText(rows).trimEnd().split('\n')
    for (const [i, line] of lines.entries()) streams.out(`${colours[rows[i]![0]](line)}\n`)
    return ok ? EXIT_OK : EXIT_FAILED
  },
}
