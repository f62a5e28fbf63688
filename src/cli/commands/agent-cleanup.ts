/** `weft agent --cleanup`: removes what an agent keeps on its node beyond its end. */
import { existsSync, readdirSync, rmdirSync, rmSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { agentFlags, CREDENTIAL_DIRECTORY } from '../../agent/config.ts'
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
    doc: 'Remove what agents have left on this node: programs, maps, routes, state. A credential of --credentials stays. Runs no agent.',
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
    kubernetes: isOnKubernetes,
    pinDirectory,
    state: stateDirectory,
    force: isForced,
    cniConfDirectory: confDirectory,
    cniBinDirectory: binDirectory,
    cniSocket: socket,
    output,
  } = parseSettings(FLAGS, args, environment, 'agent')
  const cni = { confDirectory, binDirectory, socket }
  const found = await cleanUpNode({ addon: loadAddon(), pinDirectory, stateDirectory, isForced, cni })
  const report = { removed: [...found.removed], left: found.left }
  if (isOnKubernetes) report.removed.push(...removeOwnDirectories(stateDirectory, socket))
  if (output === 'json') streams.out(jsonText(report))
  else {
    for (const what of report.removed) streams.out(`removed ${what}\n`)
    for (const what of report.left) streams.out(`left    ${what}\n`)
    if (report.removed.length + report.left.length === 0) streams.out('there is nothing to remove\n')
  }
  return report.left.length === 0 ? EXIT_OK : EXIT_FAILED
}

/**
 * What only an agent on Kubernetes has made: the credential that it got with its token, and directories, which the kubelet
 * made for its pod. Others have made theirs themselves.
 */
function removeOwnDirectories(stateDirectory: string, socket: string): readonly string[] {
  const removed: string[] = []
  const credential = join(stateDirectory, CREDENTIAL_DIRECTORY)
  if (existsSync(credential)) {
    rmSync(credential, { recursive: true })
    removed.push(credential)
  }
  const parents = [dirname(stateDirectory), dirname(socket)].filter((path) => basename(path) === 'weft')
  for (const path of [stateDirectory, ...parents]) {
    if (!existsSync(path) || readdirSync(path).length > 0) continue
    rmdirSync(path)
    removed.push(path)
  }
  return removed
}
