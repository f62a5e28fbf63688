/**
 * The validating webhook: for the kinds of the mesh alone, and for nothing that is deleted, so that it can never be in the
 * way of the cluster or of its own removal. The controller writes `caBundle`; nobody else owns that field.
 */
import type { KubernetesObject } from '../../kubernetes/object.ts'
import { MESH_GROUPS } from './mesh-kinds.ts'
import { CONTROLLER, labelsOf, PORT_WEBHOOK_SERVICE } from './names.ts'
import type { InstallPlan } from './plan.ts'

export function controllerWebhook(plan: InstallPlan): KubernetesObject {
  const { failurePolicy, timeoutSeconds } = plan.values.webhook
  return {
    apiVersion: 'admissionregistration.k8s.io/v1',
    kind: 'ValidatingWebhookConfiguration',
    metadata: { name: CONTROLLER, labels: labelsOf('controller', plan.version) },
    webhooks: [
      {
        name: 'validate.weft.dev',
        admissionReviewVersions: ['v1'],
        sideEffects: 'None',
        matchPolicy: 'Equivalent',
        failurePolicy,
        timeoutSeconds,
        clientConfig: {
          service: { name: CONTROLLER, namespace: plan.namespace, path: '/validate', port: PORT_WEBHOOK_SERVICE },
        },
        // Whatever becomes of the mesh, it can be repaired from here.
        namespaceSelector: {
          matchExpressions: [
            {
              key: 'kubernetes.io/metadata.name',
              operator: 'NotIn',
              values: ['kube-system', plan.namespace],
            },
          ],
        },
        rules: MESH_GROUPS.map(({ group, resources }) => ({
          apiGroups: [group],
          apiVersions: ['*'],
          operations: ['CREATE', 'UPDATE'],
          resources,
          scope: 'Namespaced',
        })),
      },
    ],
  }
}
