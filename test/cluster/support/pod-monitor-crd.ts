/**
 * The CRD of PodMonitors as the Prometheus operator publishes it in its Go module, fetched once into
 * ~/.cache/weft-cluster: what our PodMonitors are judged by. Where it cannot be fetched, one of ours with the fields that
 * we write takes its place, so that everything else goes on.
 */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { parse } from 'yaml'
import type { Cluster } from './cluster.ts'
import { CACHE_DIRECTORY } from './cluster-files.ts'

const run = promisify(execFile)

const MODULE = join(import.meta.dirname, '../pod-monitor')
const OPERATOR = 'github.com/prometheus-operator/prometheus-operator'
const FILE = 'example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml'
/** Some megabytes, from a proxy nearby or one that is far away. */
const DOWNLOAD_MS_MAX = 300_000

/** Installs it, and waits until it is served. */
export async function podMonitorCrd(cluster: Cluster): Promise<void> {
  const crd = await crdText().then(
    (text) => parse(text) as object,
    (error: Error) => {
      console.error(`weft: the CRD of PodMonitors could not be fetched, one of ours is used: ${error.message}`)
      return substitute()
    },
  )
  await cluster.apply(crd)
  await cluster.kubectl([
    'wait',
    '--for=condition=Established',
    '--timeout=60s',
    'crd/podmonitors.monitoring.coreos.com',
  ])
}

async function crdText(): Promise<string> {
  const version = new RegExp(`${OPERATOR} (v[0-9.]+)`).exec(readFileSync(join(MODULE, 'go.mod'), 'utf8'))![1]!
  const path = join(CACHE_DIRECTORY, `podmonitors-${version}.yaml`)
  if (!existsSync(path)) {
    const { stdout } = await run('go', ['mod', 'download', '-json', OPERATOR], {
      cwd: MODULE,
      timeout: DOWNLOAD_MS_MAX,
    })
    const { Dir } = JSON.parse(stdout) as { Dir: string }
    mkdirSync(CACHE_DIRECTORY, { recursive: true })
    // Beside its place first: what is there is whole.
    const unfinished = `${path}.${process.pid}`
    writeFileSync(unfinished, readFileSync(join(Dir, FILE)))
    renameSync(unfinished, path)
  }
  return readFileSync(path, 'utf8')
}

function substitute(): object {
  const text = { type: 'string' }
  const texts = { type: 'object', additionalProperties: text }
  const endpoint = { type: 'object', properties: { port: text, path: text, interval: text } }
  const spec = {
    type: 'object',
    required: ['selector', 'podMetricsEndpoints'],
    properties: {
      selector: { type: 'object', properties: { matchLabels: texts } },
      podMetricsEndpoints: { type: 'array', items: endpoint },
    },
  }
  const schema = { openAPIV3Schema: { type: 'object', required: ['spec'], properties: { spec } } }
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: 'podmonitors.monitoring.coreos.com' },
    spec: {
      group: 'monitoring.coreos.com',
      names: { kind: 'PodMonitor', listKind: 'PodMonitorList', plural: 'podmonitors', singular: 'podmonitor' },
      scope: 'Namespaced',
      versions: [{ name: 'v1', served: true, storage: true, schema }],
    },
  }
}
