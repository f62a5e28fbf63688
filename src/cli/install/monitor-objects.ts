/** PodMonitors: how the Prometheus operator finds agents and controllers. */
import type { KubernetesObject } from '../../kubernetes/object.ts'
import { AGENT, CONTROLLER, labelsOf, selectorOf } from './names.ts'
import type { InstallPlan } from './plan.ts'

export function podMonitors(plan: InstallPlan): readonly KubernetesObject[] {
  const { podMonitorInterval, podMonitorLabels } = plan.values.monitoring
  const programs = [
    { name: AGENT, component: 'agent' },
    { name: CONTROLLER, component: 'controller' },
  ]
  return programs.map(({ name, component }) => ({
    apiVersion: 'monitoring.coreos.com/v1',
    kind: 'PodMonitor',
    metadata: {
      name,
      namespace: plan.namespace,
      labels: { ...labelsOf(component, plan.version), ...podMonitorLabels },
    },
    spec: {
      selector: { matchLabels: selectorOf(component) },
      podMetricsEndpoints: [{ port: 'http-metrics', path: '/metrics', interval: podMonitorInterval }],
    },
  }))
}
