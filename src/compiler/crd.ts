/**
 * CRDs of the mesh's kinds, made from their field tables, so that what the API server takes is what the compiler reads.
 * Names are Istio's: users keep their YAML, and where Istio's own CRDs are installed these are not needed.
 */
import type { MeshKind } from './mesh-kinds.ts'
import { KEEP_UNKNOWN, type OpenApi, openApiOf } from './open-api.ts'

/** Condition by which the controller says whether an object is in force; `kubectl get` shows it. */
export const ACCEPTED_CONDITION = 'weft.dev/Accepted'

/** The CRD of a kind. `labels` are put on it. */
export function crdOf(kind: MeshKind, labels: Readonly<Record<string, string>> = {}): OpenApi {
  const { group, plural, shortNames, versions } = kind
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${plural}.${group}`, ...(Object.keys(labels).length === 0 ? {} : { labels }) },
    spec: {
      group,
      scope: 'Namespaced',
      names: {
        kind: kind.kind,
        listKind: `${kind.kind}List`,
        plural,
        singular: kind.kind.toLowerCase(),
        shortNames,
        categories: ['istio-io', `${group.split('.')[0]}-istio-io`],
      },
      versions: versions.map((name, i) => ({
        name,
        served: true,
        storage: i === 0,
        subresources: { status: {} },
        additionalPrinterColumns: columnsOf(kind),
        schema: { openAPIV3Schema: schemaOf(kind) },
      })),
    },
  }
}

function columnsOf({ columns }: MeshKind): readonly OpenApi[] {
  return [
    ...columns.map(({ name, path, description }) => ({ name, type: 'string', jsonPath: path, description })),
    {
      name: 'Accepted',
      type: 'string',
      jsonPath: `.status.conditions[?(@.type=="${ACCEPTED_CONDITION}")].status`,
      description: 'Whether the mesh follows the object as it is written.',
    },
    {
      name: 'Age',
      type: 'date',
      jsonPath: '.metadata.creationTimestamp',
      description: 'Since when the object exists.',
    },
  ]
}

function schemaOf({ description, spec, rules, isSpecRequired }: MeshKind): OpenApi {
  return {
    type: 'object',
    description,
    ...(isSpecRequired ? { required: ['spec'] } : {}),
    properties: {
      spec: {
        ...openApiOf(spec.form),
        ...(rules.length === 0 ? {} : { 'x-kubernetes-validations': rules }),
      },
      // Others write conditions of their own kinds here.
      status: { type: 'object', [KEEP_UNKNOWN]: true },
    },
    // A misspelled "spec" would otherwise make an object that says nothing, and a policy that allows nothing.
    [KEEP_UNKNOWN]: true,
  }
}
