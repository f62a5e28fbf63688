/** The CNI plugin's side of an agent: answers it (cni-server.ts) and keeps it installed (cni-install.ts). */
import { mkdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { type Addon, NATIVE_BUILD_DIRECTORY } from '../kernel/addon.ts'
import type { Snapshot } from '../model/snapshot.ts'
import { CNI_PLUGIN } from './cni-conflist.ts'
import { CniInstall } from './cni-install.ts'
import { CniNamespacesFile } from './cni-namespaces.ts'
import { type CniResult, CniServer, type CniServerOptions } from './cni-server.ts'
import type { AgentConfig } from './config.ts'
import type { KubernetesPods } from './kubernetes-pods.ts'
import type { Pods } from './pods.ts'

export interface CniNodeOptions {
  readonly config: Pick<AgentConfig, 'cniConfDirectory' | 'cniBinDirectory' | 'cniSocket' | 'state'>
  readonly addon: Addon
  readonly networks: KubernetesPods
  readonly pods: Pods
  readonly snapshot: () => Snapshot
  readonly membershipOf: CniServerOptions['membershipOf']
  readonly isReady: () => boolean
  readonly log: Logger
}

/** See the head of the file. */
export class CniNode {
  private readonly options: CniNodeOptions
  private readonly server: CniServer
  private readonly install: CniInstall

  constructor(options: CniNodeOptions) {
    const { config, addon, networks, pods, snapshot, membershipOf, isReady, log } = options
    this.options = options
    const file = new CniNamespacesFile(config.state)
    this.server = new CniServer({
      ...{ path: config.cniSocket, addon, networks, pods, file, snapshot, membershipOf, isReady, log },
    })
    this.install = new CniInstall({
      confDirectory: config.cniConfDirectory,
      binDirectory: config.cniBinDirectory,
      program: join(NATIVE_BUILD_DIRECTORY, CNI_PLUGIN),
      paths: { socket: config.cniSocket, namespaces: file.path },
      log,
    })
  }

  /** Requests since start, by what became of them. */
  get counts(): ReadonlyMap<CniResult, number> {
    return this.server.counts
  }

  get isChained(): boolean {
    return this.install.isChained
  }

  /** This agent answers from now on. Rejects with WEFT_SYSCALL. */
  async serve(): Promise<void> {
    const directory = dirname(this.options.config.cniSocket)
    try {
      mkdirSync(directory, { recursive: true, mode: 0o755 })
    } catch (error) {
      throw new WeftError('WEFT_SYSCALL', `the directory ${directory} of the CNI socket cannot be made`, error)
    }
    await this.server.start()
    if (this.options.isReady()) this.server.update(this.options.snapshot())
    // Last: from now on somebody asks.
    this.install.start()
  }

  /** To be called when the pods have been told of it. */
  update(snapshot: Snapshot): void {
    this.server.update(snapshot)
  }

  /** Another agent answers from now on. What is installed stays. */
  stop(): void {
    this.server.stop()
    this.install.stop()
  }
}
