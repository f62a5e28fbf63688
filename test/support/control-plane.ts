/** A real controller on loopback with a directory of YAML, and agents' ends of its protocol, for tests. */
import { mkdtemp, rename, rm, unlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { ControllerLink } from '../../src/agent/controller-link.ts'
import { Subscription, type SubscriptionOptions } from '../../src/agent/subscription.ts'
import { type Clock, systemClock } from '../../src/base/clock.ts'
import { type Logger, silentLog } from '../../src/base/log.ts'
import { type Controller, startController } from '../../src/controller/app.ts'
import { CertificateAuthority } from '../../src/controller/authority.ts'
import type { ControllerConfig } from '../../src/controller/config.ts'
import { issueNodeCredential } from '../../src/controller/node-credential.ts'
import type { Delta } from '../../src/model/delta.ts'
import { type CredentialTexts, readCredentialFiles } from '../../src/security/credential-files.ts'

export const TRUST_DOMAIN = 'cluster.local'

/** A directory that is gone after the test. */
export async function temporaryDirectory(t: TestContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'weft-test-'))
  t.after(() => rm(directory, { recursive: true, force: true }))
  return directory
}

/** Files of a root of a test's own, for a controller that is to take none from elsewhere. */
export async function makeRootFiles(t: TestContext): Promise<{ rootFile: string; keyFile: string }> {
  const stateDirectory = await temporaryDirectory(t)
  await CertificateAuthority.open({ stateDirectory, given: null, trustDomain: TRUST_DOMAIN }, silentLog)
  return { rootFile: join(stateDirectory, 'ca', 'root.pem'), keyFile: join(stateDirectory, 'ca', 'key.pem') }
}

/** Things that happen, to be awaited one by one. */
export class Events<T> {
  private readonly waiting: ((value: T) => void)[] = []
  private readonly arrived: T[] = []

  push(value: T): void {
    const first = this.waiting.shift()
    if (first === undefined) this.arrived.push(value)
    else first(value)
  }

  /** The next one, in order. */
  async next(): Promise<T> {
    const value = this.arrived.shift()
    return value ?? new Promise((resolve) => this.waiting.push(resolve))
  }

  /** The next one for which `isWanted` holds; those before it are dropped. */
  async until(isWanted: (value: T) => boolean): Promise<T> {
    for (;;) {
      const value = await this.next()
      if (isWanted(value)) return value
    }
  }

  get count(): number {
    return this.arrived.length
  }
}

/** The source directory, state and configuration of a controller; starts and stops it. */
export class TestController {
  readonly directory: string
  readonly sourceDirectory: string
  readonly config: ControllerConfig
  controller: Controller | null = null
  private readonly log: Logger
  private readonly clock: Clock

  private constructor(directory: string, sourceDirectory: string, options: TestControllerOptions) {
    this.directory = directory
    this.sourceDirectory = sourceDirectory
    this.log = options.log ?? silentLog
    this.clock = options.clock ?? systemClock
    this.config = {
      source: { kind: 'directory', directory: sourceDirectory },
      listen: { address: '127.0.0.1', port: 0 },
      webhookListen: { address: '127.0.0.1', port: 0 },
      stateDirectory: join(directory, 'state'),
      givenRoot: null,
      trustDomain: TRUST_DOMAIN,
      clusterDomain: 'cluster.local',
      clusterId: 'Kubernetes',
      rootNamespace: 'istio-system',
      systemNamespace: 'weft-system',
      agentServiceAccount: 'weft-agent',
      revision: '',
      isReadingIstioLabels: false,
      virtualIpBlocks: { ipv4: '198.19.240.0/20', ipv6: 'fd00:240::/48' },
      certificateLifetimeMs: 86_400_000,
      nodeLifetimeMs: 30 * 86_400_000,
      admin: { address: '127.0.0.1', port: 0 },
      logLevel: 'error',
      ...options.config,
    }
  }

  /** Writes the files and starts the controller. */
  static async start(
    t: TestContext,
    files: Readonly<Record<string, string>>,
    options: TestControllerOptions = {},
  ): Promise<TestController> {
    // Hooks run in the order in which they are registered: the controller writes into the directories until it has
    // stopped, and a hook that fails keeps those after it from running at all.
    let test: TestController | null = null
    t.after(() => test?.stop())
    const sourceDirectory = await temporaryDirectory(t)
    test = new TestController(await temporaryDirectory(t), sourceDirectory, options)
    for (const [name, text] of Object.entries(files)) await writeFile(join(sourceDirectory, name), text)
    await test.startAgain(0)
    return test
  }

  get running(): Controller {
    if (this.controller === null) throw new Error('the controller is stopped')
    return this.controller
  }

  get address(): string {
    return `127.0.0.1:${this.running.port}`
  }

  /** Starts it (again) on `port`; 0 takes a free one. */
  async startAgain(port: number): Promise<void> {
    const config = { ...this.config, listen: { address: '127.0.0.1', port } }
    this.controller = await startController(config, this.log, this.clock)
  }

  async stop(): Promise<void> {
    await this.controller?.stop()
    this.controller = null
  }

  /** Writes a file of the source the way most editors do: a neighbour, then a rename. */
  async write(name: string, text: string): Promise<void> {
    const hidden = join(this.sourceDirectory, `.${name}.tmp`)
    await writeFile(hidden, text)
    await rename(hidden, join(this.sourceDirectory, name))
  }

  async remove(name: string): Promise<void> {
    await unlink(join(this.sourceDirectory, name))
  }

  /** Issues the first credential of a node; returns its directory. */
  async issue(node: string, lifetimeMs = 86_400_000): Promise<string> {
    const outDirectory = join(this.directory, `credential-${node}`)
    const { stateDirectory, givenRoot, trustDomain } = this.config
    await issueNodeCredential(
      { stateDirectory, given: givenRoot, trustDomain, node, outDirectory, lifetimeMs },
      silentLog,
    )
    return outDirectory
  }

  /** An agent's connection, with a new credential of `node`. */
  async link(t: TestContext, node: string): Promise<ControllerLink> {
    const credential = await readCredentialFiles(await this.issue(node))
    return linkTo(t, this.address, credential)
  }

  status(): { agents: { node: string; nacks: number; resourcesSent: number; lastError: string | null }[] } {
    return this.running.status() as ReturnType<TestController['status']>
  }
}

export interface TestControllerOptions {
  readonly log?: Logger
  readonly clock?: Clock
  readonly config?: Partial<ControllerConfig>
}

export function linkTo(t: TestContext, address: string, credential: CredentialTexts): ControllerLink {
  const link = new ControllerLink({ address, trustDomain: TRUST_DOMAIN, credential: () => credential })
  t.after(() => link.close())
  return link
}

/** A subscription whose deltas are collected. */
export class TestAgent {
  readonly deltas = new Events<Delta>()
  readonly subscription: Subscription

  constructor(t: TestContext, options: Pick<SubscriptionOptions, 'connect' | 'node'> & Partial<SubscriptionOptions>) {
    this.subscription = new Subscription({
      snapshotFile: null,
      clock: systemClock,
      log: silentLog,
      onDelta: (delta) => this.deltas.push(delta),
      ...options,
    })
    t.after(() => this.subscription.stop())
  }

  /** Starts it and waits for the first delta. */
  async start(): Promise<Delta> {
    await this.subscription.start()
    return this.deltas.next()
  }
}

/** A namespace, a service `web` with pods on two nodes, and a pod outside the mesh. */
export const SHOP = `
apiVersion: v1
kind: Namespace
metadata: { name: shop, labels: { weft.dev/mesh: enabled } }
---
${pod('shop', 'web-1', 'node1', '10.0.1.1', 'web')}
---
${pod('shop', 'web-2', 'node2', '10.0.2.1', 'web')}
---
${pod('outside', 'stranger', 'node2', '10.0.2.9', 'stranger')}
---
apiVersion: v1
kind: Service
metadata: { name: web, namespace: shop }
spec:
  clusterIP: 10.96.0.1
  selector: { app: web }
  ports: [{ name: http, port: 80, targetPort: 8080 }]
`

/** YAML of a running pod with its own service account and the label app. */
export function pod(namespace: string, name: string, node: string, address: string, app: string): string {
  return `apiVersion: v1
kind: Pod
metadata:
  name: ${name}
  namespace: ${namespace}
  labels: { app: ${app} }
  annotations: { weft.dev/netns: /var/run/netns/${name} }
spec:
  nodeName: ${node}
  serviceAccountName: ${name}
  containers: [{ name: app, ports: [{ containerPort: 8080 }] }]
status:
  phase: Running
  podIP: ${address}
  podIPs: [{ ip: ${address} }]
  conditions: [{ type: Ready, status: "True" }]`
}
