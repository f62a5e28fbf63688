/** The controller in the cluster: replicas that all serve agents, spread over nodes and zones, and the Service before them. */
import type { KubernetesObject } from '../../kubernetes/object.ts'
import {
  CONTROLLER,
  labelsOf,
  PORT_CONTROL,
  PORT_CONTROLLER_HTTP,
  PORT_WEBHOOK,
  PORT_WEBHOOK_SERVICE,
  selectorOf,
} from './names.ts'
import { filled, type InstallPlan, imageOf, pullSecretsOf, scrapeAnnotations } from './plan.ts'

const COMPONENT = 'controller'

/** Nobody's user on the node. */
const UID = 65_532

/** Where a controller keeps the last good objects; gone with the pod, because the API server has them all. */
const STATE_DIRECTORY = '/var/lib/weft/controller'

/** Connections end in order: agents are told to go to another replica. */
const GRACE_SECONDS = 30

export function controllerServiceAccount(plan: InstallPlan): KubernetesObject {
  return {
    apiVersion: 'v1',
    kind: 'ServiceAccount',
    metadata: { name: CONTROLLER, namespace: plan.namespace, labels: labelsOf(COMPONENT, plan.version) },
  }
}

export function controllerService(plan: InstallPlan): KubernetesObject {
  return {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: CONTROLLER, namespace: plan.namespace, labels: labelsOf(COMPONENT, plan.version) },
    spec: {
      selector: selectorOf(COMPONENT),
      ipFamilyPolicy: 'PreferDualStack',
      ports: [
        { name: 'grpc-control', port: PORT_CONTROL, targetPort: 'grpc-control', protocol: 'TCP' },
        { name: 'https-webhook', port: PORT_WEBHOOK_SERVICE, targetPort: 'https-webhook', protocol: 'TCP' },
        { name: 'http-metrics', port: PORT_CONTROLLER_HTTP, targetPort: 'http-metrics', protocol: 'TCP' },
      ],
    },
  }
}

/** Never more than one replica away by will. Not "at least one": with one replica that would block the draining of its node. */
export function controllerDisruptionBudget(plan: InstallPlan): KubernetesObject {
  return {
    apiVersion: 'policy/v1',
    kind: 'PodDisruptionBudget',
    metadata: { name: CONTROLLER, namespace: plan.namespace, labels: labelsOf(COMPONENT, plan.version) },
    spec: { maxUnavailable: 1, selector: { matchLabels: selectorOf(COMPONENT) } },
  }
}

export function controllerDeployment(plan: InstallPlan): KubernetesObject {
  const { values, namespace, version } = plan
  const { controller } = values
  return {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name: CONTROLLER, namespace, labels: labelsOf(COMPONENT, version) },
    spec: {
      replicas: controller.replicas,
      selector: { matchLabels: selectorOf(COMPONENT) },
      strategy: { type: 'RollingUpdate', rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
      template: {
        metadata: {
          labels: { ...labelsOf(COMPONENT, version), ...controller.podLabels },
          ...filled('annotations', { ...scrapeAnnotations(plan, PORT_CONTROLLER_HTTP), ...controller.podAnnotations }),
        },
        spec: podSpec(plan),
      },
    },
  }
}

function podSpec(plan: InstallPlan): Readonly<Record<string, unknown>> {
  const { controller, image } = plan.values
  return {
    serviceAccountName: CONTROLLER,
    // Variables of Services would be taken for settings: WEFT_CONTROLLER_PORT.
    enableServiceLinks: false,
    ...pullSecretsOf(plan),
    priorityClassName: 'system-cluster-critical',
    terminationGracePeriodSeconds: GRACE_SECONDS,
    ...filled('nodeSelector', controller.nodeSelector),
    ...filled('tolerations', controller.tolerations),
    // Wishes, not demands: a cluster of one node runs all replicas on it.
    affinity: {
      podAntiAffinity: {
        preferredDuringSchedulingIgnoredDuringExecution: [
          {
            weight: 100,
            podAffinityTerm: {
              topologyKey: 'kubernetes.io/hostname',
              labelSelector: { matchLabels: selectorOf(COMPONENT) },
            },
          },
        ],
      },
    },
    topologySpreadConstraints: [
      {
        maxSkew: 1,
        topologyKey: 'topology.kubernetes.io/zone',
        whenUnsatisfiable: 'ScheduleAnyway',
        labelSelector: { matchLabels: selectorOf(COMPONENT) },
      },
    ],
    securityContext: {
      runAsNonRoot: true,
      runAsUser: UID,
      runAsGroup: UID,
      fsGroup: UID,
      seccompProfile: { type: 'RuntimeDefault' },
    },
    containers: [
      {
        name: 'controller',
        image: imageOf(plan),
        imagePullPolicy: image.pullPolicy,
        args: controllerArgs(plan),
        env: [
          { name: 'POD_NAME', valueFrom: { fieldRef: { fieldPath: 'metadata.name' } } },
          { name: 'POD_NAMESPACE', valueFrom: { fieldRef: { fieldPath: 'metadata.namespace' } } },
        ],
        ports: [
          { name: 'grpc-control', containerPort: PORT_CONTROL, protocol: 'TCP' },
          { name: 'https-webhook', containerPort: PORT_WEBHOOK, protocol: 'TCP' },
          { name: 'http-metrics', containerPort: PORT_CONTROLLER_HTTP, protocol: 'TCP' },
        ],
        // Two minutes: the first list of a large cluster.
        startupProbe: probe('/healthz/live', { periodSeconds: 2, failureThreshold: 60 }),
        livenessProbe: probe('/healthz/live', { periodSeconds: 10, failureThreshold: 3 }),
        readinessProbe: probe('/healthz/ready', { periodSeconds: 2, failureThreshold: 3 }),
        ...filled('resources', controller.resources),
        securityContext: {
          privileged: false,
          allowPrivilegeEscalation: false,
          readOnlyRootFilesystem: true,
          capabilities: { drop: ['ALL'] },
        },
        volumeMounts: [
          { name: 'state', mountPath: STATE_DIRECTORY },
          { name: 'tmp', mountPath: '/tmp' },
        ],
      },
    ],
    volumes: [
      { name: 'state', emptyDir: {} },
      { name: 'tmp', emptyDir: {} },
    ],
  }
}

function controllerArgs(plan: InstallPlan): readonly string[] {
  const { controller, mesh } = plan.values
  return [
    'controller',
    '--source=kubernetes',
    `--state=${STATE_DIRECTORY}`,
    `--listen=[::]:${PORT_CONTROL}`,
    `--admin=[::]:${PORT_CONTROLLER_HTTP}`,
    `--trust-domain=${mesh.trustDomain}`,
    `--cluster-domain=${mesh.clusterDomain}`,
    `--cluster-id=${mesh.clusterId}`,
    `--root-namespace=${mesh.rootNamespace}`,
    ...(mesh.istioLabels ? ['--istio-labels'] : []),
    `--certificate-lifetime=${controller.certificateLifetime}`,
    `--log-level=${controller.logLevel}`,
    ...controller.extraArgs,
  ]
}

function probe(path: string, times: Readonly<Record<string, number>>): Readonly<Record<string, unknown>> {
  return { httpGet: { path, port: 'http-metrics' }, timeoutSeconds: 5, ...times }
}
