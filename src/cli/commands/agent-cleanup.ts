/** `weft agent --cleanup`: removes what an agent keeps on its node beyond its end. */
import { agentFlags } from '../../agent/config.ts'
import { cleanUpNode } from '../../agent/node-cleanup.ts'
import { outputFlag, switchFlag } from '../../base/flags.ts'
import { type Environment, optionalFlag, parseSettings } from '../../base/settings.ts'
import { loadAddon } from '../../kernel/addon.ts'
import { EXIT_FAILED, EXIT_OK, type Streams } from '../command.ts'
import { jsonText } from '../output.ts'

/** The flags that `weft agent` has for this. */
export const cleanupFlags = {
  cleanup: switchFlag({
    name: 'cleanup',
    doc: 'Remove what agents have left on this node: programs, maps, routes, state. Credentials stay. Runs no agent.',
  }),
  force: switchFlag({ name: 'force', doc: 'With --cleanup: also while an agent runs, which is not ended by it.' }),
  output: { ...outputFlag, doc: 'With --cleanup: form of what is printed on standard output.' },
}

/** Flags of an agent are taken, so that the same settings can be given; most of them mean nothing here. */
const FLAGS = {
  ...agentFlags,
  controller: optionalFlag({ name: 'controller', doc: '' }, 'HOST:PORT', agentFlags.controller.parse),
  credentials: optionalFlag({ name: 'credentials', doc: '' }, 'DIR', agentFlags.credentials.parse),
  ...cleanupFlags,
}

/** Resolves with the exit code: 0 when nothing is left. */
export async function cleanUp(args: readonly string[], streams: Streams, environment: Environment): Promise<number> {
  const {
    pinDirectory,
    state: stateDirectory,
    force: isForced,
    cniConfDirectory: confDirectory,
    cniBinDirectory: binDirectory,
    cniSocket: socket,
    output,
  } = parseSettings(FLAGS, args, environment, 'agent')
  const cni = { confDirectory, binDirectory, socket }
  const report = cleanUpNode({ addon: loadAddon(), pinDirectory, stateDirectory, isForced, cni })
  if (output === 'json') streams.out(jsonText(report))
  else {
    for (const what of report.removed) streams.out(`removed ${what}\n`)
    for (const what of report.left) streams.out(`left    ${what}\n`)
    if (report.removed.length + report.left.length === 0) streams.out('there is nothing to remove\n')
  }
  return report.left.length === 0 ? EXIT_OK : EXIT_FAILED
}
