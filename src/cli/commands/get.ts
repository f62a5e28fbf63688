/** `weft get`: pods, services and policies as the mesh sees them, all nodes together. */

import { describeError } from '../../base/errors.ts'
import { describeFlags, didYouMean, outputFlag, parseArguments, UsageError } from '../../base/flags.ts'
import { optionalFlag } from '../../base/settings.ts'
import { clusterFlags, meshNamespaceFlag, openCluster } from '../cluster-flags.ts'
import { type Command, EXIT_FAILED, EXIT_OK, helpText } from '../command.ts'
import { parseNamespace } from '../install/given.ts'
import { askAgent, askAll, servingAgents } from '../mesh/agents.ts'
import type { ConfigDump, PodAnswer } from '../mesh/answers.ts'
import { type ProxyView, proxyView } from '../mesh/proxy-views.ts'
import { jsonText, tableText } from '../output.ts'

const KINDS = ['pods', 'services', 'policies', 'endpoints'] as const
type Kind = (typeof KINDS)[number]

const FLAGS = {
  ...clusterFlags,
  namespace: optionalFlag({ name: 'namespace', short: 'n', doc: 'Only of this namespace.' }, 'NAME', parseNamespace),
  meshNamespace: meshNamespaceFlag,
  output: outputFlag,
}

export const getCommand: Command = {
  help() {
    return helpText({
      summary:
        'Shows what the mesh consists of, as its agents know it: pods with the state of their capture, services, policies,\n' +
        'endpoints. What several agents know is shown once.\n\n' +
        'Exit code 1 when an agent did not answer; what the others said is shown.',
      usage: `weft get ${KINDS.join('|')} [flags]`,
      flags: describeFlags(FLAGS),
      examples: [
        ['weft get pods', 'every pod of the mesh, and whether it is captured'],
        ['weft get services -n shop', 'of one namespace'],
        ['weft get policies -o json', 'in normal form, as proxies judge by them'],
      ],
    })
  },

  async run(args, streams) {
    const { flags, positionals } = parseArguments(FLAGS, args, 1)
    const kind = kindOf(positionals[0])
    const api = await openCluster(flags)
    try {
      const answers = await askAll(await servingAgents(api, flags.meshNamespace), async (agent) => ({
        dump: await askAgent<ConfigDump>(api, agent, '/config_dump'),
        pods: kind === 'pods' ? await askAgent<readonly PodAnswer[]>(api, agent, '/pods') : [],
      }))
      const views = answers.flatMap(({ answer, program }) => {
        if (answer === null) return []
        return [
          kind === 'pods' ? podsView(answer.pods, answer.dump, program.node) : proxyView(kind, answer.dump, null)!,
        ]
      })
      const { rows, items } = merged(views, flags.namespace)
      streams.out(flags.output === 'json' ? jsonText(items) : tableText(rows))
      for (const { program, error } of answers) {
        if (error !== null) streams.err(`weft: the agent of ${program.node} did not answer: ${describeError(error)}\n`)
      }
      return answers.every(({ error }) => error === null) ? EXIT_OK : EXIT_FAILED
    } finally {
      api.close()
    }
  },
}

function kindOf(text: string | undefined): Kind {
  const found = KINDS.find((kind) => kind === text)
  if (found !== undefined) return found
  if (text === undefined) throw new UsageError(`say what: ${KINDS.join(', ')}`)
  throw new UsageError(`there is no kind "${text}"${didYouMean(text, KINDS)}`)
}

function podsView(pods: readonly PodAnswer[], dump: ConfigDump, node: string): ProxyView {
  const items = pods.map(({ uid, pod, state, reason, problem }) => {
    const workload = dump.workloads.find((one) => one.uid === uid)
    const address = workload?.addresses[0] ?? ''
    return { pod, node, state, why: problem ?? reason ?? '', address, serviceAccount: workload?.serviceAccount ?? '' }
  })
  return {
    items,
    rows: [
      ['POD', 'NODE', 'STATE', 'ADDRESS', 'SERVICE ACCOUNT', 'WHY'],
      ...items.map(({ pod, state, why, address, serviceAccount }) => [pod, node, state, address, serviceAccount, why]),
    ],
  }
}

/** Rows that several agents have are one; they begin with `NAMESPACE/NAME`. */
function merged(views: readonly ProxyView[], namespace: string | null): ProxyView {
  const [head = []] = views[0]?.rows ?? []
  const found = new Map<string, { row: readonly string[]; item: unknown }>()
  for (const { rows, items } of views) {
    for (const [i, row] of rows.slice(1).entries()) {
      if (namespace === null || row[0]!.startsWith(`${namespace}/`)) found.set(row.join('\n'), { row, item: items[i] })
    }
  }
  const sorted = [...found].sort(([x], [y]) => x.localeCompare(y)).map(([, entry]) => entry)
  return { rows: [[...head], ...sorted.map(({ row }) => row)], items: sorted.map(({ item }) => item) }
}
