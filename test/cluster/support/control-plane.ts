/**
 * The control plane of a test cluster, in a machine of its own: etcd, API server, controllers, scheduler, DNS. It is
 * the router of the cluster's networks too, with no route out.
 */
import { execFileSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'
import { request } from 'node:https'
import { join } from 'node:path'
import {
  API_PORT,
  API_SERVICE_ADDRESS,
  CONTROL_PLANE_ADDRESS,
  DNS_SERVICE_ADDRESS,
  FABRIC_PREFIX,
  HOST_LINKS_MAX,
  hostLink,
  POD_RANGES,
  SERVICE_RANGES,
} from './addresses.ts'
import { CACHE_DIRECTORY, type ClusterFiles, REPOSITORY } from './cluster-files.ts'
import { ClusterKeys } from './cluster-keys.ts'
import { Component } from './component.ts'
import { componentPath } from './components.ts'
import { Machine } from './machine.ts'

/** On a machine that does other things as well. Alone it takes three seconds. */
const START_TIMEOUT_MS = 120_000

/**
 * Without nodes there is nobody to run pods, and tests write pods and nodes themselves: these controllers would remove
 * them as lost.
 */
const CONTROLLERS_WITHOUT_NODES =
  '*,-node-lifecycle-controller,-pod-garbage-collector-controller,-taint-eviction-controller'

const CERTIFICATES_OF_USERS = [
  { name: 'admin', organization: 'system:masters' },
  { name: 'kube-controller-manager', commonName: 'system:kube-controller-manager' },
  { name: 'kube-scheduler', commonName: 'system:kube-scheduler' },
  { name: 'kube-proxy', commonName: 'system:kube-proxy' },
  { name: 'coredns', organization: 'system:masters' },
] as const

export interface ControlPlaneOptions {
  readonly files: ClusterFiles
  /** False: only the API server and what it needs, and controllers that need no nodes. */
  readonly hasNodes: boolean
}

export class ControlPlane {
  readonly machine: Machine
  readonly keys: ClusterKeys
  readonly components: readonly Component[]
  /** Of the link to the host. */
  readonly linkNumber: number
  private readonly files: ClusterFiles

  private constructor(
    files: ClusterFiles,
    machine: Machine,
    keys: ClusterKeys,
    components: readonly Component[],
    linkNumber: number,
  ) {
    this.files = files
    this.machine = machine
    this.keys = keys
    this.components = components
    this.linkNumber = linkNumber
  }

  static async start(options: ControlPlaneOptions): Promise<ControlPlane> {
    const { files, hasNodes } = options
    const machine = await Machine.start({
      clusterName: files.name,
      name: 'control-plane',
      directory: files.machine('control-plane'),
      readOnlyPaths: [CACHE_DIRECTORY, REPOSITORY, files.directory],
      nameServer: CONTROL_PLANE_ADDRESS.ipv4,
    })
    const linkNumber = await connectNetworks(machine)
    const keys = makeKeys(files, linkNumber)
    const components = describeComponents(files, machine, keys, hasNodes)
    const controlPlane = new ControlPlane(files, machine, keys, components, linkNumber)
    await controlPlane.startComponents(hasNodes)
    return controlPlane
  }

  /** Where the API server is for the nodes. */
  static get fabricServer(): string {
    return `https://${CONTROL_PLANE_ADDRESS.ipv4}:${API_PORT}`
  }

  component(name: string): Component {
    const component = this.components.find((one) => one.name === name)
    if (component === undefined) throw new Error(`the control plane has no component ${name}`)
    return component
  }

  /** True when the API server answers this path with 200, to the cluster's administrator. */
  answers(path: string): Promise<boolean> {
    return new Promise((resolve) => {
      const call = request(
        {
          host: hostLink(this.linkNumber).cluster.ipv4,
          port: API_PORT,
          path,
          agent: false,
          timeout: 2000,
          ...this.keys.client('admin'),
        },
        (response) => {
          response.resume()
          resolve(response.statusCode === 200)
        },
      )
      call.on('timeout', () => call.destroy())
      call.on('error', () => resolve(false))
      call.end()
    })
  }

  kubectl(args: readonly string[], input = ''): string {
    const command = ['--kubeconfig', this.files.adminKubeconfig, ...args]
    return execFileSync(componentPath('kubectl'), command, { encoding: 'utf8', input, stdio: 'pipe' })
  }

  private async startComponents(hasNodes: boolean): Promise<void> {
    for (const name of ['etcd', 'kube-apiserver']) this.component(name).start()
    await this.component('kube-apiserver').ready(START_TIMEOUT_MS, () => this.answers('/readyz'))
    for (const component of this.components) component.start()
    // Pods are refused before their ServiceAccount is there.
    const account = '/api/v1/namespaces/default/serviceaccounts/default'
    await this.component('kube-controller-manager').ready(START_TIMEOUT_MS, () => this.answers(account))
    if (hasNodes) this.kubectl(['apply', '-f', '-'], JSON.stringify(dnsObjects()))
  }
}

/** The fabric's bridge, and the link to the host; returns the link's number. */
async function connectNetworks(machine: Machine): Promise<number> {
  const { ipv4, ipv6 } = CONTROL_PLANE_ADDRESS
  await machine.ip([
    'link set lo up',
    // An address of its own: it would change with the nodes, whose cached one of their router would be wrong then.
    'link add fabric address 02:00:00:00:fa:b1 type bridge',
    'link set fabric up',
    `addr add ${ipv4}/${FABRIC_PREFIX.ipv4} dev fabric`,
    `addr add ${ipv6}/${FABRIC_PREFIX.ipv6} dev fabric nodad`,
  ])
  await machine.set('net/ipv4/ip_forward', '1')
  await machine.set('net/ipv6/conf/all/forwarding', '1')
  for (let number = 0; number < HOST_LINKS_MAX; number++) {
    const link = hostLink(number)
    try {
      execFileSync(
        'ip',
        ['link', 'add', link.interface, 'type', 'veth', 'peer', 'name', 'host', 'netns', `${machine.pid}`],
        {
          stdio: 'pipe',
        },
      )
    } catch (error) {
      if (!String((error as { stderr?: Buffer }).stderr).includes('File exists')) throw error
      continue
    }
    const host = [
      `link set ${link.interface} up`,
      `addr add ${link.host.ipv4} peer ${link.cluster.ipv4} dev ${link.interface}`,
      `addr add ${link.host.ipv6} peer ${link.cluster.ipv6} dev ${link.interface} nodad`,
    ]
    execFileSync('ip', ['-batch', '-'], { input: host.join('\n') })
    await machine.ip([
      'link set host up',
      `addr add ${link.cluster.ipv4} peer ${link.host.ipv4} dev host`,
      `addr add ${link.cluster.ipv6} peer ${link.host.ipv6} dev host nodad`,
    ])
    return number
  }
  throw new Error(`${HOST_LINKS_MAX} clusters run already (interfaces weftc*)`)
}

function makeKeys(files: ClusterFiles, linkNumber: number): ClusterKeys {
  const keys = new ClusterKeys(files.keys)
  keys.makeAuthority('ca')
  keys.makeAuthority('front-proxy-ca')
  keys.makeKey('service-accounts')
  const { cluster } = hostLink(linkNumber)
  const addresses = [
    '127.0.0.1',
    API_SERVICE_ADDRESS,
    ...Object.values(CONTROL_PLANE_ADDRESS),
    ...Object.values(cluster),
  ]
  const names = ['kubernetes', 'kubernetes.default', 'kubernetes.default.svc', 'kubernetes.default.svc.cluster.local']
  keys.makeCertificate({
    name: 'kube-apiserver',
    alternativeNames: [...names.map((name) => `DNS:${name}`), ...addresses.map((address) => `IP:${address}`)],
  })
  keys.makeCertificate({ name: 'kubelet-client', commonName: 'kube-apiserver', organization: 'system:masters' })
  keys.makeCertificate({ name: 'front-proxy', commonName: 'front-proxy-client', authority: 'front-proxy-ca' })
  for (const order of CERTIFICATES_OF_USERS) {
    keys.makeCertificate(order)
    const isOutside = order.name === 'admin'
    const server = isOutside ? `https://${cluster.ipv4}:${API_PORT}` : ControlPlane.fabricServer
    keys.writeKubeconfig(files.kubeconfig(order.name), order.name, server)
  }
  return keys
}

function describeComponents(
  files: ClusterFiles,
  machine: Machine,
  keys: ClusterKeys,
  hasNodes: boolean,
): readonly Component[] {
  const component = (name: 'etcd' | 'kube-apiserver' | 'kube-controller-manager' | 'kube-scheduler', flags: Flags) =>
    new Component(machine, name, [componentPath(name), ...flagsOf(flags)])
  const list = [
    component('etcd', etcdFlags(machine)),
    component('kube-apiserver', apiServerFlags(keys)),
    component('kube-controller-manager', controllerManagerFlags(files, keys, hasNodes)),
  ]
  if (!hasNodes) return list
  const corefile = join(machine.directory, 'Corefile')
  const hosts = join(machine.directory, 'hosts')
  writeFileSync(hosts, '')
  writeFileSync(corefile, dnsSettings(files.kubeconfig('coredns'), hosts))
  return [
    ...list,
    component('kube-scheduler', {
      kubeconfig: files.kubeconfig('kube-scheduler'),
      'leader-elect': 'false',
      'bind-address': '127.0.0.1',
    }),
    new Component(machine, 'coredns', [componentPath('coredns'), '-conf', corefile]),
  ]
}

type Flags = Readonly<Record<string, string>>

function flagsOf(flags: Flags): readonly string[] {
  return Object.entries(flags).map(([name, value]) => `--${name}=${value}`)
}

function etcdFlags(machine: Machine): Flags {
  return {
    'data-dir': join(machine.directory, 'etcd'),
    'listen-client-urls': 'http://127.0.0.1:2379',
    'advertise-client-urls': 'http://127.0.0.1:2379',
    'listen-peer-urls': 'http://127.0.0.1:2380',
    'initial-advertise-peer-urls': 'http://127.0.0.1:2380',
    'initial-cluster': 'default=http://127.0.0.1:2380',
    // Nobody reads a test's data after a crash, and a disk that others write to as well is slow.
    'unsafe-no-fsync': 'true',
    'log-level': 'warn',
  }
}

function apiServerFlags(keys: ClusterKeys): Flags {
  return {
    'etcd-servers': 'http://127.0.0.1:2379',
    'bind-address': '::',
    'secure-port': String(API_PORT),
    'advertise-address': CONTROL_PLANE_ADDRESS.ipv4,
    'tls-cert-file': keys.certificate('kube-apiserver'),
    'tls-private-key-file': keys.key('kube-apiserver'),
    'client-ca-file': keys.certificate('ca'),
    'authorization-mode': 'Node,RBAC',
    'enable-admission-plugins': 'NodeRestriction',
    'service-cluster-ip-range': `${SERVICE_RANGES.ipv4},${SERVICE_RANGES.ipv6}`,
    'service-account-issuer': 'https://kubernetes.default.svc.cluster.local',
    'service-account-key-file': keys.publicKey('service-accounts'),
    'service-account-signing-key-file': keys.key('service-accounts'),
    'kubelet-preferred-address-types': 'InternalIP',
    'kubelet-certificate-authority': keys.certificate('ca'),
    'kubelet-client-certificate': keys.certificate('kubelet-client'),
    'kubelet-client-key': keys.key('kubelet-client'),
    'requestheader-client-ca-file': keys.certificate('front-proxy-ca'),
    'requestheader-allowed-names': 'front-proxy-client',
    'requestheader-username-headers': 'X-Remote-User',
    'requestheader-group-headers': 'X-Remote-Group',
    'requestheader-extra-headers-prefix': 'X-Remote-Extra-',
    'proxy-client-cert-file': keys.certificate('front-proxy'),
    'proxy-client-key-file': keys.key('front-proxy'),
    'allow-privileged': 'true',
    // No kube-proxy runs beside it, so webhooks are dialled at their endpoints.
    'enable-aggregator-routing': 'true',
    'shutdown-delay-duration': '0s',
  }
}

function controllerManagerFlags(files: ClusterFiles, keys: ClusterKeys, hasNodes: boolean): Flags {
  return {
    kubeconfig: files.kubeconfig('kube-controller-manager'),
    controllers: hasNodes ? '*' : CONTROLLERS_WITHOUT_NODES,
    'use-service-account-credentials': 'true',
    'service-account-private-key-file': keys.key('service-accounts'),
    'root-ca-file': keys.certificate('ca'),
    'cluster-signing-cert-file': keys.certificate('ca'),
    'cluster-signing-key-file': keys.key('ca'),
    'cluster-cidr': `${POD_RANGES.ipv4},${POD_RANGES.ipv6}`,
    'service-cluster-ip-range': `${SERVICE_RANGES.ipv4},${SERVICE_RANGES.ipv6}`,
    'leader-elect': 'false',
    'bind-address': '127.0.0.1',
    // The default of five minutes is for networks that fail; a test that kills a node waits for this.
    'node-monitor-grace-period': '40s',
  }
}

/** Names of the cluster, and of the file `hosts`, which tests may write; everything else does not exist. */
function dnsSettings(kubeconfig: string, hosts: string): string {
  return `.:53 {
  errors
  ready
  hosts ${hosts} {
    ttl 5
    reload 1s
    fallthrough
  }
  kubernetes cluster.local in-addr.arpa ip6.arpa {
    kubeconfig ${kubeconfig}
    pods insecure
    ttl 5
    fallthrough in-addr.arpa ip6.arpa
  }
  template ANY ANY {
    rcode NXDOMAIN
  }
  cache 5
}
`
}

/** The Service that pods ask, in front of the DNS server at the control plane's address. */
function dnsObjects(): object {
  const labels = { 'k8s-app': 'kube-dns', 'kubernetes.io/service-name': 'kube-dns' }
  const metadata = { namespace: 'kube-system', name: 'kube-dns', labels }
  const ports = [
    { name: 'dns', port: 53, protocol: 'UDP' },
    { name: 'dns-tcp', port: 53, protocol: 'TCP' },
  ]
  const slice = (addressType: string, address: string): object => ({
    apiVersion: 'discovery.k8s.io/v1',
    kind: 'EndpointSlice',
    metadata: { ...metadata, name: `kube-dns-${addressType.toLowerCase()}` },
    addressType,
    ports,
    endpoints: [{ addresses: [address], conditions: { ready: true } }],
  })
  return {
    apiVersion: 'v1',
    kind: 'List',
    items: [
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata,
        spec: {
          clusterIP: DNS_SERVICE_ADDRESS.ipv4,
          clusterIPs: [DNS_SERVICE_ADDRESS.ipv4, DNS_SERVICE_ADDRESS.ipv6],
          ipFamilyPolicy: 'RequireDualStack',
          ipFamilies: ['IPv4', 'IPv6'],
          ports,
        },
      },
      slice('IPv4', CONTROL_PLANE_ADDRESS.ipv4),
      slice('IPv6', CONTROL_PLANE_ADDRESS.ipv6),
    ],
  }
}
