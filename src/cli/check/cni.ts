/**
 * The network plugin of a cluster, and those of its features that hide from the mesh where a pod dials: load balancing at
 * connect(), which puts an endpoint's address in the place of the service's before our programs see it. Pure.
 */
import type { Requirement } from '../machine.ts'

/** DaemonSets by which one knows a plugin. */
const PLUGINS: readonly (readonly [name: RegExp, plugin: string])[] = [
  [/^cilium$/, 'Cilium'],
  [/^(calico-node|canal)$/, 'Calico'],
  [/^kube-flannel/, 'Flannel'],
  [/^kindnet$/, 'kindnet'],
  [/^aws-node$/, 'Amazon VPC'],
  [/^antrea-agent$/, 'Antrea'],
  [/^weave-net$/, 'Weave'],
  [/^azure-cns?/, 'Azure'],
  [/^kube-ovn/, 'Kube-OVN'],
  [/^(netd|anetd)$/, 'Google'],
]

/** Names of the plugins that run, by the names of DaemonSets. */
export function pluginsOf(daemonSets: readonly string[]): readonly string[] {
  return PLUGINS.filter(([pattern]) => daemonSets.some((name) => pattern.test(name))).map(([, plugin]) => plugin)
}

type Settings = Readonly<Record<string, string>>

/** By Cilium's ConfigMap kube-system/cilium-config. */
export function ciliumRequirements(settings: Settings): readonly Requirement[] {
  const replaces = /^(true|strict)$/.test(settings['kube-proxy-replacement'] ?? '')
  const isBalancing = settings['bpf-lb-sock'] === 'true' || (replaces && settings['bpf-lb-sock'] !== 'false')
  const isInPods = isBalancing && settings['bpf-lb-sock-hostns-only'] !== 'true'
  const isExclusive = settings['cni-exclusive'] === 'true'
  return [
    {
      name: 'Cilium socket load balancing',
      isMet: !isInPods,
      isRequired: true,
      detail: isInPods
        ? 'it hides the addresses of services from the mesh: routes, splits and policies by service would have no effect. ' +
          'Set socketLB.hostNamespaceOnly=true in its chart (bpf-lb-sock-hostns-only: "true" in kube-system/cilium-config) and restart its agents'
        : isBalancing
          ? 'for processes of the nodes only'
          : 'off',
    },
    {
      name: 'Cilium CNI configuration',
      isMet: !isExclusive,
      isRequired: false,
      detail: isExclusive
        ? 'it takes away the CNI configurations of others, so that new pods are captured only after they have started. ' +
          'Set cni.exclusive=false in its chart (cni-exclusive: "false" in kube-system/cilium-config)'
        : 'leaves those of others alone',
    },
  ]
}

/** By Calico's FelixConfiguration `default`. */
export function calicoRequirements(spec: Readonly<Record<string, unknown>>): readonly Requirement[] {
  const isBpf = spec['bpfEnabled'] === true
  const mode = (spec['bpfConnectTimeLoadBalancing'] as string | undefined) ?? 'TCP'
  const isHiding = isBpf && mode !== 'Disabled' && spec['bpfConnectTimeLoadBalancingEnabled'] !== false
  return [
    {
      name: 'Calico connect-time load balancing',
      isMet: !isHiding,
      isRequired: true,
      detail: isHiding
        ? 'it hides the addresses of services from the mesh: routes, splits and policies by service would have no effect. ' +
          'Set bpfConnectTimeLoadBalancing: Disabled and bpfHostNetworkedNATWithoutCTLB: Enabled in the FelixConfiguration default'
        : 'off',
    },
  ]
}
