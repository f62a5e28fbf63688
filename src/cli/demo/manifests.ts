/**
 * The plan as Kubernetes YAML, the form in which the controller reads it: what a cluster's API server would hold for
 * these pods. The mesh rules beside it are files of their own (deploy/demo/mesh), the same for every plan.
 */
import type { DemoNamespace, DemoPlan, DemoPod, DemoService } from './plan.ts'

/** File name and text of each generated file. */
export function manifests(plan: DemoPlan): ReadonlyMap<string, string> {
  return new Map([
    ['namespaces.yaml', joinDocuments(plan.namespaces.map(namespaceYaml))],
    ['pods.yaml', joinDocuments([...serviceAccounts(plan), ...plan.pods.map(podYaml)])],
    ['services.yaml', joinDocuments(plan.services.map(serviceYaml))],
  ])
}

function joinDocuments(documents: readonly string[]): string {
  return documents.join('---\n')
}

function namespaceYaml(namespace: DemoNamespace): string {
  const labels = namespace.isMeshed ? '  labels:\n    weft.dev/mesh: enabled\n' : ''
  return `apiVersion: v1
kind: Namespace
metadata:
  name: ${namespace.name}
${labels}`
}

function serviceAccounts(plan: DemoPlan): readonly string[] {
  const documents = plan.pods.map(
    (pod) => `apiVersion: v1
kind: ServiceAccount
metadata:
  name: ${pod.serviceAccount}
  namespace: ${pod.namespace}
`,
  )
  return [...new Set(documents)]
}

function podYaml(pod: DemoPod): string {
  const netns = pod.netns === null ? `loopback:${pod.appAddress}` : `/var/run/netns/${pod.netns}`
  return `apiVersion: v1
kind: Pod
metadata:
  name: ${pod.name}
  namespace: ${pod.namespace}
  labels:
${mapYaml(pod.labels, 4)}  annotations:
    weft.dev/netns: ${netns}
spec:
  nodeName: ${pod.node}
  serviceAccountName: ${pod.serviceAccount}
  containers:
    - name: ${pod.program}
      image: ${pod.program}
status:
  phase: Running
  podIP: ${pod.addresses[0]}
  podIPs:
${pod.addresses.map((address) => `    - ip: ${address}\n`).join('')}  conditions:
    - type: Ready
      status: "True"
`
}

function serviceYaml(service: DemoService): string {
  const ports = service.ports.map(({ name, port }) => {
    const nameLine = name === null ? '' : `\n      name: ${name}`
    return `    - port: ${port}${nameLine}\n      protocol: TCP\n`
  })
  return `apiVersion: v1
kind: Service
metadata:
  name: ${service.name}
  namespace: ${service.namespace}
spec:
  clusterIP: ${service.addresses[0]}
  clusterIPs:
${service.addresses.map((address) => `    - ${address}\n`).join('')}  selector:
${mapYaml(service.selector, 4)}  ports:
${ports.join('')}`
}

function mapYaml(map: Readonly<Record<string, string>>, indent: number): string {
  return Object.entries(map)
    .map(([name, value]) => `${' '.repeat(indent)}${name}: ${value}\n`)
    .join('')
}
