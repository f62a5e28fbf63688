/** Calls weft-cni as a container runtime does, after a plugin that has made the pod's network. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'
import { type Finished, finished } from './netns.ts'

export interface CniCall {
  readonly command?: string
  readonly netns?: string
  readonly containerId?: string
  /** Pairs of CNI_ARGS; the pod's namespace, name and uid. */
  readonly args?: Readonly<Record<string, string>>
  readonly addresses?: readonly string[]
  readonly socket: string
  readonly namespaces: string
  /** Instead of the configuration that is made of the rest. */
  readonly config?: string
  readonly environment?: Readonly<Record<string, string>>
  readonly program?: string
}

/** What a plugin before ours would have printed. */
export function resultOf(addresses: readonly string[], netns: string): Readonly<Record<string, unknown>> {
  return {
    cniVersion: '1.0.0',
    interfaces: [{ name: 'eth0', mac: '0a:58:c6:12:00:01', sandbox: netns }],
    ips: addresses.map((address) => ({ interface: 0, address: `${address}/${address.includes(':') ? 64 : 24}` })),
    dns: {},
  }
}

/** Resolves with what the plugin printed and how it ended. */
export function callCni(call: CniCall): Promise<Finished> {
  const { command = 'ADD', netns = '/proc/self/ns/net', containerId = 'c0ffee', args = {}, addresses = [] } = call
  const { socket, namespaces, environment = {}, program = join(NATIVE_BUILD_DIRECTORY, 'weft-cni') } = call
  const prevResult = resultOf(addresses, netns)
  const config =
    call.config ??
    JSON.stringify({ cniVersion: '1.0.0', name: 'net', type: 'weft-cni', socket, namespaces, prevResult })
  const pairs = Object.entries({ IgnoreUnknown: '1', ...args }).map(([name, value]) => `${name}=${value}`)
  const child = spawn(program, [], {
    stdio: 'pipe',
    env: {
      CNI_COMMAND: command,
      CNI_CONTAINERID: containerId,
      CNI_NETNS: netns,
      CNI_IFNAME: 'eth0',
      CNI_ARGS: pairs.join(';'),
      CNI_PATH: '/opt/cni/bin',
      ...environment,
    },
  })
  // One that refuses its environment does not read.
  child.stdin.on('error', () => {})
  child.stdin.end(config)
  return finished(child)
}
