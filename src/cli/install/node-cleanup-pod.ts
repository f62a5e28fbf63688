/**
 * The pod that removes an agent's traces from one node: as the agent's own pod, but with the node's root directory, so that
 * directories that were made for the agent can go as well, and without anything that needs the controller.
 */
import type { KubernetesObject } from '../../kubernetes/object.ts'

export const CLEANUP_COMPONENT = 'node-cleanup'

/** Where the root directory of the node is mounted. */
const HOST = '/host'

/** Longest life of the pod. Removing programs and routes of hundreds of pods takes seconds; pulling an image may not. */
const DEADLINE_SECONDS = 300

interface Container {
  readonly name: string
  readonly image: string
  readonly args?: readonly string[]
  readonly volumeMounts?: readonly { readonly name: string; readonly mountPath: string }[]
  readonly [field: string]: unknown
}

interface Volume {
  readonly name: string
  readonly hostPath?: { readonly path: string }
  readonly [field: string]: unknown
}

interface PodSpec {
  readonly containers: readonly Container[]
  readonly volumes?: readonly Volume[]
  readonly [field: string]: unknown
}

/** Volumes of the agent that its traces are in, or by which it reaches the kernel's. */
const KERNEL_VOLUMES: ReadonlySet<string> = new Set(['bpf', 'cgroup', 'netns', 'tmp'])

/** Flags of the agent that name directories and files in which its traces are. */
const PATH_FLAGS: ReadonlySet<string> = new Set(['state', 'cni-conf-directory', 'cni-bin-directory', 'cni-socket'])

/** For one node, by the DaemonSet as it is in the cluster: its image, its permissions, its paths. */
export function nodeCleanupPod(agents: KubernetesObject, node: string, name: string): KubernetesObject {
  const template = (agents['spec'] as { template: { spec: PodSpec } }).template.spec
  const [container] = template.containers as readonly [Container]
  const { namespace } = agents.metadata
  const { enableServiceLinks, hostPID, imagePullSecrets, priorityClassName } = template
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name,
      namespace: namespace!,
      labels: {
        'app.kubernetes.io/name': 'weft',
        'app.kubernetes.io/part-of': 'weft',
        'app.kubernetes.io/component': CLEANUP_COMPONENT,
      },
    },
    spec: {
      // Given, not scheduled: also to nodes that take no new pods.
      nodeName: node,
      tolerations: [{ operator: 'Exists' }],
      restartPolicy: 'Never',
      activeDeadlineSeconds: DEADLINE_SECONDS,
      terminationGracePeriodSeconds: 1,
      serviceAccountName: template['serviceAccountName'],
      ...(imagePullSecrets === undefined ? {} : { imagePullSecrets }),
      automountServiceAccountToken: false,
      enableServiceLinks,
      hostPID,
      priorityClassName,
      securityContext: template['securityContext'],
      containers: [
        {
          name: 'cleanup',
          image: container.image,
          imagePullPolicy: container['imagePullPolicy'],
          args: cleanupArgs(container, template.volumes ?? []),
          env: container['env'],
          // What was removed, and what could not be, for whoever waits.
          terminationMessagePolicy: 'FallbackToLogsOnError',
          securityContext: container['securityContext'],
          volumeMounts: [
            ...(container.volumeMounts ?? []).filter((mount) => KERNEL_VOLUMES.has(mount.name)),
            { name: 'host', mountPath: HOST, mountPropagation: 'HostToContainer' },
          ],
        },
      ],
      volumes: [
        ...(template.volumes ?? []).filter((volume) => KERNEL_VOLUMES.has(volume.name)),
        { name: 'host', hostPath: { path: '/', type: 'Directory' } },
      ],
    },
  }
}

/** The agent's own flags, as far as they say where its traces are, with the node's root directory before them. */
function cleanupArgs({ args = [], volumeMounts = [] }: Container, volumes: readonly Volume[]): readonly string[] {
  const directories = volumeMounts.flatMap(({ name, mountPath }) => {
    const path = volumes.find((volume) => volume.name === name)?.hostPath?.path
    return path === undefined ? [] : [[mountPath, path] as const]
  })
  const paths = args.flatMap((arg) => {
    const [, flag = '', path = ''] = /^--([a-z-]+)=(\/.*)$/.exec(arg) ?? []
    if (!PATH_FLAGS.has(flag)) return []
    const found = directories.find(([inside]) => path === inside || path.startsWith(`${inside}/`))
    return found === undefined ? [] : [`--${flag}=${HOST}${found[1]}${path.slice(found[0].length)}`]
  })
  return ['agent', '--cleanup', '--kubernetes', ...paths]
}
