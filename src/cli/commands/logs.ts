/** `weft logs`: the requests and connections of one pod, out of the access log of its node's agent. */
import { WeftError } from '../../base/errors.ts'
import { describeFlags, durationFlag, outputFlag, parseArguments, switchFlag, UsageError } from '../../base/flags.ts'
import { readPodLog } from '../../kubernetes/pod-log.ts'
import { clusterFlags, meshNamespaceFlag, openCluster } from '../cluster-flags.ts'
import { type Command, EXIT_OK, helpText } from '../command.ts'
import { accessText, isAbout, parseAccessLine } from '../mesh/access-lines.ts'
import { askAgent } from '../mesh/agents.ts'
import { findPod } from '../mesh/find-pod.ts'
import { onEndSignals } from '../signals.ts'

const DAY_MS = 86_400_000

const FLAGS = {
  ...clusterFlags,
  namespace: meshNamespaceFlag,
  follow: switchFlag({ name: 'follow', short: 'f', doc: 'Go on until Ctrl-C.' }),
  since: durationFlag(
    { name: 'since', doc: 'Only what is not older. Default: all that the node keeps.' },
    1000,
    30 * DAY_MS,
  ),
  output: { ...outputFlag, doc: 'Lines for people, or the JSON lines as the agent writes them.' },
}

export const logsCommand: Command = {
  help() {
    return helpText({
      summary:
        'Shows the requests and connections of a pod, as the agent of its node has logged them when they ended. Agents\n' +
        'log only where the installation asks for it: agent.accessLog=true. What is open now: weft tap.',
      usage: 'weft logs POD [flags]',
      flags: describeFlags(FLAGS),
      examples: [
        ['weft logs shop/web-1 --since 10m', 'of the last ten minutes'],
        ['weft logs shop/web-1 -f', 'as they end'],
        [`weft logs shop/web-1 -o json | jq 'select(.response_code >= 500)'`, 'what failed'],
      ],
    })
  },

  async run(args, streams) {
    const { flags, positionals } = parseArguments(FLAGS, args, 1)
    if (positionals[0] === undefined) throw new UsageError('a pod is missing')
    const api = await openCluster(flags)
    const abort = new AbortController()
    const forget = onEndSignals(() => abort.abort())
    try {
      const pod = await findPod(api, positionals[0], flags.namespace)
      const { settings } = await askAgent<{ settings: { accessLog: boolean } }>(api, pod.agent, '/config_dump')
      if (!settings.accessLog) {
        const how = 'weft upgrade --set agent.accessLog=true, or the same value of the chart'
        throw new WeftError('WEFT_KUBERNETES', `the agent of ${pod.node} writes no access log; switch it on: ${how}`)
      }
      const options = {
        container: 'agent',
        isFollowing: flags.follow,
        sinceSeconds: flags.since === null ? null : Math.ceil(flags.since / 1000),
        signal: abort.signal,
      }
      await readPodLog(api, pod.agent.namespace, pod.agent.name, options, (text) => {
        const line = parseAccessLine(text)
        if (line === null || !isAbout(line, pod.addresses)) return
        streams.out(`${flags.output === 'json' ? text : accessText(line)}\n`)
      })
      return EXIT_OK
    } catch (error) {
      if (abort.signal.aborted) return EXIT_OK
      throw error
    } finally {
      forget()
      api.close()
    }
  },
}
