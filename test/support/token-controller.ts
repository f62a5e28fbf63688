/** The controller's certificate service over real gRPC, with tokens whose holders a test says. */
import type { TestContext } from 'node:test'
import { type Clock, systemClock } from '../../src/base/clock.ts'
import { silentLog } from '../../src/base/log.ts'
import { CertificateAuthority } from '../../src/controller/authority.ts'
import { CertificateServer, type TokenReviewer } from '../../src/controller/ca-server.ts'
import { formatControllerIdentity } from '../../src/model/identity.ts'
import type { Workload } from '../../src/model/workload.ts'
import { CallError, STATUS_UNAUTHENTICATED } from '../../src/wire/channel.ts'
import { ControlServer, type SigningPeer } from '../../src/wire/server.ts'
import { TRUST_DOMAIN, temporaryDirectory } from './control-plane.ts'

const DAY_MS = 86_400_000

/** Node by token. */
export class FakeTokens implements TokenReviewer {
  readonly nodes = new Map<string, string>()
  readonly reviewed: string[] = []

  async nodeOf(token: string): Promise<string> {
    this.reviewed.push(token)
    const node = this.nodes.get(token)
    if (node === undefined) throw new CallError(STATUS_UNAUTHENTICATED, 'the token is nobody’s')
    return node
  }
}

export interface TokenControllerOptions {
  /** Of the server's own certificate; the controller's unless given. */
  readonly identity?: string
  readonly acceptsTokens?: boolean
  readonly nodeLifetimeMs?: number
  /** Of the wait for a message after its token. */
  readonly clock?: Clock
  readonly now?: () => number
}

export class TokenController {
  readonly authority: CertificateAuthority
  readonly certificates: CertificateServer
  readonly tokens = new FakeTokens()
  readonly peers: SigningPeer[] = []
  /** Streams that were opened. */
  streams = 0
  port = 0
  private readonly server: ControlServer

  private constructor(authority: CertificateAuthority, options: TokenControllerOptions) {
    const now = options.now ?? Date.now
    this.authority = authority
    this.certificates = new CertificateServer({
      authority,
      tokens: this.tokens,
      trustDomain: TRUST_DOMAIN,
      workloadLifetimeMs: DAY_MS,
      nodeLifetimeMs: options.nodeLifetimeMs ?? DAY_MS,
      log: silentLog,
      now,
    })
    const identity = options.identity ?? formatControllerIdentity(TRUST_DOMAIN)
    const credential = authority.issue(identity, DAY_MS)
    this.server = new ControlServer(
      { certificateChain: credential.chain, key: credential.keyPem(), bundle: credential.bundle },
      {
        ...(options.acceptsTokens === false
          ? {}
          : {
              clock: options.clock ?? systemClock,
              onToken: (token, address) => this.certificates.admit(token, address),
            }),
        onStream: () => {
          this.streams++
          return { onRequest: () => {}, onClose: () => {} }
        },
        onSigningRequest: (request, peer) => {
          this.peers.push(peer)
          return this.certificates.sign(request, peer)
        },
      },
    )
  }

  static async start(t: TestContext, options: TokenControllerOptions = {}): Promise<TokenController> {
    const settings = { stateDirectory: await temporaryDirectory(t), given: null, trustDomain: TRUST_DOMAIN }
    const authority = await CertificateAuthority.open(settings, silentLog, options.now)
    const controller = new TokenController(authority, options)
    t.after(() => controller.server.stop())
    controller.port = await controller.server.listen('127.0.0.1', 0)
    return controller
  }

  get address(): string {
    return `127.0.0.1:${this.port}`
  }

  setWorkloads(workloads: readonly Pick<Workload, 'node' | 'trustDomain' | 'namespace' | 'serviceAccount'>[]): void {
    this.certificates.setWorkloads(workloads as readonly Workload[])
  }
}
