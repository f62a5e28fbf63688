/**
 * The agent in the cluster: a DaemonSet whose pods take over from one another.
 *
 * An update starts the new agent beside the old one (maxSurge), the two share /var/lib/weft/agent and the pins of the
 * node, and the new one is ready once it has taken over; only then is the old pod told to end, and its connections have
 * until the end of its grace period. Each pod has a network of its own, so that readiness is that of the pod which is asked.
 */
import type { KubernetesObject } from '../../kubernetes/object.ts'
import {
  AGENT,
  CONTROLLER,
  labelsOf,
  PORT_AGENT_METRICS,
  PORT_AGENT_READINESS,
  PORT_CONTROL,
  selectorOf,
  TOKEN_AUDIENCE,
  TOKEN_DIRECTORY,
  TOKEN_SECONDS,
  TRUST_CONFIG_MAP,
  TRUST_FILE,
} from './names.ts'
import { filled, type InstallPlan, imageOf, pullSecretsOf, scrapeAnnotations } from './plan.ts'

const COMPONENT = 'agent'

/** Where the agent finds the directories of the node's container runtime. */
const CNI_BINARIES = '/host/cni/bin'
const CNI_CONFIGURATION = '/host/cni/net.d'

/** What an agent needs beyond the longest drain: to write its state down and to end. */
const END_SECONDS = 30

/**
 * Capabilities, each with what fails without it. All others are dropped, and `privileged` is not needed.
 */
export const AGENT_CAPABILITIES: readonly (readonly [name: string, reason: string])[] = [
  ['NET_ADMIN', 'attaches programs to cgroups and networks, sets routes and rules in pods, opens transparent sockets'],
  ['SYS_ADMIN', 'enters the network namespaces of pods (setns), which no other allows; includes BPF and PERFMON'],
  ['SYS_PTRACE', 'opens /proc/PID/ns/net of pods that run as other users'],
]

export function agentServiceAccount(plan: InstallPlan): KubernetesObject {
  return {
    apiVersion: 'v1',
    kind: 'ServiceAccount',
    metadata: { name: AGENT, namespace: plan.namespace, labels: labelsOf(COMPONENT, plan.version) },
    automountServiceAccountToken: false,
  }
}

export function agentDaemonSet(plan: InstallPlan): KubernetesObject {
  const { values, namespace, version } = plan
  const { agent } = values
  return {
    apiVersion: 'apps/v1',
    kind: 'DaemonSet',
    metadata: { name: AGENT, namespace, labels: labelsOf(COMPONENT, version) },
    spec: {
      selector: { matchLabels: selectorOf(COMPONENT) },
      updateStrategy: {
        type: 'RollingUpdate',
        rollingUpdate: { maxSurge: surgeOf(agent.maxSurge), maxUnavailable: 0 },
      },
      template: {
        metadata: {
          labels: { ...labelsOf(COMPONENT, version), ...agent.podLabels },
          ...filled('annotations', { ...scrapeAnnotations(plan, PORT_AGENT_METRICS), ...agent.podAnnotations }),
        },
        spec: podSpec(plan),
      },
    },
  }
}

function podSpec(plan: InstallPlan): Readonly<Record<string, unknown>> {
  const { agent } = plan.values
  const { paths } = agent
  return {
    serviceAccountName: AGENT,
    // For the API server, which is asked for the mesh's roots and nothing else.
    automountServiceAccountToken: true,
    // Variables of Services would be taken for settings: WEFT_CONTROLLER_PORT.
    enableServiceLinks: false,
    ...pullSecretsOf(plan),
    priorityClassName: 'system-node-critical',
    // To find the network namespaces of pods that run already.
    hostPID: true,
    terminationGracePeriodSeconds: Math.max(agent.drainSeconds, agent.handoverDrainSeconds) + END_SECONDS,
    ...filled('nodeSelector', agent.nodeSelector),
    ...filled('tolerations', agent.tolerations),
    securityContext: { seccompProfile: { type: 'RuntimeDefault' } },
    containers: [
      {
        name: 'agent',
        image: imageOf(plan),
        imagePullPolicy: plan.values.image.pullPolicy,
        args: agentArgs(plan),
        env: [{ name: 'NODE_NAME', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } }],
        ports: [
          { name: 'http-metrics', containerPort: PORT_AGENT_METRICS, protocol: 'TCP' },
          { name: 'http-ready', containerPort: PORT_AGENT_READINESS, protocol: 'TCP' },
        ],
        // Five minutes: an agent that takes over waits until every pod of the node is enrolled.
        startupProbe: probe('/healthz/live', { periodSeconds: 2, failureThreshold: 150 }),
        // A minute: whoever restarts an agent cuts what it carries.
        livenessProbe: probe('/healthz/live', { periodSeconds: 10, failureThreshold: 6 }),
        readinessProbe: probe('/healthz/ready', { periodSeconds: 2, failureThreshold: 3 }),
        ...filled('resources', agent.resources),
        securityContext: {
          privileged: false,
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          runAsUser: 0,
          runAsGroup: 0,
          // AppArmor's profile for containers forbids looking into other containers' namespaces.
          appArmorProfile: { type: 'Unconfined' },
          capabilities: { drop: ['ALL'], add: AGENT_CAPABILITIES.map(([name]) => name) },
        },
        volumeMounts: [
          { name: 'credentials', mountPath: TOKEN_DIRECTORY, readOnly: true },
          { name: 'state', mountPath: paths.state },
          { name: 'run', mountPath: paths.run },
          { name: 'bpf', mountPath: '/sys/fs/bpf' },
          { name: 'cgroup', mountPath: '/sys/fs/cgroup', readOnly: true },
          { name: 'netns', mountPath: '/run/netns', mountPropagation: 'HostToContainer' },
          ...(agent.cni
            ? [
                { name: 'cni-binaries', mountPath: CNI_BINARIES },
                { name: 'cni-configuration', mountPath: CNI_CONFIGURATION },
              ]
            : []),
          { name: 'tmp', mountPath: '/tmp' },
        ],
      },
    ],
    volumes: [
      {
        name: 'credentials',
        projected: {
          sources: [
            { serviceAccountToken: { path: 'token', audience: TOKEN_AUDIENCE, expirationSeconds: TOKEN_SECONDS } },
            // The controller makes it, and agents watch it: the kubelet looks once a minute. For those that cannot.
            { configMap: { name: TRUST_CONFIG_MAP, optional: true, items: [{ key: TRUST_FILE, path: TRUST_FILE }] } },
          ],
        },
      },
      hostPath('state', paths.state, 'DirectoryOrCreate'),
      hostPath('run', paths.run, 'DirectoryOrCreate'),
      hostPath('bpf', '/sys/fs/bpf', 'Directory'),
      hostPath('cgroup', '/sys/fs/cgroup', 'Directory'),
      hostPath('netns', '/run/netns', 'DirectoryOrCreate'),
      ...(agent.cni
        ? [
            hostPath('cni-binaries', paths.cniBinaries, 'DirectoryOrCreate'),
            hostPath('cni-configuration', paths.cniConfiguration, 'DirectoryOrCreate'),
          ]
        : []),
      { name: 'tmp', emptyDir: {} },
    ],
  }
}

function agentArgs(plan: InstallPlan): readonly string[] {
  const { values, namespace } = plan
  const { agent, mesh } = values
  return [
    'agent',
    '--kubernetes',
    // Kubernetes starts again whatever ends: an agent that has handed over waits until its pod is deleted.
    '--when-retired=wait',
    // In full: resolvers of programs know no search domains.
    `--controller=${CONTROLLER}.${namespace}.svc.${mesh.clusterDomain}:${PORT_CONTROL}`,
    `--trust-domain=${mesh.trustDomain}`,
    `--state=${agent.paths.state}`,
    `--metrics=[::]:${PORT_AGENT_METRICS}`,
    `--readiness=[::]:${PORT_AGENT_READINESS}`,
    // Of the node's first process: the pod has a network of its own.
    '--node-netns=/proc/1/ns/net',
    ...(agent.cni
      ? [
          `--cni-conf-directory=${CNI_CONFIGURATION}`,
          `--cni-bin-directory=${CNI_BINARIES}`,
          `--cni-socket=${agent.paths.run}/cni.sock`,
        ]
      : []),
    `--dns-capture=${agent.dnsCapture ? 'on' : 'off'}`,
    `--drain=${agent.drainSeconds}s`,
    `--handover-drain=${agent.handoverDrainSeconds}s`,
    ...(agent.workers === 0 ? [] : [`--workers=${agent.workers}`]),
    ...(agent.accessLog ? ['--access-log'] : []),
    `--log-level=${agent.logLevel}`,
    ...agent.extraArgs,
  ]
}

function probe(path: string, times: Readonly<Record<string, number>>): Readonly<Record<string, unknown>> {
  return { httpGet: { path, port: 'http-ready' }, timeoutSeconds: 5, ...times }
}

function hostPath(name: string, path: string, type: string): Readonly<Record<string, unknown>> {
  return { name, hostPath: { path, type } }
}

/** A share is a text, a number of nodes a number. */
function surgeOf(text: string): number | string {
  return text.endsWith('%') ? text : Number(text)
}
