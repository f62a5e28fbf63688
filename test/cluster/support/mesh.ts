/** Weft on a test cluster, installed, used and removed as users do it: by its command line and kubectl. */
import { setTimeout as delay } from 'node:timers/promises'
import { EXIT_OK } from '../../../src/cli/command.ts'
import { PrometheusText, type Sample } from '../../support/prometheus-text.ts'
import { type Finished, runWeft } from '../../support/run-weft.ts'
import type { Cluster } from './cluster.ts'
import { WEFT_IMAGE_NAME } from './images.ts'

export const NAMESPACE = 'weft-system'

/** The image that the test's nodes have. */
export const IMAGE_VALUES = imageValues()

/** An installation waits for images, leases and certificates; on a machine that does other things as well. */
const INSTALL_TIMEOUT = '150s'

/** For what comes by itself in a second or two. */
const AWAIT_MS_MAX = 60_000

/** Runs `weft` with the administrator's kubeconfig. */
export function weft(cluster: Cluster, ...args: readonly string[]): Promise<Finished> {
  return runWeft(...args, '--kubeconfig', cluster.kubeconfig)
}

export class Mesh {
  private readonly cluster: Cluster

  constructor(cluster: Cluster) {
    this.cluster = cluster
  }

  /** Installs by the command line, and waits until it says that all is ready. */
  static async install(cluster: Cluster, ...args: readonly string[]): Promise<Mesh> {
    const mesh = new Mesh(cluster)
    await mesh.run('install', ...IMAGE_VALUES, `--timeout=${INSTALL_TIMEOUT}`, ...args)
    return mesh
  }

  /** A command that must succeed; what it printed. */
  async run(...args: readonly string[]): Promise<string> {
    const { code, out, err } = await weft(this.cluster, ...args)
    if (code !== EXIT_OK) throw new Error(`weft ${args.join(' ')} ended with ${code}:\n${out}${err}`)
    return out
  }

  /** Takes a namespace into the mesh, or out of it; the time when kubectl had done it. */
  async label(namespace: string, isMeshed: boolean): Promise<number> {
    await this.cluster.kubectl(['label', 'namespace', namespace, `weft.dev/mesh${isMeshed ? '=enabled' : '-'}`])
    return Date.now()
  }

  /** Name of the agent's pod on a node: the one that serves. */
  async agentOn(node: string): Promise<string> {
    const { items } = await this.cluster.get<{ items: { metadata: { name: string; deletionTimestamp?: string } }[] }>(
      ...['pods', '-n', NAMESPACE, '-l', 'app.kubernetes.io/component=agent'],
      `--field-selector=spec.nodeName=${node}`,
    )
    const found = items.find(({ metadata }) => metadata.deletionTimestamp === undefined)
    if (found === undefined) throw new Error(`no agent runs on ${node}`)
    return found.metadata.name
  }

  /** What Prometheus would be told by the agent of a node. */
  async metrics(node: string): Promise<PrometheusText> {
    const path = `/api/v1/namespaces/${NAMESPACE}/pods/${await this.agentOn(node)}:15020/proxy/metrics`
    return new PrometheusText(await this.cluster.kubectl(['get', '--raw', path]))
  }

  /** Waits until the agent of a node counts something of this name and these labels; the first such sample. */
  async counted(node: string, name: string, labels: Readonly<Record<string, string>>): Promise<Sample> {
    const deadline = performance.now() + AWAIT_MS_MAX
    for (;;) {
      const found = (await this.metrics(node)).find(name, labels).find(({ value }) => value > 0)
      if (found !== undefined) return found
      if (performance.now() > deadline) throw new Error(`${node} counts no ${name} ${JSON.stringify(labels)}`)
      await delay(100)
    }
  }

  /** Waits until as many pods of a node are enrolled. */
  async enrolled(node: string, count: number): Promise<void> {
    const deadline = performance.now() + AWAIT_MS_MAX
    for (;;) {
      const value = (await this.metrics(node)).value('weft_enrolled_pods')
      if (value === count) return
      if (performance.now() > deadline) throw new Error(`${node} has ${value} enrolled pods, not ${count}`)
      await delay(100)
    }
  }
}

function imageValues(): readonly string[] {
  const split = WEFT_IMAGE_NAME.lastIndexOf(':')
  const [repository, tag] = [WEFT_IMAGE_NAME.slice(0, split), WEFT_IMAGE_NAME.slice(split + 1)]
  return ['--set', `image.repository=${repository}`, '--set', `image.tag=${tag}`]
}
