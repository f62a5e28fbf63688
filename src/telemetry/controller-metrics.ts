/**
 * The controller's metrics: families of Istio's control plane, by their names, so that dashboards and alerts for it work,
 * and our own beside them.
 */
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client'

/** Buckets of times from a change to an agent that has it, seconds: Istio's, and finer ones below a second. */
const CONVERGENCE_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 3, 5, 10, 20, 30]
/** Of compiling, and of encoding what changed. */
const WORK_SECONDS = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 3, 5, 10]
/** Of one push, bytes; Istio's. */
const PUSH_BYTES = [1, 10_000, 1_000_000, 4_000_000, 10_000_000, 40_000_000]

/**
 * What a change of a kind is called among the causes of a push: Istio's names. Of a mesh that is read from a directory no
 * kinds are told: all is configuration.
 */
const TRIGGERS: ReadonlyMap<string, string> = new Map([
  ['EndpointSlice', 'endpoint'],
  ['Pod', 'endpoint'],
  ['WorkloadEntry', 'endpoint'],
  ['Service', 'service'],
  ['ServiceEntry', 'service'],
  ['Namespace', 'namespace'],
])
const CONFIG_TRIGGER = 'config'

/** Why a certificate was refused. */
export type CertificateRefusal = 'authentication' | 'request' | 'denied' | 'failed'

/** The controller's state at the time of a scrape. Plain data. */
export interface ControllerState {
  /** Agents' streams. */
  readonly connectedAgents: number
  readonly generation: number
  readonly services: number
  readonly virtualServices: number
  readonly workloads: number
  /** Objects that are not in force as they are written, and resources that cannot be published. */
  readonly rejectedObjects: number
  readonly unpublishedResources: number
  /** Null outside of a cluster. */
  readonly isLeading: boolean | null
  /** Null while there is no root. */
  readonly rootNotAfterMs: number | null
  readonly signerNotAfterMs: number | null
}

/** What the registry says of this program. */
export interface ControllerMetricsSettings {
  /** Label of `istio_build`. */
  readonly version: string
  readonly now: () => number
  readonly state: () => ControllerState
}

/** See the head of the file. */
export class ControllerMetrics {
  readonly contentType: string
  private readonly registry = new Registry()
  private readonly settings: ControllerMetricsSettings
  private readonly startedAtMs: number
  private readonly pushes: Counter<'type'>
  private readonly pushBytes: Histogram<'type'>
  private readonly rejects: Counter<'type'>
  private readonly convergence: Histogram
  private readonly compileTime: Histogram
  private readonly queueTime: Histogram
  private readonly triggers: Counter<'type'>
  /** Causes of the next push. */
  private readonly pendingTriggers = new Set<string>()
  private readonly internalErrors: Counter
  private readonly events: Counter<'type' | 'event'>
  private readonly csrs: Counter
  private readonly issued: Counter
  private readonly issuedByKind: Counter<'kind'>
  private readonly refusals: Readonly<Record<CertificateRefusal, Counter>>
  private readonly validationPassed: Counter<'group' | 'version' | 'resource'>
  private readonly validationFailed: Counter<'group' | 'version' | 'resource' | 'reason'>

  constructor(settings: ControllerMetricsSettings) {
    this.settings = settings
    this.startedAtMs = settings.now()
    const registers = [this.registry]
    this.contentType = this.registry.contentType
    collectDefaultMetrics({ register: this.registry })
    const counter = (name: string, help: string): Counter => new Counter({ name, help, registers })
    this.pushes = new Counter({
      name: 'pilot_xds_pushes',
      help: 'Responses sent to agents, by type of resource.',
      labelNames: ['type'],
      registers,
    })
    this.pushBytes = new Histogram({
      name: 'pilot_xds_config_size_bytes',
      help: 'Size of responses to agents, by type of resource.',
      labelNames: ['type'],
      buckets: PUSH_BYTES,
      registers,
    })
    this.rejects = new Counter({
      name: 'pilot_total_xds_rejects',
      help: 'Responses that agents refused, by type of resource.',
      labelNames: ['type'],
      registers,
    })
    this.convergence = new Histogram({
      name: 'pilot_proxy_convergence_time',
      help: 'Seconds from a change to an agent that has put it in force.',
      buckets: CONVERGENCE_SECONDS,
      registers,
    })
    this.queueTime = new Histogram({
      name: 'pilot_proxy_queue_time',
      help: 'Seconds that an agent waited, with older responses to answer, before it was sent a change.',
      buckets: CONVERGENCE_SECONDS,
      registers,
    })
    this.triggers = new Counter({
      name: 'pilot_push_triggers',
      help: 'Causes of what was published, each once however many objects changed.',
      labelNames: ['type'],
      registers,
    })
    this.compileTime = new Histogram({
      name: 'weft_controller_compile_seconds',
      help: 'Seconds that compiling and publishing a change took.',
      buckets: WORK_SECONDS,
      registers,
    })
    this.internalErrors = counter(
      'pilot_total_xds_internal_errors',
      'Errors of the controller itself while publishing.',
    )
    this.events = new Counter({
      name: 'pilot_k8s_cfg_events',
      help: 'Changes of objects that came from the API server, by kind and event.',
      labelNames: ['type', 'event'],
      registers,
    })
    this.csrs = counter('citadel_server_csr_count', 'Requests for certificates.')
    this.issued = counter('citadel_server_success_cert_issuance_count', 'Certificates issued.')
    this.issuedByKind = new Counter({
      name: 'weft_controller_certificates_issued_total',
      help: 'Certificates issued, to nodes for themselves and for their workloads.',
      labelNames: ['kind'],
      registers,
    })
    this.refusals = {
      authentication: counter(
        'citadel_server_authentication_failure_count',
        'Requests for certificates of callers who did not prove who they are.',
      ),
      request: counter('citadel_server_csr_parsing_err_count', 'Requests for certificates that make no sense.'),
      denied: counter(
        'citadel_server_id_extraction_err_count',
        'Requests for certificates to which the caller has no right.',
      ),
      failed: counter('citadel_server_csr_sign_err_count', 'Requests for certificates that could not be served.'),
    }
    this.validationPassed = new Counter({
      name: 'galley_validation_passed',
      help: 'Objects that the webhook let pass.',
      labelNames: ['group', 'version', 'resource'],
      registers,
    })
    this.validationFailed = new Counter({
      name: 'galley_validation_failed',
      help: 'Objects that the webhook refused.',
      labelNames: ['group', 'version', 'resource', 'reason'],
      registers,
    })
    new Gauge({
      name: 'istio_build',
      help: 'Build of this program.',
      labelNames: ['component', 'tag'],
      registers,
    }).set({ component: 'pilot', tag: settings.version }, 1)
    new Gauge({ name: 'pilot_info', help: 'Version of this program.', labelNames: ['version'], registers }).set(
      { version: settings.version },
      1,
    )
    this.stateGauges(registers)
  }

  /** Everything as Prometheus text. */
  async render(): Promise<string> {
    return await this.registry.metrics()
  }

  // --- what happens ---

  /** A response was sent to an agent. */
  pushed(type: string, bytes: number): void {
    this.pushes.inc({ type })
    this.pushBytes.observe({ type }, bytes)
  }

  /** An agent refused one. */
  rejected(type: string): void {
    this.rejects.inc({ type })
  }

  /** An agent has everything of a generation, so long after it changed. */
  converged(ms: number): void {
    this.convergence.observe(ms / 1000)
  }

  /** An agent is sent a change so long after it was published. */
  queued(ms: number): void {
    this.queueTime.observe(ms / 1000)
  }

  /** Everything that had changed was compiled and published, in so long. */
  compiled(ms: number): void {
    this.compileTime.observe(ms / 1000)
    if (this.pendingTriggers.size === 0) this.triggers.inc({ type: CONFIG_TRIGGER })
    for (const type of this.pendingTriggers) this.triggers.inc({ type })
    this.pendingTriggers.clear()
  }

  failed(): void {
    this.internalErrors.inc()
  }

  /** An object of the API server changed. */
  changed(kind: string, event: 'add' | 'update' | 'delete'): void {
    this.events.inc({ type: kind, event })
    this.pendingTriggers.add(TRIGGERS.get(kind) ?? CONFIG_TRIGGER)
  }

  certificateIssued(kind: 'node' | 'workload'): void {
    this.csrs.inc()
    this.issued.inc()
    this.issuedByKind.inc({ kind })
  }

  certificateRefused(why: CertificateRefusal): void {
    this.csrs.inc()
    this.refusals[why].inc()
  }

  /** The webhook has looked at an object; `reason` null let it pass. */
  validated(group: string, version: string, resource: string, reason: string | null): void {
    if (reason === null) this.validationPassed.inc({ group, version, resource })
    else this.validationFailed.inc({ group, version, resource, reason })
  }

  // --- what is ---

  private stateGauges(registers: Registry[]): void {
    const { now, state } = this.settings
    const gauge = (name: string, help: string, read: (state: ControllerState) => number | null): void => {
      const made: Gauge = new Gauge({
        name,
        help,
        registers,
        collect: () => {
          const value = read(state())
          if (value === null) made.remove()
          else made.set(value)
        },
      })
    }
    const version = this.settings.version
    const connected: Gauge<'version'> = new Gauge({
      name: 'pilot_xds',
      help: 'Agents that are connected.',
      labelNames: ['version'],
      registers,
      collect: () => connected.set({ version }, state().connectedAgents),
    })
    gauge('pilot_services', 'Services that are known.', ({ services }) => services)
    gauge('pilot_virt_services', 'VirtualServices that are known.', ({ virtualServices }) => virtualServices)
    gauge('istiod_uptime_seconds', 'Seconds since this program started.', () => (now() - this.startedAtMs) / 1000)
    gauge(
      'citadel_server_root_cert_expiry_timestamp',
      'When the root ends that certificates lead to, Unix time.',
      ({ rootNotAfterMs }) => (rootNotAfterMs === null ? null : rootNotAfterMs / 1000),
    )
    gauge(
      'citadel_server_root_cert_expiry_seconds',
      'Seconds until the root ends that certificates lead to.',
      ({ rootNotAfterMs }) => (rootNotAfterMs === null ? null : (rootNotAfterMs - now()) / 1000),
    )
    gauge(
      'weft_controller_signer_expiry_timestamp',
      'When the certificate ends that signs, Unix time.',
      ({ signerNotAfterMs }) => (signerNotAfterMs === null ? null : signerNotAfterMs / 1000),
    )
    gauge('weft_controller_generation', 'Counts up with every state that was published.', (s) => s.generation)
    gauge('weft_controller_workloads', 'Workloads that are known.', ({ workloads }) => workloads)
    gauge(
      'weft_controller_rejected_objects',
      'Objects that are not in force as they are written.',
      ({ rejectedObjects }) => rejectedObjects,
    )
    gauge(
      'weft_controller_unpublished_resources',
      'Resources that cannot be published; their last good version stays in force.',
      ({ unpublishedResources }) => unpublishedResources,
    )
    gauge('weft_controller_leader', '1 on the replica that writes, 0 on the others.', ({ isLeading }) =>
      isLeading === null ? null : Number(isLeading),
    )
  }
}
