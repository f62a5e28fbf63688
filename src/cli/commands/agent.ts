/** `weft agent`: the proxy of one node. */
import { Agent } from '../../agent/app.ts'
import { agentFlags, parseAgentConfig } from '../../agent/config.ts'
import { describeFlags } from '../../base/flags.ts'
import { Logger } from '../../base/log.ts'
import { type Command, EXIT_OK, helpText } from '../command.ts'
import { endSignal } from '../signals.ts'
import { cleanUp, cleanupFlags } from './agent-cleanup.ts'
import { weftVersion } from './version.ts'

/** Where `streams.err` leads. */
const STANDARD_ERROR = 2

export const agentCommand: Command = {
  help() {
    return helpText({
      summary:
        'Runs the agent of this node until SIGTERM. Every flag may also come from a variable: --log-level from\n' +
        'WEFT_LOG_LEVEL; the flag wins.\n\n' +
        'What is in the kernel stays when the agent ends, in any way: until the next agent takes it over, connections of\n' +
        'pods are let by or refused as their policy says. --cleanup removes it.\n\n' +
        'Upgrade: start the new agent while the old one runs, with the same --state. The new one takes over when it is\n' +
        'ready, and nothing is lost; the old one drains (--handover-drain) and ends by itself with code 0; where a\n' +
        'supervisor would start it again, --when-retired wait makes it wait for SIGTERM. If the new one fails to start, the\n' +
        'old one goes on. Without the overlap, SIGTERM first and then a start: what pods have open\n' +
        'ends in order (--drain); until the new agent serves, new connections of PERMISSIVE pods go directly, and those\n' +
        'of STRICT pods are refused.',
      usage: 'weft agent --controller HOST:PORT --credentials DIR [flags]\n       weft agent --kubernetes [flags]',
      flags: describeFlags({ ...agentFlags, ...cleanupFlags }),
      examples: [
        ['weft controller issue --node node1 --out /etc/weft/node1', 'the credential, made where the controller is'],
        ['weft agent --node node1 --controller weft:15012 --credentials /etc/weft/node1', 'as root'],
        ['weft agent ...', 'the same again while it runs: the upgrade'],
        ['weft agent --kubernetes', 'in a pod of the DaemonSet: token and roots are mounted, NODE_NAME is set'],
        ['weft agent ... --access-log --log-level debug', 'see what it does'],
        ['weft agent --cleanup', 'when the node is to be without Weft; -o json says what was removed'],
      ],
    })
  },

  async run(args, streams, environment) {
    if (args.includes('--cleanup')) return await cleanUp(args, streams, environment)
    const config = parseAgentConfig(args, environment)
    const logLine = (line: string): void => streams.err(`${line}\n`)
    const log = new Logger('agent', config.logLevel, logLine)
    const host = { version: weftVersion(), accessLog: streams.out, logLine, alarmFd: STANDARD_ERROR }
    // The first process of a container is ended by no signal that it does not listen to, and a start may wait for long.
    const early = config.kubernetes ? endSignal() : null
    const abort = new AbortController()
    void early?.then(() => abort.abort(new Error('told to end')))
    let agent: Agent
    try {
      agent = await Agent.start(config, log, { ...host, signal: abort.signal })
    } catch (error) {
      if (abort.signal.aborted) return EXIT_OK
      throw error
    }
    const quit = new Promise<void>((resolve) => {
      agent.quitListener = resolve
    })
    const signal = early ?? endSignal()
    await Promise.race([signal, quit])
    await agent.stop()
    if (agent.isWaiting) await signal
    await agent.close()
    return EXIT_OK
  },
}
