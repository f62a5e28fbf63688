/** `weft render`: the objects of an installation as text, for those who apply them by other means. Asks no cluster. */
import { choiceFlag, describeFlags, parseFlags } from '../../base/flags.ts'
import { type Command, EXIT_OK, helpText } from '../command.ts'
import { readCrds } from '../install/crds.ts'
import { givenFlags, givenValues, planOf } from '../install/given.ts'
import { installObjects } from '../install/objects.ts'
import { accessReasons } from '../install/rbac-objects.ts'
import { rowsOf } from '../install/value-rows.ts'
import { INSTALL_VALUES } from '../install/values.ts'
import { jsonText } from '../output.ts'
import { yamlStream } from '../yaml-text.ts'
import { weftVersion } from './version.ts'

const FLAGS = {
  ...givenFlags,
  only: choiceFlag(
    {
      name: 'only',
      doc: 'What is printed: everything, the CRDs of the mesh kinds, or all but those.',
    },
    ['all', 'crds', 'objects'] as const,
    'all',
  ),
  output: choiceFlag(
    { name: 'output', short: 'o', doc: 'Form of what is printed.' },
    ['yaml', 'json'] as const,
    'yaml',
  ),
}

export const renderCommand: Command = {
  help() {
    return helpText({
      summary:
        'Prints the objects of an installation, in the order in which they are to be made; `weft install` applies the\n' +
        'same. Leave CRDs out (--only objects) where another mesh has installed its own.\n\n' +
        `Values, with their defaults:\n${valuesHelp()}`,
      usage: 'weft render [flags]',
      flags: describeFlags(FLAGS),
      examples: [
        ['weft render > weft.yaml', 'to read it, or to keep it in a repository'],
        ['weft render --set agent.accessLog=true --only objects | kubectl apply -f -', 'apply it by kubectl'],
        ['weft render -f values.yaml -o json', 'one List, for scripts'],
      ],
    })
  },

  async run(args, streams) {
    const flags = parseFlags(FLAGS, args)
    const plan = planOf(flags, givenValues({ namespace: { create: true } }, flags), weftVersion())
    const objects = [
      ...(flags.only === 'objects' ? [] : readCrds()),
      ...(flags.only === 'crds' ? [] : installObjects(plan)),
    ]
    if (flags.output === 'json') streams.out(jsonText({ apiVersion: 'v1', kind: 'List', items: objects }))
    else streams.out(yamlStream(objects, accessReasons))
    return EXIT_OK
  },
}

function valuesHelp(): string {
  return rowsOf(INSTALL_VALUES)
    .map(
      ([name, row]) => `  ${name}=${typeof row.fallback === 'string' ? row.fallback : JSON.stringify(row.fallback)}\n`,
    )
    .join('')
    .trimEnd()
}
