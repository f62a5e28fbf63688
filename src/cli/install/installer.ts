/**
 * Installs and upgrades: looks first, rehearses, applies in order, waits for each part, and takes back what it has done
 * when any of it fails.
 *
 *   look       version of the API server, permissions, what is there already      nothing is changed if this fails
 *   rehearse   every object, judged by the API server                             nothing is changed if this fails
 *   apply      namespace, CRDs, accounts and roles, the webhook, the controller; when it is ready the agents
 *   undo       what was created is deleted, what was changed gets its last form back
 */
import { WeftError } from '../../base/errors.ts'
import { type KubernetesApi, KubernetesError } from '../../kubernetes/api.ts'
import type { KubernetesObject } from '../../kubernetes/object.ts'
import { type Access, demandAccess } from './access.ts'
import { foreignCrdProblem, isEstablished } from './crd-check.ts'
import { accessFor, demandNamespace, examine, installedNamespace, rehearse, type Step } from './examine.ts'
import { AGENT, AUTHORITY_SECRET, CONTROLLER, TRUST_CONFIG_MAP } from './names.ts'
import { installObjects } from './objects.ts'
import type { InstallPlan } from './plan.ts'
import type { Progress } from './progress.ts'
import {
  CONFIG_MAPS,
  CRDS,
  DAEMON_SETS,
  EVENTS,
  isOwn,
  nameOf,
  PODS,
  SECRETS,
  typeOf,
  WEBHOOKS,
} from './resource-types.ts'
import { readRollout } from './rollout.ts'
import { demandServerVersion } from './server-version.ts'
import { installValues } from './values.ts'
import { until, type WaitLimits } from './waiting.ts'

/**
 * Owner of the fields of an installation, for server-side apply. Not the controller's own name, under which it writes
 * fields of the webhook that are not ours.
 */
export const INSTALL_MANAGER = 'weft-install'

/** On the DaemonSet: the values that were given, for the next upgrade. */
export const VALUES_ANNOTATION = 'weft.dev/install-values'

const ACCESS_VERBS = ['get', 'create', 'patch', 'delete']

export interface InstallerOptions {
  readonly api: KubernetesApi
  readonly progress: Progress
  readonly crds: readonly KubernetesObject[]
  /** What is waited for together. */
  readonly limits: WaitLimits
}

/** One object of the result. */
export interface StepResult {
  readonly object: string
  readonly action: 'created' | 'changed' | 'left' | 'removed'
}

/** What an installation is made from, and what is to be remembered of it. */
export interface InstallOrder {
  readonly plan: InstallPlan
  /** The values as they were given. */
  readonly given: unknown
}

export class Installer {
  private readonly options: InstallerOptions
  private readonly api: KubernetesApi
  private readonly progress: Progress
  private readonly done: Step[] = []
  private hadAuthority = false
  private restoredCount = 0

  constructor(options: InstallerOptions) {
    this.options = options
    this.api = options.api
    this.progress = options.progress
  }

  /** Looks and rehearses; changes nothing. Rejects with WeftError. */
  async prepare(order: InstallOrder, isUpgrade: boolean): Promise<readonly Step[]> {
    const { namespace, values } = order.plan
    await demandServerVersion(this.api)
    const objects = this.objectsOf(order)
    await demandAccess(this.api, [...accessFor(objects, ACCESS_VERBS), ...readAccess(namespace)], 'the installation')
    const installed = await installedNamespace(this.api)
    if (isUpgrade && installed === null)
      throw new WeftError('WEFT_KUBERNETES', 'Weft is not installed; use weft install')
    if (installed !== null && installed !== namespace) {
      throw new WeftError(
        'WEFT_KUBERNETES',
        `Weft is installed in the namespace ${installed}; give --namespace ${installed}`,
      )
    }
    const agents = await this.api.get(DAEMON_SETS, namespace, AGENT)
    if (!isUpgrade && agents !== null && isOwn(agents)) {
      throw new WeftError(
        'WEFT_KUBERNETES',
        `Weft is installed already in the namespace ${namespace}; use weft upgrade`,
      )
    }
    if (!values.namespace.create) await demandNamespace(this.api, namespace)
    this.hadAuthority = (await this.api.get(SECRETS, namespace, AUTHORITY_SECRET)) !== null
    const steps = await examine(this.api, objects)
    demandForeignCrds(steps)
    await rehearse(this.api, steps, INSTALL_MANAGER)
    return steps
  }

  /** Rejects with WeftError; what was done until then is taken back by `undo`. */
  async apply(steps: readonly Step[], plan: InstallPlan): Promise<readonly StepResult[]> {
    const results: StepResult[] = []
    for (const step of steps) {
      results.push(await this.take(step))
      await this.settle(step.object, plan)
    }
    if (plan.values.webhook.enabled) await this.webhook()
    for (const object of await this.superfluous(plan)) {
      await this.api.delete(typeOf(object), object.metadata.namespace ?? null, object.metadata.name)
      this.progress.done('removed', nameOf(object))
      results.push({ object: nameOf(object), action: 'removed' })
    }
    return results
  }

  /** What was created, newest first; agents among them have to be cleaned up after. */
  get created(): readonly Step[] {
    return this.done.filter(({ action }) => action === 'create').reverse()
  }

  /** What had another form before. */
  get changed(): readonly Step[] {
    return this.done.filter(({ action }) => action === 'change').reverse()
  }

  /** How much of that `restore` has given its last form back. */
  get restored(): number {
    return this.restoredCount
  }

  /** What the controller has made belongs to this installation alone: there was no root before it. */
  get hasMadeAuthority(): boolean {
    return (
      !this.hadAuthority && this.done.some(({ object, action }) => object.kind === 'Deployment' && action === 'create')
    )
  }

  /** Gives what was changed its last form back, newest first. Resolves with what could not be. */
  async restore(): Promise<readonly string[]> {
    const left: string[] = []
    for (const { object, found } of this.changed) {
      try {
        const current = await this.api.get(typeOf(object), object.metadata.namespace ?? null, object.metadata.name)
        if (current === null || found === null) continue
        await this.api.replace(lastForm(found, current), typeOf(object))
        this.restoredCount++
        this.progress.done('restored', nameOf(object))
      } catch (error) {
        left.push(`${nameOf(object)}: ${error instanceof Error ? error.message : String(error)}`)
      }
    }
    return left
  }

  // --- inner workings ---

  private objectsOf({ plan, given }: InstallOrder): readonly KubernetesObject[] {
    const objects = installObjects(plan).map((object) =>
      object.kind === 'DaemonSet' ? remembering(object, given) : object,
    )
    const head = objects.filter(({ kind }) => kind === 'Namespace')
    return [...head, ...this.options.crds, ...objects.slice(head.length)]
  }

  private async take(step: Step): Promise<StepResult> {
    const { object, action } = step
    this.options.limits.signal.throwIfAborted()
    const name = nameOf(object)
    if (action === 'leave') {
      this.progress.done('left', `${name}: not Weft's, and does as it is`)
      return { object: name, action: 'left' }
    }
    // Before the request: one whose answer is lost may have been done.
    this.done.push(step)
    await this.api.apply(object, typeOf(object), INSTALL_MANAGER)
    const verb = action === 'create' ? 'created' : 'changed'
    this.progress.done(verb, name)
    return { object: name, action: verb }
  }

  /** Waits until others can build on the object. */
  private async settle(object: KubernetesObject, plan: InstallPlan): Promise<void> {
    const { limits } = this.options
    const name = nameOf(object)
    if (object.kind === 'CustomResourceDefinition') {
      const look = async (): Promise<true | null> => {
        const current = await this.api.get(CRDS, null, object.metadata.name)
        return current !== null && isEstablished(current) ? true : null
      }
      await until(limits, look, () => `${name} is not established`)
    }
    if (object.kind === 'Deployment') {
      await this.rollout(object)
      await this.trustBundle(plan.namespace)
    }
    if (object.kind === 'DaemonSet') await this.rollout(object)
  }

  private async rollout(workload: KubernetesObject): Promise<void> {
    const name = nameOf(workload)
    let last = ''
    const look = async (): Promise<true | null> => {
      const { isDone, text, problems } = await readRollout(this.api, workload)
      last = problems.length === 0 ? text : `${text}; ${problems.join('; ')}`
      this.progress.state(name, last)
      return isDone ? true : null
    }
    await until(this.options.limits, look, () => `${name}: ${last}`)
  }

  /** Agents that start without it would wait for the kubelet to look again. */
  private async trustBundle(namespace: string): Promise<void> {
    const what = `ConfigMap ${namespace}/${TRUST_CONFIG_MAP}`
    const look = async (): Promise<true | null> => {
      if ((await this.api.get(CONFIG_MAPS, namespace, TRUST_CONFIG_MAP)) !== null) return true
      this.progress.state(what, 'the controller has not made it yet')
      return null
    }
    await until(this.options.limits, look, () => `${what}: the controller has not made it; see its log`)
  }

  private async webhook(): Promise<void> {
    const what = `ValidatingWebhookConfiguration ${CONTROLLER}`
    const look = async (): Promise<true | null> => {
      const current = await this.api.get(WEBHOOKS, null, CONTROLLER)
      const webhooks = (current?.['webhooks'] ?? []) as readonly { clientConfig?: { caBundle?: string } }[]
      if (webhooks.length > 0 && webhooks.every(({ clientConfig }) => (clientConfig?.caBundle ?? '') !== ''))
        return true
      this.progress.state(what, 'the controller has not written its certificate yet')
      return null
    }
    await until(this.options.limits, look, () => `${what}: the controller has not written its certificate; see its log`)
  }

  /** What one may not even look at was not made by this user either. */
  private async isThere(object: KubernetesObject): Promise<boolean> {
    try {
      const found = await this.api.get(typeOf(object), object.metadata.namespace ?? null, object.metadata.name)
      return found !== null && isOwn(found)
    } catch (error) {
      if (error instanceof KubernetesError && error.isForbidden) return false
      throw error
    }
  }

  /** Objects of ours that these values do not want any more. */
  private async superfluous(plan: InstallPlan): Promise<readonly KubernetesObject[]> {
    const wanted = new Set(installObjects(plan).map(nameOf))
    const gone: KubernetesObject[] = []
    for (const object of everyObject(plan)) {
      if (wanted.has(nameOf(object)) || object.kind === 'Namespace') continue
      if (await this.isThere(object)) gone.push(object)
    }
    return gone
  }
}

/** All objects that any values make. */
export function everyObject(plan: InstallPlan): readonly KubernetesObject[] {
  const everything = { namespace: { create: true }, monitoring: { podMonitor: true }, webhook: { enabled: true } }
  return installObjects({ ...plan, values: installValues(everything) })
}

/** The values that were given to the installation, from its DaemonSet; empty when it does not say. */
export function rememberedValues(agents: KubernetesObject | null): Readonly<Record<string, unknown>> {
  try {
    const parsed: unknown = JSON.parse(agents?.metadata.annotations?.[VALUES_ANNOTATION] ?? '{}')
    return typeof parsed === 'object' && parsed !== null && !Array.isArray(parsed) ? (parsed as never) : {}
  } catch {
    return {}
  }
}

function remembering(object: KubernetesObject, given: unknown): KubernetesObject {
  const annotations = { ...object.metadata.annotations, [VALUES_ANNOTATION]: JSON.stringify(given) }
  return { ...object, metadata: { ...object.metadata, annotations } }
}

/** What is read while waiting. */
function readAccess(namespace: string): readonly Access[] {
  return [
    { type: PODS, verb: 'list', namespace },
    { type: EVENTS, verb: 'list', namespace },
    { type: CONFIG_MAPS, verb: 'get', namespace },
    { type: SECRETS, verb: 'get', namespace },
  ]
}

function demandForeignCrds(steps: readonly Step[]): void {
  const problems = steps.flatMap(({ object, found, action }) => {
    const problem = action === 'leave' && found !== null ? foreignCrdProblem(object, found) : null
    return problem === null ? [] : [`\n  ${nameOf(object)}: ${problem}`]
  })
  if (problems.length === 0) return
  const text = `CRDs of somebody else do not serve what Weft reads; update or remove them. Nothing was changed:${problems.join('')}`
  throw new WeftError('WEFT_KUBERNETES', text)
}

/** The form that an object had, to be put in the place of what it is now. */
function lastForm(found: KubernetesObject, current: KubernetesObject): KubernetesObject {
  const { managedFields: _fields, ...metadata } = found.metadata
  return { ...found, metadata: { ...metadata, resourceVersion: current.metadata.resourceVersion! } }
}
