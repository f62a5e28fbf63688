/**
 * A node of a test cluster: a machine with containerd, kubelet and kube-proxy, and the reference CNI plugins. Pods have
 * addresses of both families, routed between the nodes without translation.
 */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  CONTROL_PLANE_ADDRESS,
  DNS_SERVICE_ADDRESS,
  type DualAddress,
  FABRIC_PREFIX,
  nodeAddress,
  POD_RANGES,
  podRanges,
} from './addresses.ts'
import { CACHE_DIRECTORY, type ClusterFiles, REPOSITORY } from './cluster-files.ts'
import { Component } from './component.ts'
import { componentPath } from './components.ts'
import { ControlPlane } from './control-plane.ts'
import { containerdSettings, linkStore } from './image-store.ts'
import { Machine } from './machine.ts'
import { CNI_PLUGINS } from './requirements.ts'

/** On a machine that does other things as well. Alone it takes ten seconds. */
const START_TIMEOUT_MS = 180_000

export interface NodeOptions {
  readonly files: ClusterFiles
  readonly controlPlane: ControlPlane
  /** From 1. */
  readonly number: number
  /** How many there will be. */
  readonly nodeCount: number
  /** Of the images that pods may run. */
  readonly imageStore: string
}

export class ClusterNode {
  readonly name: string
  readonly address: DualAddress
  readonly machine: Machine
  readonly components: readonly Component[]
  private readonly options: NodeOptions

  private constructor(options: NodeOptions, machine: Machine, components: readonly Component[]) {
    this.name = machine.name
    this.address = nodeAddress(options.number)
    this.machine = machine
    this.components = components
    this.options = options
  }

  /** Resolves when pods can run there. */
  static async start(options: NodeOptions): Promise<ClusterNode> {
    const { files, controlPlane, number, nodeCount } = options
    const name = `node${number}`
    const machine = await Machine.start({
      clusterName: files.name,
      name,
      directory: files.machine(name),
      readOnlyPaths: [CACHE_DIRECTORY, REPOSITORY, files.directory],
      nameServer: CONTROL_PLANE_ADDRESS.ipv4,
    })
    linkStore(options.imageStore, join(machine.directory, 'var/lib/containerd'))
    await connectFabric(machine, controlPlane.machine, number, nodeCount)
    await installPlugins(machine, number)
    makeNodeKeys(files, controlPlane, name, number)
    const node = new ClusterNode(options, machine, describeComponents(files, machine, number))
    await node.startComponents()
    return node
  }

  private async startComponents(): Promise<void> {
    const [containerd, kubelet, kubeProxy] = this.components as [Component, Component, Component]
    containerd.start()
    kubeProxy.start()
    const isServing = async (): Promise<boolean> => (await this.machine.run(['ctr', 'version'])).status === 0
    await containerd.ready(START_TIMEOUT_MS, isServing)
    kubelet.start()
    const { controlPlane } = this.options
    await kubelet.ready(START_TIMEOUT_MS, async () => controlPlane.answers(`/api/v1/nodes/${this.name}`))
    const { ipv4, ipv6 } = podRanges(this.options.number)
    const patch = { spec: { podCIDR: ipv4, podCIDRs: [ipv4, ipv6] } }
    controlPlane.kubectl(['patch', 'node', this.name, '-p', JSON.stringify(patch)])
    await kubelet.ready(START_TIMEOUT_MS, async () => this.isReady())
  }

  private isReady(): boolean {
    const status = '{.status.conditions[?(@.type=="Ready")].status}'
    const { controlPlane } = this.options
    return controlPlane.kubectl(['get', 'node', this.name, '-o', `jsonpath=${status}`]) === 'True'
  }
}

/** A link to the control plane's bridge, and routes to the pods of every node. */
async function connectFabric(machine: Machine, router: Machine, number: number, nodeCount: number): Promise<void> {
  const link = `add eth0 netns ${machine.pid} type veth peer name ${machine.name} netns ${router.pid}`
  execFileSync('ip', ['link', ...link.split(' ')])
  const own = nodeAddress(number)
  const pods = podRanges(number)
  await router.ip([
    `link set ${machine.name} master fabric`,
    `link set ${machine.name} up`,
    `route add ${pods.ipv4} via ${own.ipv4}`,
    `route add ${pods.ipv6} via ${own.ipv6}`,
  ])
  const lines = [
    'link set lo up',
    'link set eth0 up',
    `addr add ${own.ipv4}/${FABRIC_PREFIX.ipv4} dev eth0`,
    `addr add ${own.ipv6}/${FABRIC_PREFIX.ipv6} dev eth0 nodad`,
    // The router has no route out. Without this route addresses of services would have none either.
    `route add default via ${CONTROL_PLANE_ADDRESS.ipv4}`,
    `route add ::/0 via ${CONTROL_PLANE_ADDRESS.ipv6}`,
  ]
  for (let other = 1; other <= nodeCount; other++) {
    if (other === number) continue
    lines.push(`route add ${podRanges(other).ipv4} via ${nodeAddress(other).ipv4}`)
    lines.push(`route add ${podRanges(other).ipv6} via ${nodeAddress(other).ipv6}`)
  }
  await machine.ip(lines)
  await machine.set('net/ipv4/ip_forward', '1')
  await machine.set('net/ipv6/conf/all/forwarding', '1')
}

/** Into the node's own file system, where a mesh may add its plugin beside them. */
async function installPlugins(machine: Machine, number: number): Promise<void> {
  const plugins = join(machine.directory, 'cni')
  cpSync(CNI_PLUGINS, plugins, { recursive: true, dereference: true })
  const { ipv4, ipv6 } = podRanges(number)
  const list = {
    cniVersion: '1.0.0',
    name: 'pods',
    plugins: [
      {
        type: 'ptp',
        ipam: {
          type: 'host-local',
          dataDir: '/run/cni/addresses',
          ranges: [[{ subnet: ipv4 }], [{ subnet: ipv6 }]],
          routes: [{ dst: '0.0.0.0/0' }, { dst: '::/0' }],
        },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  }
  const script = 'cp "$0"/* /opt/cni/bin/ && cat >/etc/cni/net.d/10-pods.conflist'
  const { status, stderr } = await machine.run(['sh', '-c', script, plugins], JSON.stringify(list, null, 2))
  if (status !== 0) throw new Error(`CNI plugins of ${machine.name}: ${stderr.trim()}`)
}

function makeNodeKeys(files: ClusterFiles, { keys }: ControlPlane, name: string, number: number): void {
  const { ipv4, ipv6 } = nodeAddress(number)
  const commonName = `system:node:${name}`
  const alternativeNames = [`DNS:${name}`, `IP:${ipv4}`, `IP:${ipv6}`]
  keys.makeCertificate({ name, commonName, organization: 'system:nodes', alternativeNames })
  keys.writeKubeconfig(files.kubeconfig(name), name, ControlPlane.fabricServer)
}

// --- components and their settings ---

function describeComponents(files: ClusterFiles, machine: Machine, number: number): readonly Component[] {
  const { directory, name } = machine
  const settings = join(directory, 'settings')
  mkdirSync(settings, { recursive: true })
  const file = (fileName: string, content: string): string => {
    const path = join(settings, fileName)
    writeFileSync(path, content)
    return path
  }
  const { ipv4, ipv6 } = nodeAddress(number)
  const kubelet = file('kubelet.json', JSON.stringify(kubeletSettings(files, name), null, 2))
  const kubeProxy = file('kube-proxy.json', JSON.stringify(kubeProxySettings(files, name), null, 2))
  return [
    new Component(machine, 'containerd', ['containerd', '--config', file('containerd.toml', containerdSettings())]),
    new Component(machine, 'kubelet', [
      componentPath('kubelet'),
      `--config=${kubelet}`,
      `--kubeconfig=${files.kubeconfig(name)}`,
      `--hostname-override=${name}`,
      `--node-ip=${ipv4},${ipv6}`,
    ]),
    new Component(machine, 'kube-proxy', [componentPath('kube-proxy'), `--config=${kubeProxy}`]),
  ]
}

function kubeletSettings(files: ClusterFiles, name: string): object {
  const key = (extension: string): string => join(files.keys, `${name}.${extension}`)
  return {
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: true },
      x509: { clientCAFile: join(files.keys, 'ca.crt') },
    },
    authorization: { mode: 'Webhook' },
    tlsCertFile: key('crt'),
    tlsPrivateKeyFile: key('key'),
    containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
    cgroupDriver: 'cgroupfs',
    // Hosts with cgroup v1 or both: what the tests of the mesh run on.
    failCgroupV1: false,
    clusterDomain: 'cluster.local',
    clusterDNS: [DNS_SERVICE_ADDRESS.ipv4],
    resolvConf: '/etc/resolv.conf',
    volumePluginDir: '/var/lib/kubelet/volume-plugins',
    failSwapOn: false,
    // The machine's process 1 shows it these settings as it wants them.
    protectKernelDefaults: true,
    makeIPTablesUtilChains: false,
    // The disk is shared with everything else on the host, and a full one is not this node's to clear.
    evictionHard: {
      'memory.available': '0%',
      'nodefs.available': '0%',
      'nodefs.inodesFree': '0%',
      'imagefs.available': '0%',
    },
    imageGCHighThresholdPercent: 100,
    imageGCLowThresholdPercent: 99,
    serializeImagePulls: false,
  }
}

function kubeProxySettings(files: ClusterFiles, name: string): object {
  return {
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
    kind: 'KubeProxyConfiguration',
    hostnameOverride: name,
    clientConnection: { kubeconfig: files.kubeconfig('kube-proxy') },
    mode: 'nftables',
    clusterCIDR: `${POD_RANGES.ipv4},${POD_RANGES.ipv6}`,
    // These limits are the whole kernel's.
    conntrack: { maxPerCore: 0, min: 0 },
    // Services answer soon after they changed; the default bundles a second of changes.
    nftables: { minSyncPeriod: '100ms', syncPeriod: '30s' },
  }
}
