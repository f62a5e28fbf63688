/**
 * What an agent has before it captures anything: its credential, the way to the controller, certificates of its pods, and
 * the configuration. An agent that takes over from a running one completes all of it first, so that it can serve at once.
 */
import { join } from 'node:path'
import { formatHostPort } from '../base/address.ts'
import { systemClock } from '../base/clock.ts'
import { WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import type { Delta } from '../model/delta.ts'
import { Snapshot } from '../model/snapshot.ts'
import type { TlsMaterial } from '../transport/conn.ts'
import { Certificates } from './certificates.ts'
import type { AgentConfig } from './config.ts'
import { ControllerLink } from './controller-link.ts'
import { CredentialGate } from './credential-gate.ts'
import { systemLookup } from './host-lookup.ts'
import { NamedEndpoints } from './named-endpoints.ts'
import { NodeCredentialFiles, type NodeCredentialSource } from './node-credential.ts'
import { NodeToken } from './node-token.ts'
import { identitiesOfPods } from './pods.ts'
import { SNAPSHOT_FILE } from './snapshot-file.ts'
import { Subscription } from './subscription.ts'
import { followRootsByServiceAccount } from './watched-roots.ts'

/** Longest wait for a first configuration of an agent that is to take over: the running one serves meanwhile. */
const CONFIGURATION_MS_MAX = 30_000

/** Who uses what comes. */
export interface PreparationUser {
  /** The snapshot has changed by this. */
  onDelta(delta: Delta): void
  /** The controller has said that the snapshot is whole. */
  onComplete(): void
  onMaterial(material: TlsMaterial): void
  onIdentityRemoved(identity: string): void
}

/** See the head of the file. */
export class Preparation {
  readonly certificates: Certificates
  readonly link: ControllerLink
  readonly gate: CredentialGate
  readonly subscription: Subscription
  snapshot = Snapshot.empty
  private readonly namedEndpoints: NamedEndpoints
  private user: PreparationUser | null = null
  private isBegun = false
  private isConfirmed = false
  private onReady: () => void = () => {}

  private constructor(config: AgentConfig, log: Logger, certificates: Certificates, gate: CredentialGate) {
    this.certificates = certificates
    this.gate = gate
    this.link = new ControllerLink({
      address: formatHostPort(config.controller.host, config.controller.port),
      trustDomain: certificates.trustDomain,
      credential: () => certificates.nodeCredential(),
    })
    this.namedEndpoints = new NamedEndpoints({
      lookUp: systemLookup(config.endpointResolvers),
      clock: systemClock,
      log: log.child('endpoints'),
      onDelta: (delta) => this.onDelta(delta),
    })
    this.subscription = new Subscription({
      connect: () => this.link.connect(),
      node: certificates.node,
      snapshotFile: join(config.state, SNAPSHOT_FILE),
      clock: systemClock,
      log: log.child('subscription'),
      onDelta: (delta) => this.onDelta(this.namedEndpoints.translate(delta)),
      onComplete: () => {
        this.isConfirmed = true
        this.user?.onComplete()
      },
    })
  }

  /**
   * Opens the node's credential; on Kubernetes that waits for the controller. Rejects with WEFT_CERTIFICATE, or WEFT_CONFIG
   * when it is another node's.
   */
  static async open(config: AgentConfig, log: Logger, signal?: AbortSignal): Promise<Preparation> {
    const gate = new CredentialGate()
    let preparation: Preparation | null = null
    const certificates = await Certificates.open({
      nodeCredential: nodeCredentialSource(config, log.child('credential'), signal),
      requestCertificate: (csr, identity, seconds) => {
        return preparation!.link.requestCertificate(csr, identity, seconds)
      },
      validitySeconds: Math.round(config.certificateLifetime / 1000),
      clock: systemClock,
      log: log.child('certificates'),
      onMaterial: (material) => {
        preparation?.user?.onMaterial(material)
        gate.open(material.identity)
      },
      onRemoved: (identity) => {
        preparation?.user?.onIdentityRemoved(identity)
        gate.remove(identity)
      },
      onNodeCredential: () => preparation?.subscription.reconnect(),
    })
    if (config.node !== '' && config.node !== certificates.node) {
      throw new WeftError(
        'WEFT_CONFIG',
        `the credential in ${config.credentials} is for node ${certificates.node}, but --node says ${config.node}`,
      )
    }
    preparation = new Preparation(config, log, certificates, gate)
    return preparation
  }

  /** Begins to ask the controller. Calling it again does nothing. */
  async begin(): Promise<void> {
    if (this.isBegun) return
    this.isBegun = true
    this.certificates.start()
    await this.subscription.start()
  }

  /**
   * Resolves when there is a configuration, and a certificate for every pod as far as they can be had. Rejects with
   * WEFT_CONTROLLER when there is none, neither from the controller nor on disk.
   */
  async complete(): Promise<void> {
    let timer: NodeJS.Timeout | undefined
    await new Promise<void>((resolve, reject) => {
      this.onReady = resolve
      if (this.subscription.status().isReady) resolve()
      timer = setTimeout(() => {
        const reason = this.subscription.status().lastError ?? 'the controller has not sent any'
        const text = `no configuration within ${CONFIGURATION_MS_MAX / 1000} s; the agent that runs goes on: ${reason}`
        reject(new WeftError('WEFT_CONTROLLER', text))
      }, CONFIGURATION_MS_MAX)
    }).finally(() => clearTimeout(timer))
    // A pod whose certificate cannot be had is not enrolled, here as in the agent that runs.
    await Promise.allSettled([...identitiesOfPods(this.snapshot)].map((identity) => this.gate.ready(identity)))
  }

  /** Hands everything to `user` that is there, and from now on whatever comes. */
  attach(user: PreparationUser): void {
    this.user = user
    for (const material of this.certificates.materials()) user.onMaterial(material)
    if (this.subscription.status().isReady) user.onDelta(wholeState(this.snapshot))
    if (this.isConfirmed) user.onComplete()
  }

  /** Ends all of it; the last good configuration is on disk. Nobody waits for a certificate any more. */
  async stop(): Promise<void> {
    await this.subscription.stop()
    this.namedEndpoints.stop()
    await this.certificates.stop()
    this.link.close()
    this.gate.close()
  }

  private onDelta(delta: Delta): void {
    this.snapshot = this.snapshot.apply(delta)
    this.onReady()
    if (this.user !== null) this.user.onDelta(delta)
    else this.certificates.setIdentities(identitiesOfPods(this.snapshot))
  }
}

/** Files that were carried to this node, or on Kubernetes the agent's token. */
function nodeCredentialSource(config: AgentConfig, log: Logger, signal: AbortSignal | undefined): NodeCredentialSource {
  const { apiServer, credentials, controller, kubernetes, node, rootsFile, serviceAccount, tokenFile, trustDomain } =
    config
  if (!kubernetes) return new NodeCredentialFiles(credentials)
  return new NodeToken({
    node,
    trustDomain,
    controller: formatHostPort(controller.host, controller.port),
    tokenFile,
    rootsFile,
    followRoots:
      apiServer === null
        ? null
        : followRootsByServiceAccount({ ...apiServer, directory: serviceAccount }, systemClock, log.child('roots')),
    directory: credentials,
    clock: systemClock,
    log,
    ...(signal === undefined ? {} : { signal }),
  })
}

/** A delta that brings an empty snapshot to `snapshot`. */
export function wholeState(snapshot: Snapshot): Delta {
  return {
    workloads: [...snapshot.workloads.values()],
    removedWorkloads: [],
    services: [...snapshot.services.values()],
    removedServices: [],
    policies: [...snapshot.policies.values()],
    removedPolicies: [],
    traffic: [...snapshot.traffic.values()],
    removedTraffic: [],
    pods: [...snapshot.pods.values()],
    removedPods: [],
    namespaces: [...snapshot.namespaces.values()],
    removedNamespaces: [],
  }
}
