/**
 * All objects of an installation but the CRDs, in the order in which they are made: what others need comes first, the
 * webhook's configuration too, because the controller writes its certificate there when it starts. Pure: values in, objects out. The chart in deploy/helm/weft says the same in
 * Helm's language; test/cluster/chart.test.ts renders both and compares.
 */
import type { KubernetesObject } from '../../kubernetes/object.ts'
import { agentDaemonSet, agentServiceAccount } from './agent-objects.ts'
import {
  controllerDeployment,
  controllerDisruptionBudget,
  controllerService,
  controllerServiceAccount,
} from './controller-objects.ts'
import { podMonitors } from './monitor-objects.ts'
import { labelsOf } from './names.ts'
import type { InstallPlan } from './plan.ts'
import { agentAccess, controllerAccess } from './rbac-objects.ts'
import { controllerWebhook } from './webhook-objects.ts'

/** See the head of the file. */
export function installObjects(plan: InstallPlan): readonly KubernetesObject[] {
  const { values } = plan
  return [
    ...(values.namespace.create ? [systemNamespace(plan)] : []),
    controllerServiceAccount(plan),
    agentServiceAccount(plan),
    ...controllerAccess(plan),
    ...agentAccess(plan),
    controllerService(plan),
    controllerDisruptionBudget(plan),
    ...(values.webhook.enabled ? [controllerWebhook(plan)] : []),
    controllerDeployment(plan),
    agentDaemonSet(plan),
    ...(values.monitoring.podMonitor ? podMonitors(plan) : []),
  ]
}

/**
 * Agents mount directories of the node, which Pod Security admission knows as "privileged" only; who may make pods here
 * may do so as well. Never part of the mesh: a controller must be reachable without it.
 */
function systemNamespace(plan: InstallPlan): KubernetesObject {
  return {
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: {
      name: plan.namespace,
      labels: {
        ...labelsOf('namespace', plan.version),
        'weft.dev/mesh': 'disabled',
        'pod-security.kubernetes.io/enforce': 'privileged',
        'pod-security.kubernetes.io/audit': 'privileged',
        'pod-security.kubernetes.io/warn': 'privileged',
      },
    },
  }
}
