/** `weft install` and `weft upgrade`: Weft in a cluster, without Helm. */
import { describeError, WeftError } from '../../base/errors.ts'
import { choiceFlag, describeFlags, type FlagValues, parseFlags, switchFlag } from '../../base/flags.ts'
import { periodFlag } from '../../base/settings.ts'
import type { KubernetesApi } from '../../kubernetes/api.ts'
import { clusterFlags, openCluster } from '../cluster-flags.ts'
import { type Command, EXIT_FAILED, EXIT_OK, helpText, type Streams } from '../command.ts'
import { readCrds } from '../install/crds.ts'
import type { Step } from '../install/examine.ts'
import { givenFlags, givenValues, planOf } from '../install/given.ts'
import { Installer, type InstallOrder, rememberedValues, type StepResult } from '../install/installer.ts'
import { AGENT } from '../install/names.ts'
import { Progress } from '../install/progress.ts'
import { DAEMON_SETS, nameOf } from '../install/resource-types.ts'
import { Uninstaller } from '../install/uninstaller.ts'
import { limitsOf } from '../install/waiting.ts'
import { jsonText } from '../output.ts'
import { onInterruption } from '../signals.ts'
import { yamlText } from '../yaml-text.ts'
import { weftVersion } from './version.ts'

const MINUTE_MS = 60_000
/** A large cluster is upgraded node by node. */
const TIMEOUT_MS_MAX = 24 * 60 * MINUTE_MS

/** Least time for taking back: a namespace alone takes some ten seconds to go. */
const UNDO_MS_MIN = 2 * MINUTE_MS

const FLAGS = {
  ...clusterFlags,
  ...givenFlags,
  timeout: periodFlag(
    { name: 'timeout', doc: 'Longest wait until everything is ready.' },
    5 * MINUTE_MS,
    1000,
    TIMEOUT_MS_MAX,
  ),
  dryRun: switchFlag({ name: 'dry-run', doc: 'Only say what would be done; the API server judges every object.' }),
  keep: switchFlag({ name: 'keep', doc: 'Leave what was done when something fails, to look at it.' }),
  output: choiceFlag(
    { name: 'output', short: 'o', doc: 'Form of the result on standard output; progress goes to standard error.' },
    ['text', 'json', 'yaml'] as const,
    'text',
  ),
}

const UPGRADE_FLAGS = {
  ...FLAGS,
  resetValues: switchFlag({ name: 'reset-values', doc: 'Do not begin with the values of the last installation.' }),
}

export const installCommand: Command = {
  help() {
    return helpText({
      summary:
        'Installs Weft in a cluster: CRDs, roles, the controller, an agent on every node, the webhook. Looks first, and\n' +
        'changes nothing when a permission is missing or an object of somebody else is in the way. Waits until all is\n' +
        'ready, and takes everything back when that fails or is interrupted; a second interruption ends at once, and says\n' +
        'what is left. CRDs of another mesh are left alone.\n\n' +
        'Values are those of the chart in deploy/helm/weft; see weft render --help.\n\n' +
        'Exit code 0 when Weft is installed and ready, 1 when nothing was changed or all was taken back.',
      usage: 'weft install [flags]',
      flags: describeFlags(FLAGS),
      examples: [
        ['weft install', 'in the cluster of the current context'],
        ['weft install --dry-run', 'what would be done, judged by the API server'],
        ['weft install --set controller.replicas=1 --set agent.accessLog=true', 'with values'],
        ['weft install -f values.yaml --context staging -o json', 'unattended'],
        ['kubectl label namespace shop weft.dev/mesh=enabled', 'and then: bring a namespace into the mesh'],
      ],
    })
  },

  async run(args, streams) {
    const flags = parseFlags(FLAGS, args)
    return await withCluster(flags, async (api) => {
      const given = givenValues({ namespace: { create: true } }, flags)
      const order = { plan: planOf(flags, given, weftVersion()), given }
      return await runInstaller(api, order, flags, streams, false)
    })
  },
}

export const upgradeCommand: Command = {
  help() {
    return helpText({
      summary:
        'Upgrades Weft in a cluster to the version of this program, or to other values: first the controller, then the\n' +
        'agents, node by node; on each node the new agent takes over from the old one without a lost connection. Begins\n' +
        'with the values of the last installation. When it fails or is interrupted, what was changed gets its last form\n' +
        'back; a second interruption ends at once, and says what is left.\n\n' +
        'Exit code 0 when everything is of this version and ready.',
      usage: 'weft upgrade [flags]',
      flags: describeFlags(UPGRADE_FLAGS),
      examples: [
        ['weft upgrade', 'to the version of this program'],
        ['weft upgrade --set agent.maxSurge=10%', 'ten of a hundred nodes at a time'],
        ['weft upgrade --timeout 2h -o json', 'of a large cluster, unattended'],
      ],
    })
  },

  async run(args, streams) {
    const flags = parseFlags(UPGRADE_FLAGS, args)
    return await withCluster(flags, async (api) => {
      const agents = await api.get(DAEMON_SETS, flags.namespace, AGENT)
      const base = flags.resetValues ? { namespace: { create: true } } : rememberedValues(agents)
      const given = givenValues(base, flags)
      const order = { plan: planOf(flags, given, weftVersion()), given }
      return await runInstaller(api, order, flags, streams, true)
    })
  },
}

async function withCluster(
  flags: FlagValues<typeof clusterFlags>,
  body: (api: KubernetesApi) => Promise<number>,
): Promise<number> {
  const api = await openCluster(flags)
  try {
    return await body(api)
  } finally {
    api.close()
  }
}

async function runInstaller(
  api: KubernetesApi,
  order: InstallOrder,
  flags: FlagValues<typeof FLAGS>,
  streams: Streams,
  isUpgrade: boolean,
): Promise<number> {
  const progress = new Progress(streams)
  const abort = new AbortController()
  const limits = limitsOf(flags.timeout, abort.signal)
  const installer = new Installer({ api, progress, crds: readCrds(), limits })
  const forget = onInterruption({
    onFirst: () => abort.abort(new WeftError('WEFT_KUBERNETES', 'interrupted')),
    onSecond: () => progress.note(`ended before it was done: ${stateOf(installer, isUpgrade)}`),
  })
  try {
    const steps = await installer.prepare(order, isUpgrade)
    if (flags.dryRun) {
      print(streams, flags.output, { ok: true, isDryRun: true, ...described(order), objects: steps.map(foreseen) })
      return EXIT_OK
    }
    try {
      const objects = await installer.apply(steps, order.plan)
      print(streams, flags.output, { ok: true, isDryRun: false, ...described(order), objects })
      return EXIT_OK
    } catch (error) {
      if (flags.keep) {
        progress.note(`kept: ${stateOf(installer, isUpgrade)}`)
        throw error
      }
      const hint = abort.signal.aborted ? ' (interrupt again to leave it as it is)' : ''
      progress.note(`${describeError(error)}; taking back what was done${hint}`)
      const left = await takeBack(api, installer, order, flags.timeout, progress)
      if (left.length === 0) progress.note('everything is as it was before')
      print(streams, flags.output, {
        ok: false,
        isDryRun: false,
        ...described(order),
        error: describeError(error),
        left,
      })
      return EXIT_FAILED
    }
  } finally {
    forget()
  }
}

/** What there is of an installation that was not finished, and how to go on. */
function stateOf(installer: Installer, isUpgrade: boolean): string {
  const { created, changed, restored } = installer
  const counts = [`${created.length} objects were made`, `${changed.length} were changed`]
  if (restored > 0) counts.push(`${restored} of these have their last form back`)
  const goOn = isUpgrade
    ? 'weft upgrade goes on, with the values of this one or of the last'
    : 'weft uninstall removes all of it'
  return `${counts.join(', ')}; ${goOn}`
}

/** Resolves with what could not be taken back. A second signal ends the program, and leaves what there is. */
async function takeBack(
  api: KubernetesApi,
  installer: Installer,
  { plan }: InstallOrder,
  timeoutMs: number,
  progress: Progress,
): Promise<readonly string[]> {
  const left = [...(await installer.restore())]
  const created = installer.created.map(({ object }) => object).reverse()
  const isCrd = (kind: string): boolean => kind === 'CustomResourceDefinition'
  const limits = limitsOf(Math.max(timeoutMs, UNDO_MS_MIN), new AbortController().signal)
  const uninstaller = new Uninstaller({
    api,
    progress,
    limits,
    namespace: plan.namespace,
    isUndo: true,
    isWithMade: installer.hasMadeAuthority,
  })
  try {
    const report = await uninstaller.remove(
      created.filter(({ kind }) => !isCrd(kind)),
      created.filter(({ kind }) => isCrd(kind)),
      false,
    )
    return [...left, ...report.left]
  } catch (error) {
    return [...left, `${describeError(error)}; run weft uninstall`]
  }
}

function described({ plan }: InstallOrder): { readonly version: string; readonly namespace: string } {
  return { version: plan.version, namespace: plan.namespace }
}

function foreseen({ object, action }: Step): StepResult {
  const verb = { create: 'created', change: 'changed', leave: 'left' } as const
  return { object: nameOf(object), action: verb[action] }
}

interface InstallReport {
  readonly ok: boolean
  readonly isDryRun: boolean
  readonly version: string
  readonly namespace: string
  readonly error?: string
  readonly left?: readonly string[]
  readonly objects?: readonly StepResult[]
}

function print(streams: Streams, output: 'text' | 'json' | 'yaml', report: InstallReport): void {
  if (output === 'json') streams.out(jsonText(report))
  else if (output === 'yaml') streams.out(yamlText(report))
  else if (report.isDryRun) {
    for (const { object, action } of report.objects ?? []) streams.out(`would be ${action}  ${object}\n`)
  } else if (report.ok) {
    streams.out(`Weft ${report.version} is installed in ${report.namespace} and ready.\n`)
    streams.out('Bring a namespace into the mesh: kubectl label namespace NAME weft.dev/mesh=enabled\n')
  } else {
    streams.out(`not installed: ${report.error}\n`)
    for (const what of report.left ?? []) streams.out(`left    ${what}\n`)
  }
}
