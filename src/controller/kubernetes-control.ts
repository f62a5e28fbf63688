/**
 * The controller's part in a cluster, beside what it does everywhere: one replica of several leads and writes; the root
 * comes from Secrets; its roots go to every namespace of the mesh; agents prove themselves by tokens.
 */
import type { Clock } from '../base/clock.ts'
import type { Logger } from '../base/log.ts'
import type { MeshState } from '../compiler/compile.ts'
import { MESH_LABEL } from '../compiler/enrolment.ts'
import type { MeshObject } from '../compiler/object.ts'
import type { KubernetesApi } from '../kubernetes/api.ts'
import { LeaderElection, replicaName } from '../kubernetes/lease.ts'
import type { CertificateAuthority } from './authority.ts'
import type { ControllerConfig } from './config.ts'
import { KubernetesAuthority, type KubernetesAuthorityStatus } from './kubernetes-authority.ts'
import { NodeTokens, type TokenCounts } from './node-tokens.ts'
import { type TrustBundleCounts, TrustBundles } from './trust-bundles.ts'

/** Name of the Lease, of the Service, and of what else there is once in the namespace of the mesh. */
const CONTROLLER = 'weft-controller'

/** What the parts need of the controller. */
export interface KubernetesControlOptions {
  readonly api: KubernetesApi
  readonly config: ControllerConfig
  /** The authority of given files; null takes that of the Secrets. */
  readonly authority: CertificateAuthority | null
  readonly clock: Clock
  readonly log: Logger
}

/** What /status shows. */
export interface KubernetesControlStatus {
  readonly leader: { readonly isLeading: boolean; readonly holder: string }
  /** Null with an authority of given files. */
  readonly authority: KubernetesAuthorityStatus | null
  readonly trustBundles: TrustBundleCounts
  readonly tokens: TokenCounts
}

/** Told whether this replica writes. Must not throw. */
export type LeadershipListener = (isLeading: boolean) => void

/** See the head of the file. */
export class KubernetesControl {
  readonly tokens: NodeTokens
  /** Of this replica, among all that there are. */
  readonly identity = replicaName()
  private readonly given: CertificateAuthority | null
  private readonly keeper: KubernetesAuthority | null
  private readonly election: LeaderElection
  private readonly bundles: TrustBundles
  private readonly listeners: LeadershipListener[] = []

  constructor({ api, authority, clock, config, log }: KubernetesControlOptions) {
    const {
      agentServiceAccount,
      certificateLifetimeMs,
      nodeLifetimeMs,
      systemNamespace: namespace,
      trustDomain,
    } = config
    this.given = authority
    this.bundles = new TrustBundles({ api, systemNamespace: namespace, clock, log: log.child('trust-bundles') })
    this.keeper =
      authority === null
        ? new KubernetesAuthority({
            api,
            namespace,
            trustDomain,
            leafLifetimeMs: Math.max(certificateLifetimeMs, nodeLifetimeMs),
            clock,
            log: log.child('authority'),
            onBundle: (bundle) => this.bundles.setBundle(bundle),
          })
        : null
    this.tokens = new NodeTokens({
      api,
      namespace,
      serviceAccount: agentServiceAccount,
      clock,
      log: log.child('tokens'),
    })
    const { identity } = this
    this.election = new LeaderElection(
      { api, namespace, name: CONTROLLER, identity, clock, log: log.child('election') },
      { onLeading: () => this.lead(true), onFollowing: () => this.lead(false) },
    )
  }

  get isLeading(): boolean {
    return this.election.isLeader
  }

  /** Calls back at once, and at every change. */
  onLeadership(listener: LeadershipListener): void {
    this.listeners.push(listener)
    listener(this.isLeading)
  }

  /** Takes part from now on; resolves when there is a root, which may take for ever. */
  async start(): Promise<CertificateAuthority> {
    this.election.start()
    if (this.keeper !== null) return await this.keeper.start()
    this.bundles.setBundle(this.given!.bundle)
    return this.given!
  }

  /**
   * This is in force now, made of these objects. Namespaces of other revisions have the roots from us, too: all control
   * planes of a cluster have one authority and one leader.
   */
  setState({ namespaces }: Pick<MeshState, 'namespaces'>, objects: readonly MeshObject[]): void {
    const names = new Set(namespaces.map(({ name }) => name))
    for (const { kind, name, labels } of objects) {
      if (kind === 'Namespace' && labels[MESH_LABEL] === 'enabled') names.add(name)
    }
    this.bundles.setNamespaces(names)
  }

  /** Resolves when nothing is under way; the Lease is free then. Never rejects. */
  async stop(): Promise<void> {
    await this.election.stop()
    await Promise.all([this.keeper?.stop(), this.bundles.stop()])
  }

  status(): KubernetesControlStatus {
    return {
      leader: { isLeading: this.isLeading, holder: this.election.holder },
      authority: this.keeper?.status() ?? null,
      trustBundles: this.bundles.counts(),
      tokens: this.tokens.counts(),
    }
  }

  private lead(isLeading: boolean): void {
    this.keeper?.setLeading(isLeading)
    this.bundles.setLeading(isLeading)
    for (const listener of this.listeners) listener(isLeading)
  }
}

/** Names of the Service by which the controller may be dialled. */
export function serviceNames({
  clusterDomain,
  systemNamespace: namespace,
}: Pick<ControllerConfig, 'clusterDomain' | 'systemNamespace'>): readonly string[] {
  const short = `${CONTROLLER}.${namespace}`
  return [CONTROLLER, short, `${short}.svc`, `${short}.svc.${clusterDomain}`]
}
