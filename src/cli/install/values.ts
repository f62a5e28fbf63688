/**
 * The values of an installation: what a user may choose, with defaults that fit most clusters. The chart's values.yaml and
 * values.schema.json are printed from this table (values-text.ts), so that Helm and `weft install` take the same.
 */
import {
  choiceValue,
  type GivenValues,
  kubernetesValue,
  numberValue,
  resolveValues,
  switchValue,
  textListValue,
  textMapValue,
  textValue,
  type ValuesOf,
  valueGroup,
} from './value-rows.ts'

/** A DNS name. */
const DNS_NAME = /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/
/** An absolute path on a node. */
const HOST_PATH = /^\/[^ ]*$/
/** A time as flags take it. */
const PERIOD = /^[0-9]+(ms|s|m|h)$/

const HOUR_SECONDS = 3600
const DAY_SECONDS = 24 * HOUR_SECONDS

/** Of both programs. */
const logLevel = choiceValue(['error', 'warn', 'info', 'debug'], 'info', 'What is logged.')

export const INSTALL_VALUES = {
  image: valueGroup('The image of agent and controller.', {
    repository: textValue('weft', 'Where the image is, without its tag.', /^[^ ]+$/),
    tag: textValue('', 'Its tag. Empty: the version of the chart.'),
    digest: textValue('', 'Its digest, instead of the tag: sha256:...', /^(sha256:[0-9a-f]{64})?$/),
    pullPolicy: choiceValue(['Always', 'IfNotPresent', 'Never'], 'IfNotPresent', 'When it is pulled.'),
    pullSecrets: textListValue([], 'Names of Secrets with which it is pulled.'),
  }),

  namespace: valueGroup('The namespace that everything is installed in.', {
    create: switchValue(
      false,
      'Render it, with labels for Pod Security admission. Helm cannot install into a namespace that it makes itself: there use --create-namespace, and label it by hand. "weft install" makes it.',
    ),
  }),

  mesh: valueGroup('What holds for the whole mesh.', {
    trustDomain: textValue('cluster.local', 'Trust domain of identities.', DNS_NAME),
    clusterDomain: textValue('cluster.local', 'DNS suffix of services.', DNS_NAME),
    clusterId: textValue('Kubernetes', 'Name of the cluster in workload ids and metrics.', /^[^ ]+$/),
    rootNamespace: textValue(
      'istio-system',
      'Namespace whose policies and rules hold for the whole mesh. Nobody but operators should be able to write there.',
      DNS_NAME,
    ),
    istioLabels: switchValue(
      false,
      'Let istio.io/dataplane-mode=ambient|none count beside weft.dev/mesh. Not beside an Istio that captures the same pods.',
    ),
  }),

  controller: valueGroup('The controller: compiles, publishes, signs certificates.', {
    replicas: numberValue(2, 1, 20, 'All replicas serve agents; one of them, by a Lease, writes.'),
    certificateLifetime: textValue('24h', "Longest and default lifetime of a workload's certificate.", PERIOD),
    logLevel,
    resources: kubernetesValue(
      { requests: { cpu: '100m', memory: '256Mi' }, limits: { memory: '1Gi' } },
      'A cluster of 10,000 pods needs less than 600 MiB. No limit of CPU: a throttled controller publishes late.',
    ),
    nodeSelector: textMapValue({ 'kubernetes.io/os': 'linux' }, 'Nodes that it may run on.'),
    tolerations: kubernetesValue([] as readonly unknown[], 'Taints that it tolerates.'),
    podLabels: textMapValue({}, 'More labels of its pods.'),
    podAnnotations: textMapValue({}, 'More annotations of its pods.'),
    extraArgs: textListValue([], 'More flags; see "weft controller --help".'),
  }),

  agent: valueGroup('The agent: one per node; captures, proxies, measures.', {
    workers: numberValue(0, 0, 64, 'Data workers (threads). 0: by the cores of the node, at most four.'),
    dnsCapture: switchValue(true, 'Answer what pods ask DNS resolvers, unless weft.dev/dns-capture says otherwise.'),
    cni: switchValue(
      true,
      'Install a CNI plugin at the end of the chain of the node, so that a new pod is captured before its first process runs. Without it new pods are captured a moment after they have started.',
    ),
    accessLog: switchValue(false, 'Write one JSON line per request and connection to standard output.'),
    logLevel,
    drainSeconds: numberValue(
      30,
      0,
      HOUR_SECONDS,
      'Longest wait for open connections when an agent ends and none takes over.',
    ),
    handoverDrainSeconds: numberValue(
      600,
      0,
      DAY_SECONDS,
      'Longest wait for open connections after a newer agent has taken over. The pod of the old one stays as long, terminating.',
    ),
    maxSurge: textValue('1', 'Nodes, or a share of them, that are upgraded at a time.', /^[1-9][0-9]*%?$/),
    resources: kubernetesValue(
      { requests: { cpu: '100m', memory: '256Mi' }, limits: { memory: '1Gi' } },
      'No limit of CPU: it would throttle the connections of all pods of the node.',
    ),
    nodeSelector: textMapValue({ 'kubernetes.io/os': 'linux' }, 'Nodes that get an agent.'),
    tolerations: kubernetesValue(
      [{ operator: 'Exists' }] as readonly unknown[],
      'Taints that it tolerates; by default all, because pods that tolerate a taint need an agent as well.',
    ),
    podLabels: textMapValue({}, 'More labels of its pods.'),
    podAnnotations: textMapValue({}, 'More annotations of its pods.'),
    extraArgs: textListValue([], 'More flags; see "weft agent --help".'),
    paths: valueGroup('Directories of the nodes.', {
      state: textValue('/var/lib/weft/agent', 'State of the agent; survives it.', HOST_PATH),
      run: textValue('/run/weft', 'Sockets by which others reach the agent.', HOST_PATH),
      cniBinaries: textValue('/opt/cni/bin', 'Where the container runtime finds CNI plugins.', HOST_PATH),
      cniConfiguration: textValue('/etc/cni/net.d', 'Where it finds the CNI configuration.', HOST_PATH),
    }),
  }),

  monitoring: valueGroup('How Prometheus finds agents and controllers.', {
    annotations: switchValue(true, 'Annotate pods with prometheus.io/scrape, port and path.'),
    podMonitor: switchValue(false, 'Make PodMonitors for the Prometheus operator; its CRDs must be there.'),
    podMonitorInterval: textValue('15s', 'How often it scrapes.', PERIOD),
    podMonitorLabels: textMapValue({}, 'Labels by which the operator selects PodMonitors.'),
  }),

  webhook: valueGroup('The validating webhook for the kinds of the mesh, and for nothing else.', {
    enabled: switchValue(true, 'Tell users at once what is wrong with an object.'),
    failurePolicy: choiceValue(
      ['Ignore', 'Fail'],
      'Ignore',
      'What happens to objects of the mesh while no controller answers. With Ignore they are accepted, and checked by the controller when it is back: what is wrong then has no effect.',
    ),
    timeoutSeconds: numberValue(5, 1, 30, 'How long the API server waits.'),
  }),
}

/** What an installation is made from. */
export type InstallValues = ValuesOf<typeof INSTALL_VALUES>

/** Defaults with `given` over them. Throws UsageError with everything that is wrong. */
export function installValues(given: GivenValues = {}): InstallValues {
  return resolveValues(INSTALL_VALUES, given)
}
