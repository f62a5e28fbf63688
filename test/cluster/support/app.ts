/** The test application (test/cluster/app) as objects of Kubernetes, and its clients run in pods. */
import type { Cluster } from './cluster.ts'
import { APP_IMAGE_NAME } from './images.ts'

export const HTTP_PORT = 8080
export const ECHO_PORT = 9000
export const SERVER_FIRST_PORT = 9001

/** What `get` prints for a response of the test application's HTTP server. */
export interface Answer {
  readonly pod: string
  readonly version: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  /** The address that the server saw. */
  readonly peer: string
}

export interface ServerOptions {
  readonly name: string
  readonly namespace?: string
  readonly version?: string
  readonly replicas?: number
  /** Pods run there only; anywhere unless told. */
  readonly node?: string
}

/** A Deployment and its Service: HTTP at 80, an echo at 9000, a server that speaks first at 9001. */
export function server(options: ServerOptions): readonly object[] {
  const { name, namespace = 'default', version = 'v1', replicas = 1, node } = options
  const labels = { app: name, version }
  const ports = [
    ['http', 80, HTTP_PORT],
    ['tcp-echo', ECHO_PORT, ECHO_PORT],
    ['tcp-first', SERVER_FIRST_PORT, SERVER_FIRST_PORT],
  ] as const
  const container = {
    name: 'server',
    image: APP_IMAGE_NAME,
    args: [
      'serve',
      '--version',
      version,
      ...['--http', '--tcp', '--server-first'].flatMap((f, i) => [f, `${ports[i]![2]}`]),
    ],
    ports: ports.map(([portName, , containerPort]) => ({ name: portName, containerPort })),
    readinessProbe: { httpGet: { path: '/ready', port: HTTP_PORT }, periodSeconds: 1 },
  }
  const template = { metadata: { labels }, spec: { ...placement(node), containers: [container] } }
  return [
    {
      apiVersion: 'apps/v1',
      kind: 'Deployment',
      metadata: { name, namespace },
      spec: { replicas, selector: { matchLabels: labels }, template },
    },
    {
      apiVersion: 'v1',
      kind: 'Service',
      metadata: { name, namespace },
      spec: {
        ipFamilyPolicy: 'PreferDualStack',
        selector: { app: name },
        ports: ports.map(([portName, port, targetPort]) => ({ name: portName, port, targetPort })),
      },
    },
  ]
}

/** A pod in which a client of the test application runs once, and ends: its log is what it printed. */
export function oncePod(name: string, namespace: string, ...args: readonly string[]): object {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace, labels: { app: name } },
    spec: {
      ...placement(undefined),
      restartPolicy: 'Never',
      containers: [{ name: 'client', image: APP_IMAGE_NAME, args }],
    },
  }
}

/** A pod that does nothing but let clients be run in it. */
export function clientPod(name: string, node?: string, namespace = 'default'): object {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace, labels: { app: name } },
    spec: { ...placement(node), containers: [{ name: 'client', image: APP_IMAGE_NAME, args: ['wait'] }] },
  }
}

function placement(node: string | undefined): object {
  const spec = { terminationGracePeriodSeconds: 1 }
  return node === undefined ? spec : { ...spec, nodeSelector: { 'kubernetes.io/hostname': node } }
}

/** Waits until pods are ready that `kubectl wait` finds by these arguments: `pod/client`, `-l`, `app=web`. */
export async function podsReady(cluster: Cluster, ...selection: readonly string[]): Promise<void> {
  await cluster.kubectl(['wait', '--for=condition=Ready', '--timeout=90s', ...selection])
}

export async function rolledOut(cluster: Cluster, deployment: string, namespace = 'default'): Promise<void> {
  await cluster.kubectl(['rollout', 'status', `deployment/${deployment}`, '-n', namespace, '--timeout=90s'])
}

/** Runs a client of the test application in a pod; resolves to what it printed. */
export async function runInPod(cluster: Cluster, pod: string, ...args: readonly string[]): Promise<string> {
  const [name, namespace = 'default'] = pod.split('.')
  const command = ['exec', '-n', namespace, name!, '--', '/usr/bin/node', '/app/main.ts', ...args]
  return (await cluster.kubectl(command)).trim()
}

/** Answers to GET requests that a pod sends one after the other; throws at the first that is not a 200. */
export async function getFrom(
  cluster: Cluster,
  pod: string,
  url: string,
  ...args: readonly string[]
): Promise<readonly Answer[]> {
  const output = await runInPod(cluster, pod, 'get', url, ...args)
  return output.split('\n').map((line) => {
    const response = JSON.parse(line) as { status?: number; body?: string; error?: string }
    if (response.status !== 200) throw new Error(`${pod} got no answer from ${url}: ${line}`)
    return JSON.parse(response.body!) as Answer
  })
}
