/**
 * Debian's Prometheus beside the control plane of a cluster, outside the mesh; it scrapes over the cluster's network.
 *
 * It is built without the discovery of Kubernetes. So what that would hand over for the role `pod`, a target for every port
 * of every container with its `__meta_kubernetes_` labels, comes from here, by a ServiceAccount that may read pods alone;
 * what becomes of it is Prometheus' own doing, by the relabelling that installations have.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Cluster } from './cluster.ts'
import { ClusterFiles } from './cluster-files.ts'
import { childOf, ENVIRONMENT } from './machine.ts'

const MACHINE = 'control-plane'
/** The machine has a network of its own. */
const PORT = 9090
const NAMESPACE = 'monitoring'
const ACCOUNT = 'prometheus'

/** What is awaited takes a second or two; a machine that does much else takes longer. */
const AWAIT_MS_MAX = 60_000
const LOOK_MS = 100
/** Between two scrapes of a target, and for each. */
export const SCRAPE_INTERVAL = '3s'
/** It is killed when it does not end by itself. */
const END_MS_MAX = 10_000

/** One entry of `scrape_configs`, but for the discovery. */
export interface ScrapeJob {
  readonly job_name: string
  /** Where pods are looked for; null: everywhere. */
  readonly namespaces: readonly string[] | null
  readonly relabel_configs: readonly object[]
  readonly [field: string]: unknown
}

/** A pod that is scraped, as the API tells of it. */
export interface Target {
  readonly labels: Readonly<Record<string, string>>
  readonly scrapePool: string
  readonly scrapeUrl: string
  readonly health: 'up' | 'down' | 'unknown'
  readonly lastError: string
}

/** One series of an answer. */
export interface Series {
  readonly metric: Readonly<Record<string, string>>
  readonly value: number
}

/** Options of tests that need it: skipped where it is not installed, but not in CI, where they fail. */
export function needsPrometheus(): { readonly skip: string | false } {
  try {
    execFileSync('/bin/sh', ['-c', 'command -v prometheus'], { stdio: 'pipe', env: ENVIRONMENT })
    return { skip: false }
  } catch {
    if (process.env['CI'] === 'true') return { skip: false }
    return { skip: 'Prometheus is not installed. Run: sh deploy/setup.sh cluster' }
  }
}

/** The way of most installations: pods that ask for it by annotations, on the port and path that those name. */
export function annotationsJob(name: string): ScrapeJob {
  const annotation = (key: string): string => `__meta_kubernetes_pod_annotation_prometheus_io_${key}`
  return {
    job_name: name,
    namespaces: null,
    relabel_configs: [
      { source_labels: [annotation('scrape')], action: 'keep', regex: 'true' },
      { source_labels: [annotation('path')], action: 'replace', regex: '(.+)', target_label: '__metrics_path__' },
      {
        source_labels: ['__address__', annotation('port')],
        action: 'replace',
        regex: '([^:]+)(?::\\d+)?;(\\d+)',
        replacement: '$1:$2',
        target_label: '__address__',
      },
      ...POD_LABELS,
    ],
  }
}

/** What the Prometheus operator makes of an endpoint of a PodMonitor. */
export function podMonitorJob(monitor: PodMonitor): ScrapeJob {
  const { name, namespace } = monitor.metadata
  const [endpoint] = monitor.spec.podMetricsEndpoints as readonly [PodMonitor['spec']['podMetricsEndpoints'][number]]
  const labels = Object.entries(monitor.spec.selector.matchLabels).map(([label, value]) => {
    const written = label.replaceAll(/[^a-zA-Z0-9_]/g, '_')
    const from = ['label', 'labelpresent'].map((kind) => `__meta_kubernetes_pod_${kind}_${written}`)
    return { source_labels: from, action: 'keep', regex: `(${value});true` }
  })
  return {
    job_name: `podMonitor/${namespace}/${name}/0`,
    namespaces: [namespace],
    scrape_interval: endpoint.interval,
    metrics_path: endpoint.path,
    relabel_configs: [
      { source_labels: ['__meta_kubernetes_pod_phase'], action: 'drop', regex: '(Failed|Succeeded)' },
      ...labels,
      { source_labels: ['__meta_kubernetes_pod_container_port_name'], action: 'keep', regex: endpoint.port },
      ...POD_LABELS,
    ],
  }
}

/** As far as it is used. */
export interface PodMonitor {
  readonly metadata: { readonly name: string; readonly namespace: string }
  readonly spec: {
    readonly selector: { readonly matchLabels: Readonly<Record<string, string>> }
    readonly podMetricsEndpoints: readonly {
      readonly port: string
      readonly path: string
      readonly interval: string
    }[]
  }
}

/** Series say which pod they come from. */
const POD_LABELS = ['namespace', 'pod_name', 'pod_node_name'].map((name) => ({
  source_labels: [`__meta_kubernetes_${name}`],
  target_label: name.replace(/^pod_(name)$/, 'pod').replace('pod_node_name', 'node'),
}))

export class Prometheus {
  private readonly child: ChildProcess
  private readonly url: string
  private complaint = ''

  private constructor(child: ChildProcess, url: string) {
    this.child = child
    this.url = url
    child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.complaint = `${this.complaint}${text}`.slice(-4000)
    })
    child.stdout!.resume()
  }

  /** Resolves when it answers. */
  static async start(cluster: Cluster, jobs: readonly ScrapeJob[]): Promise<Prometheus> {
    const directory = join(new ClusterFiles(cluster.name).machine(MACHINE), 'prometheus')
    mkdirSync(directory, { recursive: true })
    const found = await discoveredTargets(cluster)
    const scrapes = jobs.map(({ namespaces, ...job }, i) => {
      const path = join(directory, `targets-${i}.json`)
      const isWanted = ({ labels }: FoundTarget): boolean =>
        namespaces === null || namespaces.includes(labels['__meta_kubernetes_namespace']!)
      writeFileSync(path, JSON.stringify(found.filter(isWanted)))
      return { ...job, file_sd_configs: [{ files: [path] }] }
    })
    // A machine that does much else takes its time for a scrape; one that is late is made again.
    const global = { scrape_interval: SCRAPE_INTERVAL, scrape_timeout: SCRAPE_INTERVAL }
    // JSON is YAML.
    writeFileSync(join(directory, 'prometheus.yml'), JSON.stringify({ global, scrape_configs: scrapes }))
    const command = [
      ...['env', 'GOMAXPROCS=1', 'GOMEMLIMIT=256MiB', 'prometheus', '--log.level=warn'],
      `--config.file=${join(directory, 'prometheus.yml')}`,
      `--storage.tsdb.path=${join(directory, 'data')}`,
      `--web.listen-address=0.0.0.0:${PORT}`,
    ]
    const child = spawn('sh', cluster.commandIn(MACHINE, command), {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: ENVIRONMENT,
    })
    const view = ['config', 'view', '--minify', '-o', 'jsonpath={.clusters[0].cluster.server}']
    const { hostname } = new URL(await cluster.kubectl(view))
    const prometheus = new Prometheus(child, `http://${hostname}:${PORT}`)
    await prometheus.until('an answer of Prometheus', async () => {
      const isReady = (await fetch(`${prometheus.url}/-/ready`).catch(() => null))?.ok === true
      return isReady ? true : null
    })
    return prometheus
  }

  /** All that it scrapes now, or would if it could. */
  async targets(): Promise<readonly Target[]> {
    const { activeTargets } = await this.ask<{ activeTargets: readonly Target[] }>('targets?state=active')
    return activeTargets
  }

  /** Series that it knows by PromQL. */
  async query(expression: string): Promise<readonly Series[]> {
    const { result } = await this.ask<{
      result: readonly { metric: Record<string, string>; value: readonly [number, string] }[]
    }>(`query?query=${encodeURIComponent(expression)}`)
    return result.map(({ metric, value }) => ({ metric, value: Number(value[1]) }))
  }

  /** Waits until `look` finds what is wanted; fails with what there was last, and with what Prometheus said. */
  async until<T>(what: string, look: () => Promise<T | null>, describe: () => unknown = () => ''): Promise<T> {
    const deadline = performance.now() + AWAIT_MS_MAX
    for (;;) {
      const found = await look()
      if (found !== null) return found
      const hasEnded = this.child.exitCode !== null || this.child.signalCode !== null
      if (hasEnded || performance.now() > deadline) {
        throw new Error(`${what} did not come. ${JSON.stringify(describe())}\n${this.complaint}`)
      }
      await delay(LOOK_MS)
    }
  }

  /** Waits until the targets that `isWanted` chooses are as `isRight` says; those targets. */
  async targetsUntil(
    what: string,
    isWanted: (target: Target) => boolean,
    isRight: (targets: readonly Target[]) => boolean,
  ): Promise<readonly Target[]> {
    let last: readonly Target[] = []
    const look = async (): Promise<readonly Target[] | null> => {
      last = (await this.targets()).filter(isWanted)
      return isRight(last) ? last : null
    }
    return await this.until(what, look, () => last)
  }

  async stop(): Promise<void> {
    const { child } = this
    if (child.exitCode !== null || child.signalCode !== null) return
    const ended = once(child, 'exit')
    const pid = childOf(child.pid!)
    const end = (signal: NodeJS.Signals): void => {
      if (pid === null) child.kill(signal)
      else process.kill(pid, signal)
    }
    const killer = setTimeout(() => end('SIGKILL'), END_MS_MAX)
    end('SIGTERM')
    await ended
    clearTimeout(killer)
  }

  private async ask<T>(path: string): Promise<T> {
    const response = await fetch(`${this.url}/api/v1/${path}`)
    const { data, error } = (await response.json()) as { data: T; error?: string }
    if (error !== undefined) throw new Error(`Prometheus, asked for ${path}: ${error}`)
    return data
  }
}

/** One port of a container, as Prometheus' discovery would hand it over. */
interface FoundTarget {
  readonly targets: readonly [string]
  readonly labels: Readonly<Record<string, string>>
}

interface FoundPod {
  readonly metadata: {
    readonly name: string
    readonly namespace: string
    readonly labels?: Readonly<Record<string, string>>
    readonly annotations?: Readonly<Record<string, string>>
  }
  readonly spec: {
    readonly nodeName?: string
    readonly containers: readonly {
      readonly name: string
      readonly ports?: readonly { readonly name?: string; readonly containerPort: number }[]
    }[]
  }
  readonly status: { readonly phase: string; readonly podIP?: string }
}

async function discoveredTargets(cluster: Cluster): Promise<readonly FoundTarget[]> {
  await mayReadPods(cluster)
  const account = `system:serviceaccount:${NAMESPACE}:${ACCOUNT}`
  const deadline = performance.now() + AWAIT_MS_MAX
  for (;;) {
    try {
      const { items } = await cluster.get<{ items: readonly FoundPod[] }>('pods', '-A', `--as=${account}`)
      return items.flatMap(targetsOf)
    } catch (error) {
      // The API server has to hear of its own new roles first.
      if (!(error as Error).message.includes('Forbidden') || performance.now() > deadline) throw error
      await delay(LOOK_MS)
    }
  }
}

function targetsOf({ metadata, spec, status }: FoundPod): readonly FoundTarget[] {
  const { podIP } = status
  if (podIP === undefined) return []
  const named = (kind: string, map: Readonly<Record<string, string>> = {}): [string, string][] =>
    Object.entries(map).flatMap(([key, value]): [string, string][] => {
      const written = key.replaceAll(/[^a-zA-Z0-9_]/g, '_')
      return [
        [`pod_${kind}_${written}`, value],
        [`pod_${kind}present_${written}`, 'true'],
      ]
    })
  const ofPod: readonly (readonly [string, string])[] = [
    ['namespace', metadata.namespace],
    ['pod_name', metadata.name],
    ['pod_ip', podIP],
    ['pod_node_name', spec.nodeName ?? ''],
    ['pod_phase', status.phase],
    ...named('label', metadata.labels),
    ...named('annotation', metadata.annotations),
  ]
  const target = (address: string, ofPort: readonly (readonly [string, string])[]): FoundTarget => ({
    targets: [address],
    labels: Object.fromEntries([...ofPod, ...ofPort].map(([key, value]) => [`__meta_kubernetes_${key}`, value])),
  })
  return spec.containers.flatMap(({ name, ports = [] }) => {
    if (ports.length === 0) return [target(podIP, [['pod_container_name', name]])]
    return ports.map((port) =>
      target(`${podIP}:${port.containerPort}`, [
        ['pod_container_name', name],
        ['pod_container_port_name', port.name ?? ''],
        ['pod_container_port_number', `${port.containerPort}`],
      ]),
    )
  })
}

/** Makes a ServiceAccount that may look for pods, and may do nothing else. */
async function mayReadPods(cluster: Cluster): Promise<void> {
  const subject = { name: ACCOUNT, namespace: NAMESPACE }
  const apiGroup = 'rbac.authorization.k8s.io'
  await cluster.apply(
    { apiVersion: 'v1', kind: 'Namespace', metadata: { name: NAMESPACE } },
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: subject },
    {
      apiVersion: `${apiGroup}/v1`,
      kind: 'ClusterRole',
      metadata: { name: ACCOUNT },
      rules: [{ apiGroups: [''], resources: ['pods'], verbs: ['get', 'list', 'watch'] }],
    },
    {
      apiVersion: `${apiGroup}/v1`,
      kind: 'ClusterRoleBinding',
      metadata: { name: ACCOUNT },
      roleRef: { apiGroup, kind: 'ClusterRole', name: ACCOUNT },
      subjects: [{ kind: 'ServiceAccount', ...subject }],
    },
  )
}
