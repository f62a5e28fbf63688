/**
 * What agents connect to: the gRPC server with the controller's own certificate, which follows the authority, the
 * certificate service behind it, and the streams, which go to the publisher.
 */
import type { Clock } from '../base/clock.ts'
import type { Logger } from '../base/log.ts'
import { formatControllerIdentity } from '../model/identity.ts'
import type { Credential } from '../security/credential.ts'
import type { Credential as ServerCredential } from '../wire/channel.ts'
import { ControlServer } from '../wire/server.ts'
import type { CertificateAuthority } from './authority.ts'
import { type CertificateObserver, CertificateServer, type TokenReviewer } from './ca-server.ts'
import type { ControllerConfig } from './config.ts'
import { nodeOf } from './peer-node.ts'
import type { PodMemberships } from './pod-memberships.ts'
import type { Publisher } from './publisher.ts'

/** Lifetime of the controller's own certificate, which it renews by itself. */
const CREDENTIAL_LIFETIME_MS = 86_400_000

/** What the service needs of the controller. */
export interface ControlServiceOptions {
  readonly config: ControllerConfig
  readonly authority: CertificateAuthority
  /** Reviews agents' tokens; null accepts none. */
  readonly tokens: TokenReviewer | null
  /** Names by which clients may dial the controller, beside its identity. */
  readonly dnsNames: readonly string[]
  readonly publisher: Publisher
  readonly memberships: Pick<PodMemberships, 'of'>
  readonly observer: CertificateObserver
  readonly log: Logger
  readonly clock: Clock
}

/** See the head of the file. */
export class ControlService {
  readonly certificates: CertificateServer
  private readonly options: ControlServiceOptions
  private readonly server: ControlServer
  private credential: Credential
  private cancelRenewal: () => void = () => {}

  constructor(options: ControlServiceOptions) {
    const { authority, clock, config, log, memberships, observer, publisher, tokens } = options
    const { trustDomain } = config
    this.options = options
    this.certificates = new CertificateServer({
      authority,
      tokens,
      trustDomain,
      workloadLifetimeMs: config.certificateLifetimeMs,
      nodeLifetimeMs: config.nodeLifetimeMs,
      observer,
      log: log.child('certificates'),
      now: () => clock.now(),
    })
    this.credential = this.issueCredential()
    this.server = new ControlServer(this.serverCredential(), {
      ...(tokens === null
        ? {}
        : { clock, onToken: (token: string, address: string) => this.certificates.admit(token, address) }),
      onStream: (stream) => publisher.accept(stream, nodeOf(stream.peer, trustDomain, clock.now())),
      onSigningRequest: (request, peer) => this.certificates.sign(request, peer),
      onMembershipRequest: async (pod, peer) => await memberships.of(pod, nodeOf(peer, trustDomain, clock.now())),
    })
  }

  /** Resolves with the bound port. Rejects with WeftError WEFT_SYSCALL. */
  async listen(): Promise<number> {
    const { authority, config } = this.options
    const port = await this.server.listen(config.listen.address, config.listen.port)
    authority.changeListener = () => this.renew()
    this.renewLater()
    return port
  }

  stop(): void {
    this.cancelRenewal()
    this.options.authority.changeListener = () => {}
    this.server.stop()
  }

  private issueCredential(): Credential {
    const { authority, config, dnsNames } = this.options
    return authority.issue(formatControllerIdentity(config.trustDomain), CREDENTIAL_LIFETIME_MS, dnsNames)
  }

  private serverCredential(): ServerCredential {
    const { chain, bundle } = this.credential
    return { certificateChain: chain, key: this.credential.keyPem(), bundle }
  }

  /** New connections see the new certificate, and are judged by the roots that are trusted now. */
  private renew(): void {
    this.cancelRenewal()
    this.credential = this.issueCredential()
    this.server.replaceCredential(this.serverCredential())
    this.renewLater()
  }

  private renewLater(): void {
    const { clock } = this.options
    this.cancelRenewal = clock.after(this.credential.renewAtMs - clock.now(), () => this.renew())
  }
}
