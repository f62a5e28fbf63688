/** What the user of the kubeconfig may do, asked of the API server before anything is changed. */
import { WeftError } from '../../base/errors.ts'
import type { KubernetesApi } from '../../kubernetes/api.ts'
import { nameOfType, type ResourceType } from '../../kubernetes/object.ts'

/** One verb on one resource; namespace null asks for the whole cluster. */
export interface Access {
  readonly type: ResourceType
  readonly verb: string
  readonly namespace: string | null
  /** Such as `portforward`. */
  readonly subresource?: string
}

const PATH = '/apis/authorization.k8s.io/v1/selfsubjectaccessreviews'

/** Questions at a time: the API server answers each in a millisecond. */
const QUESTIONS_AT_ONCE = 8

/** Those that are denied, in the order of the question. */
export async function deniedAccess(api: KubernetesApi, wanted: readonly Access[]): Promise<readonly Access[]> {
  const unique = [...new Map(wanted.map((access) => [accessText(access), access])).values()]
  const denied = new Set<Access>()
  for (let i = 0; i < unique.length; i += QUESTIONS_AT_ONCE) {
    const answers = unique.slice(i, i + QUESTIONS_AT_ONCE).map(async (access) => {
      if (!(await isAllowed(api, access))) denied.add(access)
    })
    await Promise.all(answers)
  }
  return unique.filter((access) => denied.has(access))
}

/** Rejects with WEFT_KUBERNETES naming everything that is not allowed. `what` is what cannot be done without. */
export async function demandAccess(api: KubernetesApi, wanted: readonly Access[], what: string): Promise<void> {
  const denied = await deniedAccess(api, wanted)
  if (denied.length === 0) return
  const list = denied.map((access) => `\n  ${accessText(access)}`).join('')
  const text = `the user of context "${api.connection.context}" may not do what ${what} needs; nothing was changed. Missing:${list}`
  throw new WeftError('WEFT_KUBERNETES', text)
}

/** `create daemonsets.apps in weft-system`. */
export function accessText({ type, verb, namespace, subresource }: Access): string {
  const resource = `${nameOfType(type)}${subresource === undefined ? '' : `/${subresource}`}`
  return `${verb} ${resource}${namespace === null ? '' : ` in ${namespace}`}`
}

async function isAllowed(api: KubernetesApi, { type, verb, namespace, subresource }: Access): Promise<boolean> {
  const review = {
    apiVersion: 'authorization.k8s.io/v1',
    kind: 'SelfSubjectAccessReview',
    spec: {
      resourceAttributes: {
        group: type.group,
        resource: type.plural,
        verb,
        ...(namespace === null ? {} : { namespace }),
        ...(subresource === undefined ? {} : { subresource }),
      },
    },
  }
  const answer = (await api.request('POST', PATH, review)) as { readonly status?: { readonly allowed?: boolean } }
  return answer.status?.allowed === true
}
