/** `weft tap`: the open connections of one pod, as they come, carry bytes, and go. */
import { setTimeout as delay } from 'node:timers/promises'
import { describeFlags, durationFlag, outputFlag, parseArguments, UsageError } from '../../base/flags.ts'
import { periodFlag } from '../../base/settings.ts'
import { clusterFlags, meshNamespaceFlag, openCluster } from '../cluster-flags.ts'
import { type Command, EXIT_OK, helpText } from '../command.ts'
import { askAgent } from '../mesh/agents.ts'
import type { ConnectionAnswer } from '../mesh/answers.ts'
import { findPod } from '../mesh/find-pod.ts'
import { type LiveEvent, LiveView } from '../mesh/live-view.ts'
import { jsonText } from '../output.ts'
import { onEndSignals } from '../signals.ts'

const HOUR_MS = 3_600_000
/** Each look is a connection through the API server and the kubelet. */
const INTERVAL_MS_MIN = 200

const FLAGS = {
  ...clusterFlags,
  namespace: meshNamespaceFlag,
  interval: periodFlag({ name: 'interval', doc: 'Between two looks.' }, 1000, INTERVAL_MS_MIN, HOUR_MS),
  duration: durationFlag({ name: 'duration', doc: 'End after this time. Default: with Ctrl-C.' }, 1, 24 * HOUR_MS),
  output: outputFlag,
}

export const tapCommand: Command = {
  help() {
    return helpText({
      summary:
        'Looks at the open connections of a pod again and again, and tells what has changed: opened, bytes, closed; with\n' +
        'the identity that the other side has proved. A connection that opens and closes between two looks is not seen:\n' +
        'weft logs has all of them, and every request.',
      usage: 'weft tap POD [flags]',
      flags: describeFlags(FLAGS),
      examples: [
        ['weft tap shop/web-1', 'until Ctrl-C'],
        ['weft tap shop/web-1 --interval 200ms --duration 10s -o json', 'for scripts: one line for each change'],
      ],
    })
  },

  async run(args, streams) {
    const { flags, positionals } = parseArguments(FLAGS, args, 1)
    if (positionals[0] === undefined) throw new UsageError('a pod is missing')
    const api = await openCluster(flags)
    const abort = new AbortController()
    const forget = onEndSignals(() => abort.abort())
    const endMs = flags.duration === null ? Number.POSITIVE_INFINITY : performance.now() + flags.duration
    try {
      const pod = await findPod(api, positionals[0], flags.namespace)
      const view = new LiveView(`${pod.namespace}/${pod.name}`)
      for (;;) {
        for (const event of view.look(await askAgent<readonly ConnectionAnswer[]>(api, pod.agent, '/connections'))) {
          streams.out(flags.output === 'json' ? jsonText(event) : `${eventText(event)}\n`)
        }
        if (abort.signal.aborted || performance.now() + flags.interval > endMs) return EXIT_OK
        await delay(flags.interval, undefined, { signal: abort.signal }).catch(() => undefined)
        if (abort.signal.aborted) return EXIT_OK
      }
    } finally {
      forget()
      api.close()
    }
  },
}

function eventText({ event, connection, receivedBytes, sentBytes }: LiveEvent): string {
  const { direction, protocol, downstream, originalDestination, upstream, peer } = connection
  // Requests of one connection go to several endpoints: then there is no one upstream.
  const by = upstream === '' ? '' : ` by ${upstream}`
  const route = direction === 'outbound' ? `${downstream} > ${originalDestination}${by}` : `${downstream} > ${upstream}`
  const bytes = event === 'closed' ? '' : ` +${receivedBytes}/${sentBytes} bytes`
  return `${event.padEnd(8)} ${direction.padEnd(8)} ${protocol.padEnd(6)} ${route} ${peer === '' ? '-' : peer}${bytes}`
}
