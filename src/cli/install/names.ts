/** Names of an installation in the cluster. They are the same in every cluster: there is one mesh in it. */

/** Where everything is installed by default. */
export const SYSTEM_NAMESPACE = 'weft-system'

export const AGENT = 'weft-agent'
export const CONTROLLER = 'weft-controller'

/** Own root of the certificate authority: certificate, key and bundle. */
export const AUTHORITY_SECRET = 'weft-ca'
/** Which roots are trusted until when. */
export const AUTHORITY_ROOTS_SECRET = 'weft-ca-roots'
/** A root that the user brings, in the form that Istio knows. */
export const GIVEN_AUTHORITY_SECRET = 'cacerts'
/** The bundle of roots that agents trust, in every namespace of the mesh. */
export const TRUST_CONFIG_MAP = 'weft-ca-root-cert'
export const TRUST_FILE = 'root-cert.pem'
/** Of replicas: who writes. */
export const CONTROLLER_LEASE = 'weft-controller'

/** Whom an agent's token is for. */
export const TOKEN_AUDIENCE = 'weft-ca'
/** Where an agent finds token and bundle. */
export const TOKEN_DIRECTORY = '/var/run/secrets/weft'
/** How long a token is valid; kubelet renews it after four fifths. An hour: the shortest that API servers keep to. */
export const TOKEN_SECONDS = 3600

/** Ports of a controller. */
export const PORT_CONTROL = 15_012
export const PORT_WEBHOOK = 15_017
export const PORT_CONTROLLER_HTTP = 15_014
/** Port of the webhook's Service: what API servers may reach in clusters with a firewall. */
export const PORT_WEBHOOK_SERVICE = 443

/** Ports of an agent's pod. */
export const PORT_AGENT_METRICS = 15_020
export const PORT_AGENT_READINESS = 15_021
/** On loopback, for port-forwards. */
export const PORT_AGENT_ADMIN = 15_000

/** Labels of all objects; `component` is one of the two programs. */
export function labelsOf(component: string, version: string): Readonly<Record<string, string>> {
  return {
    'app.kubernetes.io/name': 'weft',
    'app.kubernetes.io/part-of': 'weft',
    'app.kubernetes.io/component': component,
    'app.kubernetes.io/version': version,
  }
}

/** What selects the pods of a program. Never changes: selectors of workloads cannot be changed. */
export function selectorOf(component: string): Readonly<Record<string, string>> {
  return { 'app.kubernetes.io/name': 'weft', 'app.kubernetes.io/component': component }
}
