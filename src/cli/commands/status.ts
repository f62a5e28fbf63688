/** `weft status`: is the mesh of this cluster well? */
import { describeFlags, outputFlag, parseFlags } from '../../base/flags.ts'
import { clusterFlags, meshNamespaceFlag, openCluster } from '../cluster-flags.ts'
import { type Command, EXIT_FAILED, EXIT_OK, helpText, type Streams } from '../command.ts'
import { type MeshStatus, problemText, readMeshStatus } from '../mesh/mesh-status.ts'
import { jsonText, paint, tableText } from '../output.ts'

const FLAGS = { ...clusterFlags, namespace: meshNamespaceFlag, output: outputFlag }

export const statusCommand: Command = {
  help() {
    return helpText({
      summary:
        'Shows the controllers, and for each node its agent: pods captured of pods wanted, whether it has the newest\n' +
        'configuration, its certificates. Asks every program through the API server.\n\n' +
        'Exit code 0 when all is well, 1 when something is not; lines with a problem say which.',
      usage: 'weft status [flags]',
      flags: describeFlags(FLAGS),
      examples: [
        ['weft status', 'of the current context'],
        [`weft status -o json | jq '.agents[] | select(.problems != [])'`, 'agents with problems'],
      ],
    })
  },

  async run(args, streams) {
    const flags = parseFlags(FLAGS, args)
    const api = await openCluster(flags)
    try {
      const status = await readMeshStatus(api, flags.namespace, Date.now())
      if (flags.output === 'json') streams.out(jsonText(status))
      else print(status, streams)
      return status.ok ? EXIT_OK : EXIT_FAILED
    } finally {
      api.close()
    }
  },
}

function print({ controllers, agents }: MeshStatus, streams: Streams): void {
  const { bad } = paint(streams.isTerminal)
  const yes = (value: boolean | null): string => (value === null ? '?' : value ? 'yes' : 'no')
  const number = (value: number | string | null): string => (value === null ? '?' : `${value}`)
  streams.out(
    tableText([
      ['CONTROLLER', 'NODE', 'VERSION', 'READY', 'RESTARTS', 'AGENTS', 'GENERATION', 'ERRORS'],
      ...controllers.map((one) => [
        one.pod,
        one.node,
        one.version,
        yes(one.isReady),
        number(one.restarts),
        number(one.agents),
        number(one.generation),
        number(one.errors),
      ]),
    ]),
  )
  streams.out('\n')
  streams.out(
    tableText([
      ['NODE', 'AGENT', 'VERSION', 'READY', 'RESTARTS', 'PODS', 'CONNECTED', 'IN SYNC', 'CERTIFICATES', 'UNTIL'],
      ...agents.map((one) => [
        one.node,
        one.pod,
        one.version,
        yes(one.isReady),
        number(one.restarts),
        `${number(one.captured)}/${number(one.wanted)}`,
        yes(one.isConnected),
        yes(one.isInSync),
        number(one.certificates),
        number(one.certificatesUntil),
      ]),
    ]),
  )
  const lines = [...controllers, ...agents].filter(({ problems }) => problems.length > 0)
  if (lines.length > 0) streams.out('\n')
  for (const { pod, node, problems } of lines) streams.out(`${bad(`${pod} on ${node}: ${problemText(problems)}`)}\n`)
}
