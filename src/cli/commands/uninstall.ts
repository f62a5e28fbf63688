/** `weft uninstall`: takes Weft out of a cluster and off its nodes. */
import { WeftError } from '../../base/errors.ts'
import { describeFlags, type FlagValues, outputFlag, parseFlags, switchFlag, UsageError } from '../../base/flags.ts'
import { periodFlag, textFlag } from '../../base/settings.ts'
import type { KubernetesApi } from '../../kubernetes/api.ts'
import { clusterFlags, openCluster } from '../cluster-flags.ts'
import { type Command, EXIT_FAILED, EXIT_OK, helpText, type Streams } from '../command.ts'
import { demandAccess } from '../install/access.ts'
import { readCrds } from '../install/crds.ts'
import { accessFor, demandNotHelm, installedNamespace } from '../install/examine.ts'
import { parseNamespace } from '../install/given.ts'
import { everyObject } from '../install/installer.ts'
import { Progress } from '../install/progress.ts'
import { nameOf } from '../install/resource-types.ts'
import { removalAccess, Uninstaller } from '../install/uninstaller.ts'
import { installValues } from '../install/values.ts'
import { limitsOf } from '../install/waiting.ts'
import { jsonText } from '../output.ts'
import { onInterruption } from '../signals.ts'
import { weftVersion } from './version.ts'

const MINUTE_MS = 60_000
const TIMEOUT_MS_MAX = 24 * 60 * MINUTE_MS

/** What runs, and who is asked; Helm removes all else. */
const RUNNING_KINDS: ReadonlySet<string> = new Set(['DaemonSet', 'Deployment', 'ValidatingWebhookConfiguration'])

const FLAGS = {
  ...clusterFlags,
  namespace: textFlag(
    { name: 'namespace', short: 'n', doc: 'Where Weft is. Default: wherever it is found.' },
    'NAME',
    '',
    parseNamespace,
  ),
  crds: switchFlag({
    name: 'crds',
    doc: 'Remove the CRDs also when objects of yours are in them: VirtualServices, policies. They are lost then.',
  }),
  timeout: periodFlag(
    { name: 'timeout', doc: 'Longest wait until everything is gone.' },
    5 * MINUTE_MS,
    1000,
    TIMEOUT_MS_MAX,
  ),
  forHelm: switchFlag({
    name: 'for-helm',
    doc: 'For the hook of the chart: remove only what Helm does not know of, and what has to end before that.',
  }),
  dryRun: switchFlag({ name: 'dry-run', doc: 'Only say what would be looked for and removed.' }),
  output: outputFlag,
}

export const uninstallCommand: Command = {
  help() {
    return helpText({
      summary:
        'Takes Weft out of a cluster: agents end, and what they kept on their nodes is removed by a short-lived pod on\n' +
        'each (programs, routes, state, the CNI plugin); then the controller goes with all it made, and the CRDs that\n' +
        'Weft installed, unless objects of yours are in them. Pods go on without the mesh; what they have open through\n' +
        'the proxy ends. A node that is away keeps what is on it; a pod waits there and removes it when the node is back.\n\n' +
        'Exit code 0 when nothing is left, 1 when something is: it is named, and the command can be run again.',
      usage: 'weft uninstall [flags]',
      flags: describeFlags(FLAGS),
      examples: [
        ['weft uninstall', 'from the cluster of the current context'],
        ['weft uninstall --crds', 'with every VirtualService and policy'],
        ['weft uninstall -o json', '{"ok","removed","left"}'],
      ],
    })
  },

  async run(args, streams) {
    const flags = parseFlags(FLAGS, args)
    const api = await openCluster(flags)
    const abort = new AbortController()
    const forget = onInterruption({
      onFirst: () =>
        abort.abort(new WeftError('WEFT_KUBERNETES', 'interrupted; weft uninstall goes on where it ended')),
      onSecond: () => streams.err('ended at once; weft uninstall goes on where it ended\n'),
    })
    try {
      if (flags.forHelm) return await removeForHelm(api, flags, abort.signal, streams)
      const found = await installedNamespace(api)
      const namespace = flags.namespace === '' ? found : flags.namespace
      if (namespace === null)
        throw new WeftError('WEFT_KUBERNETES', 'Weft is not installed; give --namespace to look for remains')
      const objects = everyObject({ values: installValues(), namespace, version: weftVersion() })
      await demandNotHelm(api, namespace)
      const own = objects.filter(({ kind }) => kind !== 'PodMonitor')
      await demandAccess(api, [...accessFor(own, ['get', 'delete']), ...removalAccess(namespace)], 'the removal')
      if (flags.dryRun) {
        const names = [...objects, ...readCrds()].map(nameOf)
        if (flags.output === 'json') streams.out(jsonText({ ok: true, isDryRun: true, objects: names }))
        else for (const name of names) streams.out(`would be removed  ${name}\n`)
        return EXIT_OK
      }
      const limits = limitsOf(flags.timeout, abort.signal)
      const progress = new Progress(streams)
      const uninstaller = new Uninstaller({ api, progress, limits, namespace, isUndo: false, isWithMade: true })
      const { removed, left } = await uninstaller.remove(objects, readCrds(), flags.crds)
      const ok = left.length === 0
      if (flags.output === 'json') streams.out(jsonText({ ok, isDryRun: false, removed, left }))
      else {
        for (const what of left) streams.out(`left    ${what}\n`)
        streams.out(ok ? 'Weft is gone from this cluster.\n' : `${left.length} things are left.\n`)
      }
      return ok ? EXIT_OK : EXIT_FAILED
    } finally {
      forget()
      api.close()
    }
  },
}

/** A node that is away keeps nobody from removing a release: what is left on it is told. */
async function removeForHelm(
  api: KubernetesApi,
  flags: FlagValues<typeof FLAGS>,
  signal: AbortSignal,
  streams: Streams,
): Promise<number> {
  const { namespace, timeout } = flags
  if (namespace === '') throw new UsageError('--for-helm needs --namespace')
  const objects = everyObject({ values: installValues(), namespace, version: weftVersion() })
  const progress = new Progress(streams)
  const options = { api, progress, limits: limitsOf(timeout, signal), namespace, isUndo: false, isWithMade: true }
  const { left } = await new Uninstaller(options).remove(
    objects.filter(({ kind }) => RUNNING_KINDS.has(kind)),
    [],
    false,
  )
  for (const what of left) streams.out(`left    ${what}\n`)
  return EXIT_OK
}
