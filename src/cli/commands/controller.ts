/** `weft controller`: compiles and publishes the mesh's configuration; `weft controller issue`: a node's credential. */

import { systemClock } from '../../base/clock.ts'
import { describeFlags, didYouMean, parseFlags, requiredFlag, UsageError } from '../../base/flags.ts'
import { Logger } from '../../base/log.ts'
import { parseText } from '../../base/settings.ts'
import { type Controller, startController } from '../../controller/app.ts'
import { authorityFlags, controllerFlags, givenRoot, parseControllerConfig } from '../../controller/config.ts'
import { boundHeapGrowth } from '../../controller/heap-growth.ts'
import { issueNodeCredential } from '../../controller/node-credential.ts'
import { type Command, EXIT_OK, helpText, type Streams } from '../command.ts'
import { endSignal } from '../signals.ts'
import { weftVersion } from './version.ts'

const ISSUE_FLAGS = {
  node: requiredFlag({ name: 'node', doc: 'Name of the node, as pods name it in spec.nodeName.' }, 'NAME', parseText),
  out: requiredFlag(
    { name: 'out', doc: 'Directory that gets cert.pem, key.pem (mode 0600) and root.pem.' },
    'DIR',
    parseText,
  ),
  ...authorityFlags,
}

export const controllerCommand: Command = {
  help() {
    return helpText({
      summary:
        'Compiles what a directory of YAML or an API server holds, publishes it to the agents and signs their certificates,\n' +
        'until SIGTERM. Every flag may also come from a variable: --state from WEFT_STATE; the flag wins.\n\n' +
        '`weft controller issue` makes the first credential of a node, beside a running controller or before it.',
      usage:
        'weft controller --source-directory DIR [flags]\n       weft controller --source kubernetes [flags]\n       weft controller issue --node NAME --out DIR [flags]',
      flags: `${describeFlags(controllerFlags)}\nFlags of issue:\n${describeFlags(ISSUE_FLAGS)}`,
      examples: [
        ['weft controller --source-directory /etc/weft/mesh', 'serve that directory'],
        ['weft controller --source kubernetes', 'in a pod: serve the cluster it runs in'],
        ['weft controller --source kubernetes --kubeconfig ./admin.conf --context test', 'serve another cluster'],
        ['weft controller issue --node node1 --out /etc/weft/node1', 'then carry the directory to the node'],
        ['curl http://127.0.0.1:15014/status', 'what agents have, and what is wrong with the YAML'],
      ],
    })
  },

  async run(args, streams, environment) {
    if (args[0] === 'issue') return await issue(args.slice(1), streams)
    if (args[0] !== undefined && !args[0].startsWith('-')) {
      throw new UsageError(`unknown command "controller ${args[0]}"${didYouMean(args[0], ['issue'])}`)
    }
    const config = parseControllerConfig(args, environment)
    boundHeapGrowth()
    const log = new Logger('controller', config.logLevel, (line) => streams.err(`${line}\n`))
    // Before there is a root in the cluster, a start can last as long as anything else.
    const abort = new AbortController()
    const ended = endSignal().then(() => abort.abort(new Error('told to end')))
    let controller: Controller
    try {
      const host = { version: weftVersion(), signal: abort.signal }
      controller = await startController(config, log, systemClock, host)
    } catch (error) {
      if (abort.signal.aborted) return EXIT_OK
      throw error
    }
    await ended
    await controller.stop()
    return EXIT_OK
  },
}

async function issue(args: readonly string[], streams: Streams): Promise<number> {
  const { node, out, state, caRoot, caKey, trustDomain } = parseFlags(ISSUE_FLAGS, args)
  const log = new Logger('issue', 'warn', (line) => streams.err(`${line}\n`))
  const order = { node, outDirectory: out, stateDirectory: state, given: givenRoot(caRoot, caKey), trustDomain }
  const files = await issueNodeCredential(order, log)
  streams.out(`${files.identity} until ${new Date(files.notAfterMs).toISOString()}: ${out}\n`)
  return EXIT_OK
}
