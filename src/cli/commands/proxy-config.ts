/** `weft proxy-config`: what the proxy of a pod, or of a node, has been told. */
import { WeftError } from '../../base/errors.ts'
import { describeFlags, didYouMean, outputFlag, parseArguments, UsageError } from '../../base/flags.ts'
import { clusterFlags, meshNamespaceFlag, openCluster } from '../cluster-flags.ts'
import { type Command, EXIT_OK, helpText } from '../command.ts'
import { askAgent } from '../mesh/agents.ts'
import type { CertificateAnswer, ConfigDump } from '../mesh/answers.ts'
import { findNodeAgent, findPod } from '../mesh/find-pod.ts'
import { certificatesView, identityIn, proxyView, VIEWS, type View, type Viewer } from '../mesh/proxy-views.ts'
import { jsonText, tableText } from '../output.ts'

const FLAGS = { ...clusterFlags, namespace: meshNamespaceFlag, output: outputFlag }

export const proxyConfigCommand: Command = {
  help() {
    return helpText({
      summary:
        'Shows what the proxy of a node has been told by its controller: everything, or what holds for one pod.\n\n' +
        `What: ${VIEWS.join(', ')}. Without: all of it, as JSON.`,
      usage: 'weft proxy-config POD|NODE [WHAT] [flags]',
      flags: describeFlags(FLAGS),
      examples: [
        ['weft proxy-config shop/web-1 routes', 'HTTP routes for requests of that pod'],
        ['weft proxy-config node1 endpoints', 'endpoints that the agent of the node knows'],
        ['weft proxy-config shop/web-1 policies', 'policies that hold for connections to that pod'],
        ['weft proxy-config node1 certificates -o json', 'ages and ends of all certificates of a node'],
      ],
    })
  },

  async run(args, streams) {
    const { flags, positionals } = parseArguments(FLAGS, args, 2)
    const [target, what] = positionals
    if (target === undefined) throw new UsageError('a pod or a node is missing')
    const view = what === undefined ? null : viewOf(what)
    const api = await openCluster(flags)
    try {
      const nodeAgent = await findNodeAgent(api, target, flags.namespace)
      const pod = nodeAgent === null ? await findPod(api, target, flags.namespace) : null
      const agent = nodeAgent ?? pod!.agent
      const viewer: Viewer | null = pod === null ? null : { namespace: pod.namespace, name: pod.name }
      const dump = await askAgent<ConfigDump>(api, agent, '/config_dump')
      if (view === null) {
        streams.out(jsonText(dump))
        return EXIT_OK
      }
      const identity = viewer === null ? null : identityIn(dump, viewer)
      const found =
        view === 'certificates'
          ? certificatesView(
              await askAgent<readonly CertificateAnswer[]>(api, agent, '/certificates'),
              identity,
              Date.now(),
            )
          : proxyView(view, dump, viewer)
      if (found === null || (viewer !== null && identity === null)) {
        throw new WeftError('WEFT_KUBERNETES', `the pod ${viewer!.namespace}/${viewer!.name} is not in the mesh`)
      }
      streams.out(flags.output === 'json' ? jsonText(found.items) : tableText(found.rows))
      return EXIT_OK
    } finally {
      api.close()
    }
  },
}

function viewOf(text: string): View {
  const found = VIEWS.find((view) => view === text)
  if (found === undefined) throw new UsageError(`there is no view "${text}"${didYouMean(text, VIEWS)}`)
  return found
}
