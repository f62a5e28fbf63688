/**
 * How the API server is reached and who we are to it: a kubeconfig, or the ServiceAccount of the pod we run in.
 *
 * The official client's KubeConfig does this part (contexts, exec plug-ins, tokens that are renewed, proxies); it is
 * imported when the first connection is opened, because it costs half a second and 90 MB. Its generated API is not used.
 * Certificates and keys are read again for every request, so that renewed files are followed.
 */
import { Agent as HttpAgent } from 'node:http'
import { Agent as HttpsAgent, type RequestOptions } from 'node:https'
import type { KubeConfig } from '@kubernetes/client-node'
import { describeError, WeftError } from '../base/errors.ts'
import { DIRECT_SERVER_NAME, DirectAddresses } from './direct-address.ts'

/** Which configuration is taken. */
export interface ConnectionSettings {
  /** File; null takes the first of KUBECONFIG, ~/.kube/config and the ServiceAccount of the pod. */
  readonly kubeconfig: string | null
  /** Context of the file; null takes its current one. */
  readonly context?: string | null
}

/** What requests need of a connection, whoever made it. */
export interface ApiConnection {
  /** URL of the API server. */
  readonly server: string
  /** Ways to the server that do not depend on anybody between it and us; absent where nobody could know them. */
  readonly direct?: DirectAddresses
  /** TLS, agent and headers with our credentials. */
  requestOptions(): Promise<RequestOptions>
  /** After a 401: true when another try may do better. */
  renewCredentials(): Promise<boolean>
  /** Closes connections that nobody uses; new ones may be made. */
  closeIdle(): void
  /** Closes idle connections for good; requests under way go on. */
  close(): void
}

/** Idle connections that are kept; more than a handful of requests at once is rare. */
const IDLE_SOCKETS_MAX = 4
/** TCP keep-alive from this idle time on: below the idle time-outs of load balancers, which begin at 60 s. */
export const KEEP_ALIVE_MS = 30_000
/** Between two looks at the configuration after the server refused our credentials. */
const RELOAD_INTERVAL_MS = 10_000

/** A server and credentials for it. */
export class KubernetesConnection implements ApiConnection {
  /** URL of the API server, with a path when the configuration has one. */
  readonly server: string
  /** Namespace of the context; `default` when it names none. */
  readonly namespace: string
  /** Name of the context, for people. */
  readonly context: string
  /** Ways to the server that do not depend on anybody between it and us. */
  readonly direct = new DirectAddresses()
  private readonly settings: ConnectionSettings
  private readonly agent: HttpAgent | HttpsAgent
  private current: KubeConfig
  private loadedAtMs: number

  private constructor(settings: ConnectionSettings, config: KubeConfig, server: string) {
    this.settings = settings
    this.current = config
    this.server = server
    this.context = config.getCurrentContext()
    const namespace = config.getContextObject(this.context)?.namespace?.trim()
    this.namespace = namespace === undefined || namespace === '' ? 'default' : namespace
    this.loadedAtMs = Date.now()
    const options = { keepAlive: true, keepAliveMsecs: KEEP_ALIVE_MS, maxFreeSockets: IDLE_SOCKETS_MAX }
    this.agent = server.startsWith('https:') ? new HttpsAgent(options) : new HttpAgent(options)
  }

  /** Reads the configuration; connects to nobody yet. Rejects with WeftError WEFT_CONFIG. */
  static async open(settings: ConnectionSettings): Promise<KubernetesConnection> {
    const config = await loadConfig(settings)
    const cluster = config.getCurrentCluster()
    if (cluster === null) {
      const context = config.getContextObject(config.getCurrentContext())
      const text =
        context === null
          ? `${nameOf(settings)} has no current context; set one with "kubectl config use-context", or give --context`
          : `${nameOf(settings)} has no cluster "${context.cluster}", which its context "${context.name}" names`
      throw new WeftError('WEFT_CONFIG', text)
    }
    if (!URL.canParse(cluster.server) || !/^https?:/.test(cluster.server)) {
      throw new WeftError('WEFT_CONFIG', `the server "${cluster.server}" in ${nameOf(settings)} is not an http(s) URL`)
    }
    return new KubernetesConnection(settings, config, cluster.server)
  }

  /** The official client's configuration, for what only it can do (port-forward). */
  get config(): KubeConfig {
    return this.current
  }

  /** What a request needs: TLS, agent and headers with our credentials. Rejects with WeftError WEFT_CONFIG. */
  async requestOptions(): Promise<RequestOptions> {
    const options: RequestOptions = { headers: {} }
    try {
      await this.current.applyToHTTPSOptions(options)
    } catch (error) {
      const text = `the credentials of ${nameOf(this.settings)} cannot be used`
      throw new WeftError('WEFT_CONFIG', text, error)
    }
    const headers = options.headers as Record<string, string>
    // Tokens from files end with a newline now and then, which no header may.
    if (headers['Authorization'] !== undefined) headers['Authorization'] = headers['Authorization'].trim()
    // The client's own agent would keep the certificates it began with; ours takes those of each request.
    if (this.current.getCurrentCluster()?.proxyUrl) return options
    options.agent = this.agent
    const direct = this.direct.at(Date.now())
    if (direct === null) return options
    headers['Host'] = new URL(this.server).host
    return { ...options, hostname: direct.address, port: direct.port, servername: DIRECT_SERVER_NAME }
  }

  /** After a 401: reads the configuration again, at most now and then. True when it is worth another try. */
  async renewCredentials(): Promise<boolean> {
    if (Date.now() - this.loadedAtMs < RELOAD_INTERVAL_MS) return false
    this.loadedAtMs = Date.now()
    try {
      const config = await loadConfig(this.settings)
      // Another server would be another cluster: objects of two must never be mixed.
      if (config.getCurrentCluster()?.server !== this.server) return false
      this.current = config
      return true
    } catch {
      // The old one stays; the request's own error tells what is wrong.
      return false
    }
  }

  /** Closes connections that no request uses. */
  closeIdle(): void {
    for (const sockets of Object.values(this.agent.freeSockets)) for (const socket of sockets ?? []) socket.destroy()
  }

  /** Closes all connections. */
  close(): void {
    this.agent.destroy()
  }
}

async function loadConfig(settings: ConnectionSettings): Promise<KubeConfig> {
  const { KubeConfig } = await import('@kubernetes/client-node')
  const config = new KubeConfig()
  const { kubeconfig, context = null } = settings
  try {
    if (kubeconfig !== null) config.loadFromFile(kubeconfig)
    else config.loadFromDefault()
  } catch (error) {
    throw new WeftError('WEFT_CONFIG', `${nameOf(settings)} cannot be read: ${describeError(error)}; see --kubeconfig`)
  }
  const server = config.getCurrentCluster()?.server
  // What the client falls back to when it found nothing at all.
  if (kubeconfig === null && (server === 'http://localhost:8080' || server?.includes('//undefined:') === true)) {
    throw new WeftError(
      'WEFT_CONFIG',
      'no Kubernetes configuration: not in KUBECONFIG, not in ~/.kube/config, and not inside a pod; give --kubeconfig FILE',
    )
  }
  if (context !== null) {
    if (!config.getContexts().some(({ name }) => name === context)) {
      const names = config.getContexts().map(({ name }) => name)
      const known = names.length === 0 ? 'it has none' : `it has ${names.join(', ')}`
      throw new WeftError('WEFT_CONFIG', `${nameOf(settings)} has no context "${context}": ${known}`)
    }
    config.setCurrentContext(context)
  }
  return config
}

function nameOf({ kubeconfig }: ConnectionSettings): string {
  return kubeconfig === null ? 'the Kubernetes configuration' : `the kubeconfig ${kubeconfig}`
}
