/** SPIFFE identities: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`. */

export interface Identity {
  readonly trustDomain: string
  readonly namespace: string
  readonly serviceAccount: string
}

const SCHEME = 'spiffe://'

/** The URI of an identity, the form in which the mesh compares identities everywhere. */
export function formatIdentity(trustDomain: string, namespace: string, serviceAccount: string): string {
  return `${SCHEME}${trustDomain}/ns/${namespace}/sa/${serviceAccount}`
}

/** Parses the URI; null unless it has exactly the five pieces and none is empty. */
export function parseIdentity(uri: string): Identity | null {
  if (!uri.startsWith(SCHEME)) return null
  const pieces = uri.slice(SCHEME.length).split('/')
  if (pieces.length !== 5 || pieces[1] !== 'ns' || pieces[3] !== 'sa') return null
  const [trustDomain, , namespace, , serviceAccount] = pieces as [string, string, string, string, string]
  if (trustDomain === '' || namespace === '' || serviceAccount === '') return null
  return { trustDomain, namespace, serviceAccount }
}

/** The identity as policies write it: the URI without its scheme (`cluster.local/ns/x/sa/y`). */
export function principalOf(identity: string): string {
  return identity.startsWith(SCHEME) ? identity.slice(SCHEME.length) : identity
}

/** Identity of an agent, which is a node and no workload: `spiffe://<trust domain>/node/<name>`. */
export function formatNodeIdentity(trustDomain: string, node: string): string {
  return `${SCHEME}${trustDomain}/node/${node}`
}

/** Node name of an agent's identity in `trustDomain`; null when it is none. */
export function parseNodeIdentity(uri: string, trustDomain: string): string | null {
  const prefix = `${SCHEME}${trustDomain}/node/`
  if (!uri.startsWith(prefix)) return null
  const node = uri.slice(prefix.length)
  return node === '' || node.includes('/') ? null : node
}

/**
 * Identity of the controller: `spiffe://<trust domain>/controller`. No workload and no node can have it, so that a
 * stolen workload certificate never makes anyone the controller.
 */
export function formatControllerIdentity(trustDomain: string): string {
  return `${SCHEME}${trustDomain}/controller`
}
