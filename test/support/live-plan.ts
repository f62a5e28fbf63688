/**
 * What a live mesh consists of, in the form that the demo's topology and manifests take: two nodes, pods and services
 * with addresses of their own. All of it lives in namespaces of this test process, so addresses may repeat elsewhere.
 */
import type { DemoPlan, DemoPod, DemoService } from '../../src/cli/demo/plan.ts'

export type NodeName = 'node1' | 'node2'

/** A server program that runs in a pod: `web` is nginx on 8080, `talk` the demo's echo (9000) and greeter (7000). */
export type PodProgram = 'web' | 'talk'

export interface LivePodOptions {
  readonly name: string
  readonly node: NodeName
  readonly namespace?: string
  readonly labels?: Readonly<Record<string, string>>
  readonly serviceAccount?: string
  readonly programs?: readonly PodProgram[]
}

/** Ports of every service; the pods' programs listen on the same ones. */
const SERVICE_PORTS: DemoService['ports'] = [
  { name: 'http', port: 8080 },
  { name: 'tcp-echo', port: 9000 },
  // No name: the protocol has to be detected, also of servers that speak first.
  { name: null, port: 7000 },
  { name: null, port: 8081 },
]

/** Namespace whose pods are not in the mesh. */
export const OUTSIDE = 'outside'

export class LivePlan implements DemoPlan {
  readonly name: string
  readonly kind = 'ebpf'
  readonly nodes: DemoPlan['nodes']
  readonly namespaces: { name: string; isMeshed: boolean }[] = [
    { name: 'default', isMeshed: true },
    { name: 'vault', isMeshed: true },
    { name: OUTSIDE, isMeshed: false },
  ]
  readonly pods: DemoPod[] = []
  readonly services: DemoService[] = []
  /** None: what the capture does is not to be helped by routes. */
  readonly localBlocks: readonly string[] = []
  readonly controller = '198.18.0.1:15012'
  private nextHost = 10

  constructor(name: string) {
    this.name = name
    this.nodes = [1, 2].map((index) => ({
      name: `node${index}`,
      netns: `${name}-node${index}`,
      address: `198.18.0.${index}`,
      bridge: { ipv4: `198.18.${index}.1/24`, ipv6: `fd77:${index}::1/64` },
      serviceBlock: null,
    }))
  }

  /** Adds a pod with addresses that no pod had before. */
  addPod(options: LivePodOptions): DemoPod {
    const { name, node, namespace = 'default', labels = {}, serviceAccount = name } = options
    const host = this.nextHost++
    const index = node === 'node1' ? 1 : 2
    const pod: DemoPod = {
      name,
      namespace,
      node,
      labels: { app: name, version: 'v1', ...labels },
      serviceAccount,
      program: 'idle',
      environment: {},
      netns: `${this.name}-${name}`,
      addresses: [`198.18.${index}.${host}`, `fd77:${index}::${host}`],
      appAddress: null,
    }
    this.pods.push(pod)
    return pod
  }

  /** Adds a service in front of all pods of its namespace with the label `app`. */
  addService(name: string, namespace = 'default', app = name): DemoService {
    const host = this.services.length + 10
    const service: DemoService = {
      name,
      namespace,
      addresses: [`198.19.0.${host}`, `fd77:ffff::${host}`],
      selector: { app },
      ports: SERVICE_PORTS,
    }
    this.services.push(service)
    return service
  }

  pod(name: string): DemoPod {
    const pod = this.pods.find((candidate) => candidate.name === name)
    if (pod === undefined) throw new Error(`the mesh has no pod ${name}`)
    return pod
  }

  /** Puts other labels on a pod. */
  label(name: string, labels: Readonly<Record<string, string>>): void {
    const index = this.pods.findIndex((candidate) => candidate.name === name)
    const pod = this.pods[index]!
    this.pods[index] = { ...pod, labels: { app: name, version: 'v1', ...labels } }
  }

  removePod(name: string): void {
    this.pods.splice(
      this.pods.findIndex((candidate) => candidate.name === name),
      1,
    )
  }
}
