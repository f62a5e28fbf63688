/** Where the API server is by its own word: the endpoints of the Service `kubernetes`, when that is how we reach it. */
import { isTree, type MeshObject, own } from '../compiler/object.ts'
import type { DirectAddress } from '../kubernetes/direct-address.ts'

/** Namespace and name of the API server's Service, and of its EndpointSlice. */
export const API_SERVICE = 'default/kubernetes'

/** Empty when `server`, a URL, is not the Service's address: whoever is configured otherwise is reached that way alone. */
export function apiServerAddresses(
  server: string,
  service: MeshObject | undefined,
  slice: MeshObject | undefined,
): readonly DirectAddress[] {
  const host = new URL(server).hostname.replace(/^\[(.*)\]$/, '$1')
  const spec = isTree(service?.raw) ? own(service.raw, 'spec') : undefined
  const addresses = isTree(spec) ? [own(spec, 'clusterIP'), ...listOf(own(spec, 'clusterIPs'))] : []
  if (!addresses.includes(host) || !isTree(slice?.raw)) return []
  const port = listOf(own(slice.raw, 'ports'))
    .map((one) => (isTree(one) ? own(one, 'port') : undefined))
    .find((one) => typeof one === 'number')
  if (typeof port !== 'number') return []
  return listOf(own(slice.raw, 'endpoints'))
    .flatMap((endpoint) => (isTree(endpoint) ? listOf(own(endpoint, 'addresses')) : []))
    .filter((address) => typeof address === 'string')
    .map((address) => ({ address, port }))
}

function listOf(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : []
}
