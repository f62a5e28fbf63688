/**
 * The demo's network on one machine: a namespace per node and pod, a bridge on each node, a wire between the nodes, a
 * cgroup for every process of it, a bpf file system for the pins, and a hosts file for each pod.
 *
 * Everything bears the demo's name, so `removeTopology` finds all of it again, also what a demo that was killed left.
 * Nothing is made or changed in the machine's own network namespace.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { WeftError } from '../../base/errors.ts'
import { DEMO_NAME, type DemoNode, type DemoPlan, type DemoPod, hostNames, isMeshed } from './plan.ts'
import { run } from './shell.ts'

/** Interface between the nodes, the same name at both ends. */
export const NODE_LINK = 'wire'
const BRIDGE = 'pods'
const NETNS_DIRECTORY = '/run/netns'
/** Files here take the place of those in /etc for programs started by `ip netns exec`. */
const NAME_FILES_DIRECTORY = '/etc/netns'

/** Ten seconds: a process ends within milliseconds when it is killed, and much later on a machine under load. */
const CGROUP_TRIES = 500
const CGROUP_RETRY_MS = 20

/** Where in the file system the demo's kernel objects are. */
export interface DemoPlaces {
  /** Directory of the demo's cgroup. */
  readonly cgroup: string
  /** Directory in a bpf file system of the demo's own. */
  readonly bpf: string
}

/** Makes all of it. On failure the caller removes what was made (`removeTopology`). */
export async function createTopology(plan: DemoPlan, runDirectory: string): Promise<DemoPlaces> {
  const cgroup = join(await cgroup2Mount(runDirectory, plan.name), plan.name)
  mkdirSync(cgroup, { recursive: true })
  const bpf = join(runDirectory, 'bpf')
  mkdirSync(bpf, { recursive: true })
  await run('mount', ['-t', 'bpf', plan.name, bpf])

  for (const { netns } of [...plan.nodes, ...plan.pods]) await run('ip', ['netns', 'add', netns!])
  await connectNodes(plan)
  for (const node of plan.nodes) {
    await makeBridge(node)
    for (const pod of plan.pods) if (pod.node === node.name) await connectPod(plan, node, pod)
  }
  for (const pod of plan.pods) writeNameFiles(plan, pod)
  return { cgroup, bpf }
}

/** Adds a pod to a topology that is there already: its namespace, its wire to the node's bridge, its names. */
export async function addPod(plan: DemoPlan, pod: DemoPod): Promise<void> {
  const node = plan.nodes.find(({ name }) => name === pod.node)!
  await run('ip', ['netns', 'add', pod.netns!])
  await connectPod(plan, node, pod)
  writeNameFiles(plan, pod)
}

/**
 * Removes everything that bears the demo's name: processes first, then what they hold. Safe to call when nothing is
 * there. Resolves with the names of what could not be removed.
 */
export async function removeTopology(runDirectory: string, name = DEMO_NAME): Promise<readonly string[]> {
  const left: string[] = []
  for (const mount of mountsOf('cgroup2')) await removeCgroup(join(mount, name), left)
  for (const netns of entriesNamed(NETNS_DIRECTORY, name)) {
    await attempt(left, `network namespace ${netns}`, () => run('ip', ['netns', 'del', netns]))
  }
  for (const netns of entriesNamed(NAME_FILES_DIRECTORY, name)) {
    rmSync(join(NAME_FILES_DIRECTORY, netns), { recursive: true })
  }
  removeIfEmpty(NAME_FILES_DIRECTORY)
  for (const mount of ['bpf', 'cgroup']) {
    const path = join(runDirectory, mount)
    await attempt(left, `mount ${path}`, () => unmountAll(path))
  }
  // A mount that stayed must not be emptied through its mount point.
  if (left.length === 0) rmSync(runDirectory, { recursive: true, force: true })
  return left
}

/** Others may use the directory at the same time, so that only the kernel knows whether it is empty. */
function removeIfEmpty(directory: string): void {
  try {
    rmdirSync(directory)
  } catch {
    // Not there, or in use.
  }
}

function entriesNamed(directory: string, name: string): readonly string[] {
  return (existsSync(directory) ? readdirSync(directory) : []).filter((entry) => entry.startsWith(`${name}-`))
}

// --- cgroup ---

/** Mount point of a cgroup2 hierarchy that can be written; one of the demo's own when the machine has none. */
async function cgroup2Mount(runDirectory: string, name: string): Promise<string> {
  for (const mount of mountsOf('cgroup2')) {
    try {
      const probe = join(mount, name)
      mkdirSync(probe, { recursive: true })
      return mount
    } catch {
      // Read-only, as in containers: a mount of our own shows the same hierarchy.
    }
  }
  const own = join(runDirectory, 'cgroup')
  mkdirSync(own, { recursive: true })
  await run('mount', ['-t', 'cgroup2', name, own])
  return own
}

async function removeCgroup(path: string, left: string[]): Promise<void> {
  if (!existsSync(path)) return
  await attempt(left, `cgroup ${path}`, async () => {
    killCgroup(path)
    await removeWhenEmpty(path)
  })
}

/**
 * Killed processes leave the cgroup as they are reaped: some milliseconds, more on a loaded machine. The list of processes
 * is no proof, it leaves out those that are dead but not gone; only the kernel's own answer is.
 */
async function removeWhenEmpty(path: string): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      rmdirSync(path)
      return
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EBUSY' || tries === CGROUP_TRIES) throw error
    }
    await delay(CGROUP_RETRY_MS)
  }
}

function killCgroup(path: string): void {
  const killFile = join(path, 'cgroup.kill')
  if (existsSync(killFile)) {
    writeFileSync(killFile, '1')
    return
  }
  // Linux before 5.14.
  for (const pid of processesOf(path)) {
    try {
      process.kill(pid, 'SIGKILL')
    } catch {
      // It ended by itself meanwhile.
    }
  }
}

/** Ids of the processes in the cgroup. */
export function processesOf(cgroup: string): readonly number[] {
  try {
    return readFileSync(join(cgroup, 'cgroup.procs'), 'utf8').split('\n').filter(Boolean).map(Number)
  } catch {
    return []
  }
}

// --- mounts ---

function mountLines(): readonly string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8').split('\n').filter(Boolean)
}

/** Mount points of a type of file system, in order of mounting. */
export function mountsOf(type: string): readonly string[] {
  return mountLines()
    .filter((line) => line.split(' - ')[1]?.split(' ')[0] === type)
    .map((line) => line.split(' ')[4]!)
}

/** Mounts lie on top of each other when several demos were killed between mounting and unmounting. */
async function unmountAll(path: string): Promise<void> {
  while (isMountPoint(path)) await run('umount', [path])
}

function isMountPoint(path: string): boolean {
  return mountLines().some((line) => line.split(' ')[4] === path)
}

// --- network ---

/** Runs `ip` commands, one a line, inside a namespace. */
function ipBatch(netns: string, lines: readonly string[]): Promise<string> {
  return run('ip', ['-n', netns, '-batch', '-'], `${lines.join('\n')}\n`)
}

async function connectNodes(plan: DemoPlan): Promise<void> {
  const [first, second] = plan.nodes as [DemoNode, DemoNode]
  await ipBatch(first.netns!, [`link add ${NODE_LINK} type veth peer name ${NODE_LINK} netns ${second.netns}`])
  for (const [node, other] of [
    [first, second],
    [second, first],
  ] as const) {
    await ipBatch(node.netns!, [
      'link set lo up',
      `addr add ${node.address}/30 dev ${NODE_LINK}`,
      `addr add ${nodeIpv6(node)}/64 dev ${NODE_LINK} nodad`,
      `link set ${NODE_LINK} up`,
    ])
    await writeSettings(node.netns!, ['ipv4/ip_forward', 'ipv6/conf/all/forwarding'])
    await ipBatch(node.netns!, [
      `route add ${network(other.bridge!.ipv4)} via ${other.address}`,
      `route add ${network(other.bridge!.ipv6)} via ${nodeIpv6(other)}`,
    ])
  }
}

async function makeBridge(node: DemoNode): Promise<void> {
  await ipBatch(node.netns!, [
    // Without multicast snooping neighbour discovery works from the first packet.
    `link add ${BRIDGE} address ${linkAddress(node)} type bridge mcast_snooping 0`,
    `addr add ${node.bridge!.ipv4} dev ${BRIDGE}`,
    `addr add ${node.bridge!.ipv6} dev ${BRIDGE} nodad`,
    `link set ${BRIDGE} up`,
  ])
}

async function connectPod(plan: DemoPlan, node: DemoNode, pod: DemoPod): Promise<void> {
  await ipBatch(node.netns!, [
    `link add ${pod.name} type veth peer name eth0 netns ${pod.netns}`,
    `link set ${pod.name} master ${BRIDGE} up`,
  ])
  const [ipv4, ipv6] = pod.addresses as [string, string]
  await ipBatch(pod.netns!, [
    'link set lo up',
    `addr add ${ipv4}/24 dev eth0`,
    `addr add ${ipv6}/64 dev eth0 nodad`,
    'link set eth0 up',
    `route add default via ${host(node.bridge!.ipv4)}`,
    `route add default via ${host(node.bridge!.ipv6)}`,
  ])
  if (isMeshed(plan, pod)) await keepServicesLocal(plan, pod)
}

/**
 * Service addresses stay inside the pod, where the agent's listener takes them. The capture's own mark does the same for
 * every process of the demo; this is for those that a user starts with a bare `ip netns exec`, outside of its cgroup.
 */
async function keepServicesLocal(plan: DemoPlan, pod: DemoPod): Promise<void> {
  const [ipv4, ipv6] = pod.addresses as [string, string]
  const lines = plan.localBlocks.map(
    (block) => `route add local ${block} dev lo src ${block.includes(':') ? ipv6 : ipv4}`,
  )
  await ipBatch(pod.netns!, lines)
}

/** Address of a node on the wire between the nodes. */
function nodeIpv6(node: DemoNode): string {
  return `fd77::${node.name.replace('node', '')}`
}

/** `198.18.1.1/24` -> `198.18.1.0/24`, `fd77:1::1/64` -> `fd77:1::/64`: the gateway is always number 1. */
function network(block: string): string {
  return block.includes(':') ? block.replace('::1/', '::/') : block.replace('.1/', '.0/')
}

function host(block: string): string {
  return block.split('/')[0]!
}

/**
 * The bridge's own link address. Without one a bridge takes the lowest of its ports, which changes as pods come and go, and
 * for many seconds the others' packets to their gateway are lost: they go to the address that they have cached.
 */
function linkAddress(node: DemoNode): string {
  const bytes = host(node.bridge!.ipv4).split('.').map(Number)
  // 02: assigned locally, to one interface.
  return ['02', '00', ...bytes.map((byte) => byte.toString(16).padStart(2, '0'))].join(':')
}

/** Switches network settings on inside a namespace. `ip netns exec` shows the namespace's own /proc/sys/net. */
async function writeSettings(netns: string, names: readonly string[]): Promise<void> {
  for (const name of names) {
    await run('ip', ['netns', 'exec', netns, 'tee', `/proc/sys/net/${name}`], '1\n')
  }
}

/** What `ip netns exec` puts over /etc/hosts and /etc/resolv.conf inside the pod. */
function writeNameFiles(plan: DemoPlan, pod: DemoPod): void {
  const directory = join(NAME_FILES_DIRECTORY, pod.netns!)
  mkdirSync(directory, { recursive: true })
  const lines = ['127.0.0.1 localhost', '::1 localhost', `${pod.addresses[0]} ${pod.name}`]
  // Outside the mesh the names of services mean nothing.
  if (isMeshed(plan, pod)) {
    for (const [name, address] of hostNames(plan, pod.node)) lines.push(`${address} ${name}`)
  }
  writeFileSync(join(directory, 'hosts'), `${lines.join('\n')}\n`)
  // There is no DNS server here: other names fail at once instead of after seconds.
  writeFileSync(join(directory, 'resolv.conf'), 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n')
}

async function attempt(left: string[], what: string, action: () => Promise<unknown>): Promise<void> {
  try {
    await action()
  } catch (error) {
    left.push(`${what} (${error instanceof WeftError || error instanceof Error ? error.message : String(error)})`)
  }
}
