/**
 * A node that a test plays, and the controller with it, on a control plane that runs no pods: pods get a node and become
 * ready, pods that are deleted go, and what the controller of an installation makes is made.
 */
import { setTimeout as delay } from 'node:timers/promises'
import {
  CONFIG_MAPS,
  DEPLOYMENTS,
  LEASES,
  NODES,
  PODS,
  SECRETS,
  WEBHOOKS,
} from '../../../src/cli/install/resource-types.ts'
import {
  KubernetesApi,
  KubernetesError,
  type KubernetesObject,
  type ResourceType,
} from '../../../src/kubernetes/api.ts'
import { objectPath } from '../../../src/kubernetes/object.ts'

const LOOK_MS = 100

export interface PlayedNodeOptions {
  readonly kubeconfig: string
  readonly namespace: string
  readonly name?: string
}

export class PlayedNode {
  /** Pods whose names contain it never become ready; what they say instead. */
  failing: { readonly part: string; readonly reason: string; readonly message: string } | null = null
  /** False: the controller's pods run, and make nothing. */
  isControllerPlayed = true
  /** Pods that were made, in their order. */
  readonly seen = new Map<string, KubernetesObject>()
  private readonly api: KubernetesApi
  private readonly options: PlayedNodeOptions
  private isStopped = false
  private running: Promise<void> = Promise.resolve()

  private constructor(api: KubernetesApi, options: PlayedNodeOptions) {
    this.api = api
    this.options = options
  }

  static async start(options: PlayedNodeOptions): Promise<PlayedNode> {
    const api = await KubernetesApi.open({ kubeconfig: options.kubeconfig })
    const node = new PlayedNode(api, options)
    const name = node.name
    await api.apply(
      { apiVersion: 'v1', kind: 'Node', metadata: { name, labels: { 'kubernetes.io/os': 'linux' } } },
      NODES,
      'played-node',
    )
    const conditions = [{ type: 'Ready', status: 'True', reason: 'Played' }]
    const allocatable = { pods: '100', cpu: '8', memory: '8Gi' }
    await node.setStatus(NODES, null, name, { conditions, allocatable })
    node.running = node.run()
    return node
  }

  get name(): string {
    return this.options.name ?? 'played-1'
  }

  async stop(): Promise<void> {
    this.isStopped = true
    await this.running
    await this.api.delete(NODES, null, this.name)
    this.api.close()
  }

  private async run(): Promise<void> {
    while (!this.isStopped) {
      try {
        for (const pod of await this.api.list(PODS, { namespace: this.options.namespace })) await this.play(pod)
        if (this.isControllerPlayed) await this.playController()
      } catch (error) {
        // Somebody else was faster; the next look sees it.
        if (!(error instanceof KubernetesError)) throw error
      }
      await delay(LOOK_MS)
    }
  }

  private async play(pod: KubernetesObject): Promise<void> {
    const { name, namespace, deletionTimestamp } = pod.metadata
    const { nodeName } = pod['spec'] as { nodeName?: string }
    // Of a node that nobody plays: it is away.
    if (nodeName !== undefined && nodeName !== this.name) return
    this.seen.set(name, pod)
    if (deletionTimestamp !== undefined) {
      await this.api.delete(PODS, namespace!, name, { gracePeriodSeconds: 0 })
      return
    }
    const spec = pod['spec'] as { nodeName?: string; containers: { name: string; image: string }[] }
    if (spec.nodeName === undefined) {
      const target = { apiVersion: 'v1', kind: 'Node', name: this.name }
      const binding = { apiVersion: 'v1', kind: 'Binding', metadata: { name }, target }
      await this.api.request('POST', `/api/v1/namespaces/${namespace}/pods/${name}/binding`, binding)
      return
    }
    const { phase } = (pod['status'] ?? {}) as { phase?: string }
    if (phase !== undefined && phase !== 'Pending') return
    const [container] = spec.containers
    const { failing } = this
    const isFailing = failing !== null && name.includes(failing.part)
    const isOnce = name.includes('node-cleanup')
    const state = isFailing
      ? { waiting: { reason: failing.reason, message: failing.message } }
      : isOnce
        ? { terminated: { exitCode: 0, reason: 'Completed' } }
        : { running: { startedAt: new Date().toISOString() } }
    const isReady = !isFailing && !isOnce
    const status = {
      phase: isFailing ? 'Pending' : isOnce ? 'Succeeded' : 'Running',
      conditions: ['PodScheduled', 'Initialized', 'ContainersReady', 'Ready'].map((type) => ({
        type,
        status: isReady || type === 'PodScheduled' ? 'True' : 'False',
        lastTransitionTime: new Date(Date.now() - 60_000).toISOString(),
      })),
      containerStatuses: [
        {
          name: container!.name,
          image: container!.image,
          imageID: '',
          ready: isReady,
          started: isReady,
          restartCount: 0,
          state,
        },
      ],
    }
    await this.setStatus(PODS, namespace!, name, status)
  }

  private async setStatus(type: ResourceType, namespace: string | null, name: string, status: object): Promise<void> {
    const options = { contentType: 'application/merge-patch+json' }
    await this.api.request('PATCH', `${objectPath(type, namespace, name)}/status`, { status }, options)
  }

  private async playController(): Promise<void> {
    const { namespace } = this.options
    const controller = await this.api.get(DEPLOYMENTS, namespace, 'weft-controller')
    const { availableReplicas = 0 } = (controller?.['status'] ?? {}) as { availableReplicas?: number }
    if (availableReplicas === 0) return
    const own = { namespace, labels: {} }
    const apply = async (object: KubernetesObject, type: typeof SECRETS): Promise<unknown> =>
      await this.api.apply(object, type, 'weft')
    const data = { 'root-cert.pem': 'a root' }
    for (const place of [namespace, 'default']) {
      const metadata = { name: 'weft-ca-root-cert', namespace: place }
      await apply({ apiVersion: 'v1', kind: 'ConfigMap', metadata, data }, CONFIG_MAPS)
    }
    await apply({ apiVersion: 'v1', kind: 'Secret', metadata: { name: 'weft-ca', ...own }, stringData: data }, SECRETS)
    await apply(
      { apiVersion: 'coordination.k8s.io/v1', kind: 'Lease', metadata: { name: 'weft-controller', ...own }, spec: {} },
      LEASES,
    )
    const webhook = await this.api.get(WEBHOOKS, null, 'weft-controller')
    if (webhook === null) return
    const webhooks = webhook['webhooks'] as { clientConfig: { caBundle?: string } }[]
    if (webhooks[0]!.clientConfig.caBundle !== undefined) return
    const caBundle = Buffer.from(PLAYED_ROOT).toString('base64')
    const changed = webhooks.map((one) => ({ ...one, clientConfig: { ...one.clientConfig, caBundle } }))
    await this.api.replace({ ...webhook, webhooks: changed }, WEBHOOKS)
  }
}

/** The API server wants PEM. */
const PLAYED_ROOT = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n'
