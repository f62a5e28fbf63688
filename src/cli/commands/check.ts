/** `weft check`: can this machine run the mesh? With --node: is what should be captured on this node really captured? */

import { describe } from '../../agent/absence-watch.ts'
import { agentFlags } from '../../agent/config.ts'
import { checkNode, type NodeReport, type PodFinding } from '../../agent/node-check.ts'
import { askAgent, fetchWantedPods } from '../../agent/wanted-pods.ts'
import { formatHostPort } from '../../base/address.ts'
import { describeFlags, type FlagValues, outputFlag, parseFlags, switchFlag, UsageError } from '../../base/flags.ts'
import { optionalFlag, textFlag } from '../../base/settings.ts'
import { loadAddon } from '../../kernel/addon.ts'
import { clusterRequirements } from '../check/cluster-check.ts'
import { proxyRequirements } from '../check/proxy-check.ts'
import { clusterFlags, meshNamespaceFlag, openCluster } from '../cluster-flags.ts'
import { type Command, EXIT_FAILED, EXIT_OK, helpText, type Streams } from '../command.ts'
import { agentRequirements, type Requirement } from '../machine.ts'
import { jsonText, paint, tableText } from '../output.ts'
import { weftVersion } from './version.ts'

const FLAGS = {
  node: switchFlag({ name: 'node', doc: 'Check what is captured on this node, now, instead of the machine.' }),
  state: { ...agentFlags.state, doc: 'With --node: the state directory of the agent.' },
  pinDirectory: { ...agentFlags.pinDirectory, doc: 'With --node: the pin directory of the agent.' },
  admin: { ...agentFlags.admin, doc: 'With --node: where the agent answers, if it runs.' },
  controller: optionalFlag(
    { name: 'controller', doc: 'With --node: ask the controller which pods are to be captured; it knows the newest.' },
    'HOST:PORT',
    agentFlags.controller.parse,
  ),
  credentials: textFlag(
    { name: 'credentials', doc: 'With --controller: directory of the credential of this node.' },
    'DIR',
    '',
  ),
  cluster: switchFlag({
    name: 'cluster',
    doc: 'Check a Kubernetes cluster instead of the machine: can it run the mesh?',
  }),
  proxy: switchFlag({
    name: 'proxy',
    doc: 'Check the mesh of a cluster: is every pod captured, are certificates and configuration up to date?',
  }),
  ...clusterFlags,
  meshNamespace: { ...meshNamespaceFlag, doc: 'With --cluster and --proxy: where Weft is, or is to be.' },
  istioLabels: switchFlag({
    name: 'istio-labels',
    doc: 'With --proxy: pods may be in the mesh by the labels of Istio.',
  }),
  output: outputFlag,
}

/** Namespaces that one line of text names; JSON has them all. */
const OUTSIDE_NAMED_MAX = 10

export const checkCommand: Command = {
  help() {
    return helpText({
      summary:
        'Checks whether this machine can run an agent: kernel, privileges, file systems, ports. One line each, `ok` or\n' +
        '`missing` with what to do. With --node: compares the pods that are to be captured, as the agent or its last\n' +
        'configuration says, with what is captured in the kernel: programs, listeners, routes, heartbeats. One line a pod,\n' +
        '`ok` or `wrong` with what to do; also while no agent runs. Needs root. With --cluster: versions, permissions,\n' +
        'kernels and clocks of nodes, the CNI plugin, NetworkPolicies that would block the mesh, the webhook. With --proxy,\n' +
        'after the installation: pods that should be captured, and are, node by node. Changes nothing.\n\n' +
        'Exit code 0 when everything is right, 1 when something required is missing or wrong, 2 for a wrong command line.',
      usage: 'weft check [flags]',
      flags: describeFlags(FLAGS),
      examples: [
        ['weft check', 'read it'],
        ['weft check -o json', 'for scripts: {"ok","requirements":[{"name","isMet","isRequired","detail"}]}'],
        ['weft check --node', 'is every pod of this node captured, and does anybody serve?'],
        [
          'weft check --node --controller weft:15012 --credentials /etc/weft/node1',
          'also pods that came while no agent ran',
        ],
        ['weft check --node -o json', '{"ok","agent","bypassed","refused","untold","findings","pods","outside"}'],
        ['weft check --cluster', 'before an installation, and after it'],
        ['weft check --proxy', 'is every pod of the mesh captured?'],
        [`weft check --node -o json | jq '.pods[] | select(.isCaptured | not)'`, 'pods that are not captured'],
      ],
    })
  },

  async run(args, streams) {
    const flags = parseFlags(FLAGS, args)
    if ([flags.node, flags.cluster, flags.proxy].filter((isGiven) => isGiven).length > 1) {
      throw new UsageError('of --node, --cluster and --proxy only one can be given')
    }
    if (flags.node) return await runNode(flags, streams)
    if (flags.cluster || flags.proxy) return await runCluster(flags, streams)
    return printRequirements(await agentRequirements(), flags.output, streams)
  },
}

async function runCluster(flags: FlagValues<typeof FLAGS>, streams: Streams): Promise<number> {
  const api = await openCluster(flags)
  try {
    const requirements = flags.cluster
      ? await clusterRequirements(api, flags.meshNamespace, weftVersion())
      : await proxyRequirements(api, flags.meshNamespace, flags.istioLabels, Date.now())
    return printRequirements(requirements, flags.output, streams)
  } finally {
    api.close()
  }
}

function printRequirements(requirements: readonly Requirement[], output: 'text' | 'json', streams: Streams): number {
  const ok = requirements.every(({ isMet, isRequired }) => isMet || !isRequired)
  if (output === 'json') {
    streams.out(jsonText({ ok, requirements }))
    return ok ? EXIT_OK : EXIT_FAILED
  }
  const { good, bad, dim } = paint(streams.isTerminal)
  const rows = requirements.map(({ name, isMet, isRequired, detail }) => {
    const verdict = isMet ? 'ok' : isRequired ? 'missing' : 'absent'
    return [verdict, name, detail] as const
  })
  printRows(rows, { ok: good, missing: bad, absent: dim }, streams)
  return ok ? EXIT_OK : EXIT_FAILED
}

async function runNode(flags: FlagValues<typeof FLAGS>, streams: Streams): Promise<number> {
  const { controller, credentials } = flags
  if ((controller === null) !== (credentials === '')) {
    throw new UsageError('--controller and --credentials belong together')
  }
  const report = await checkNode({
    ...(controller === null
      ? {}
      : { wanted: await fetchWantedPods({ address: addressText(controller), credentials }) }),
    addon: loadAddon(),
    pinDirectory: flags.pinDirectory,
    stateDirectory: flags.state,
    answer: await askAgent(formatHostPort(flags.admin.address, flags.admin.port)),
  })
  if (flags.output === 'json') streams.out(jsonText(report))
  else {
    const { good, bad, dim } = paint(streams.isTerminal)
    printRows(nodeRows(report), { ok: good, wrong: bad, note: dim }, streams)
  }
  return report.ok ? EXIT_OK : EXIT_FAILED
}

function addressText({ host, port }: { readonly host: string; readonly port: number }): string {
  return formatHostPort(host, port)
}

type NodeRow = readonly ['ok' | 'wrong' | 'note', string, string]

function nodeRows(report: NodeReport): NodeRow[] {
  const rows: NodeRow[] = report.findings.map(({ subject, ok, detail }) => [ok ? 'ok' : 'wrong', subject, detail])
  for (const pod of report.pods) rows.push([pod.isCaptured ? 'ok' : 'wrong', `pod ${pod.pod}`, podText(pod, report)])
  const { bypassed, refused } = report.untold
  if (bypassed > 0 || refused > 0) {
    rows.push(['note', 'connections', `${bypassed} bypassed and ${refused} refused that no agent has told of yet`])
  }
  if (report.outside.length > 0) {
    const named = report.outside.slice(0, OUTSIDE_NAMED_MAX).join(' ')
    const more = report.outside.length > OUTSIDE_NAMED_MAX ? ' ...' : ''
    rows.push(['note', 'namespaces', `${report.outside.length} are not in the mesh: ${named}${more}`])
  }
  return rows
}

function podText(pod: PodFinding, report: NodeReport): string {
  if (!pod.isCaptured) return `${pod.problems.join('; ')}. ${pod.remedy}`
  if (report.agent.state === 'serving') return `captured, fails ${pod.failureMode}`
  const counts = pod.unserved === null ? '' : `: ${describe(pod.unserved)}`
  return `captured, and nobody serves; fails ${pod.failureMode}${counts}`
}

function printRows<V extends string>(
  rows: readonly (readonly [V, string, string])[],
  colours: Readonly<Record<V, (text: string) => string>>,
  streams: Streams,
): void {
  if (rows.length === 0) return
  const lines = tableText(rows).trimEnd().split('\n')
  for (const [i, line] of lines.entries()) streams.out(`${colours[rows[i]![0]](line)}\n`)
}
