/**
 * Network namespaces for tests with the real kernel: pods on a bridge in a node of their own, and a cgroup into which
 * every process of the pods is put. eBPF is only ever attached to that cgroup, never to the machine's root.
 *
 *      pod a (198.18.0.1, fd77::1)   pod b (198.18.0.2, fd77::2) ...
 *              eth0 |                        eth0 |
 *          ---------+-----------------------------+------ bridge, 198.18.0.254 / fd77::fe, in netns <prefix>-node
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { findCgroup2Mount } from '../../src/kernel/probe.ts'

/**
 * Option for tests that need root: skipped with the reason without it, but not in CI, where they fail instead.
 */
export const needsRoot: { readonly skip: string | false } = {
  skip: process.getuid?.() === 0 || process.env['CI'] === 'true' ? false : 'needs root: network namespaces and eBPF',
}

export interface TestPod {
  readonly name: string
  readonly netns: string
  readonly ipv4: string
  readonly ipv6: string
}

/** How a child ended. */
export interface Finished {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

let networks = 0

export class TestNetwork {
  readonly prefix: string
  /** The cgroup (v2) of all processes that `run` and `start` make. */
  readonly cgroupPath: string
  readonly nodeNetns: string
  private readonly pods = new Map<string, TestPod>()
  private readonly children = new Set<ChildProcess>()
  /** Where the test's process was before `join`. */
  private ownCgroup: string | null = null

  private constructor(prefix: string, cgroupPath: string) {
    this.prefix = prefix
    this.cgroupPath = cgroupPath
    this.nodeNetns = `${prefix}-node`
  }

  /** Makes the network with pods of these names; pod n has 198.18.0.n and fd77::n (n from 1). */
  static create(podNames: readonly string[]): TestNetwork {
    const prefix = `weft-t${process.pid}-${++networks}`
    const cgroup2 = findCgroup2Mount()
    if (cgroup2 === null) throw new Error('no cgroup2 file system is mounted')
    removeAbandoned(cgroup2)
    const network = new TestNetwork(prefix, `${cgroup2}/${prefix}`)
    mkdirSync(network.cgroupPath)
    network.ip(`netns add ${network.nodeNetns}`)
    network.ipBatch(network.nodeNetns, [
      'link set lo up',
      // An address of its own: it would change with the pods, whose cached one of their gateway would be wrong then.
      'link add br0 address 02:00:c6:12:00:fe type bridge',
      'addr add 198.18.0.254/24 dev br0',
      '-6 addr add fd77::fe/64 dev br0 nodad',
      'link set br0 up',
    ])
    for (const name of podNames) network.addPod(name)
    return network
  }

  addPod(name: string): TestPod {
    const number = this.pods.size + 1
    const netnsName = `${this.prefix}-${name}`
    const pod = { name, netns: `/var/run/netns/${netnsName}`, ipv4: `198.18.0.${number}`, ipv6: `fd77::${number}` }
    this.ip(`netns add ${netnsName}`)
    this.pods.set(name, pod)
    this.ipBatch(this.nodeNetns, [
      `link add v${number} type veth peer name eth0 netns ${netnsName}`,
      `link set v${number} master br0 up`,
    ])
    this.ipBatch(netnsName, [
      'link set lo up',
      'link set eth0 up',
      `addr add ${pod.ipv4}/24 dev eth0`,
      `-6 addr add ${pod.ipv6}/64 dev eth0 nodad`,
      'route add default via 198.18.0.254',
      '-6 route add default via fd77::fe',
    ])
    return pod
  }

  pod(name: string): TestPod {
    const pod = this.pods.get(name)
    if (pod === undefined) throw new Error(`the test network has no pod ${name}`)
    return pod
  }

  /** Deletes a pod's netns by name; the kernel frees it when nobody holds it any more. */
  deletePod(name: string): void {
    this.ip(`netns del ${this.prefix}-${name}`)
    this.pods.delete(name)
  }

  /** Output of `ip` run inside a pod's netns. */
  ipIn(pod: TestPod, command: string): string {
    return execFileSync('nsenter', [`--net=${pod.netns}`, 'ip', ...command.split(' ')], { encoding: 'utf8' })
  }

  /**
   * Puts the test's own process into the cgroup, as an agent's is in the one that it captures. Sockets belong to the
   * cgroup in which they were made. `close` puts it back.
   */
  join(): void {
    this.ownCgroup ??= cgroup2OfThisProcess()
    writeFileSync(`${this.cgroupPath}/cgroup.procs`, String(process.pid))
  }

  /** Runs a program inside a pod, but outside of the test's cgroup. */
  runOutside(pod: TestPod, command: readonly string[]): Promise<Finished> {
    const script = 'echo $$ > "$0/../cgroup.procs" && net="$1" && shift && exec nsenter --net="$net" "$@"'
    return finished(spawn('sh', ['-c', script, this.cgroupPath, pod.netns, ...command], { stdio: 'pipe' }))
  }

  /** True when the node's netns has an interface of that name: `v<n>` is pod n's until its netns is freed. */
  nodeHas(interfaceName: string): boolean {
    const links = execFileSync('ip', ['-n', this.nodeNetns, '-br', 'link'], { encoding: 'utf8' })
    return links.split('\n').some((line) => line.startsWith(`${interfaceName}@`))
  }

  /** Starts a program inside a pod and the test's cgroup. It is killed by `close` at the latest. */
  start(pod: TestPod, command: readonly string[]): ChildProcess {
    const script = 'echo $$ > "$0/cgroup.procs" && net="$1" && shift && exec nsenter --net="$net" "$@"'
    const child = spawn('sh', ['-c', script, this.cgroupPath, pod.netns, ...command], { stdio: 'pipe' })
    this.children.add(child)
    child.on('exit', () => this.children.delete(child))
    return child
  }

  /** Runs a program inside a pod and the test's cgroup until it ends. */
  run(pod: TestPod, command: readonly string[]): Promise<Finished> {
    return finished(this.start(pod, command))
  }

  /**
   * Kills what still runs, takes the steps of the test's own, removes namespaces and cgroup. All of it, also when a part
   * fails, because a process that lives on would keep the test from ending; rejects with the first failure then.
   */
  async close(...steps: readonly (() => unknown)[]): Promise<void> {
    const running = [...this.children]
    for (const child of running) child.kill('SIGKILL')
    await Promise.all(running.map((child) => (child.exitCode === null ? onceExited(child) : null)))
    const failures: unknown[] = []
    for (const step of [...steps, () => this.remove()]) {
      try {
        await step()
      } catch (error) {
        failures.push(error)
      }
    }
    if (failures.length > 0) throw failures[0]
  }

  private async remove(): Promise<void> {
    if (this.ownCgroup !== null) writeFileSync(`${this.ownCgroup}/cgroup.procs`, String(process.pid))
    for (const name of [...this.pods.keys()]) this.deletePod(name)
    this.ip(`netns del ${this.nodeNetns}`)
    removePins(this.prefix)
    // A process that has just ended may be counted in its cgroup for a moment.
    for (let tries = 0; tries < 100; tries++) {
      if (readFileSync(`${this.cgroupPath}/cgroup.procs`, 'utf8') === '') break
      await delay(10)
    }
    rmdirSync(this.cgroupPath)
  }

  private ip(command: string): void {
    execFileSync('ip', command.split(' '), { stdio: ['ignore', 'ignore', 'pipe'] })
  }

  /** One `ip` process for several commands; `-6 ` in front of one is understood. */
  private ipBatch(netnsName: string, commands: readonly string[]): void {
    for (const isIpv6 of [false, true]) {
      const batch = commands.filter((command) => command.startsWith('-6 ') === isIpv6).map((c) => c.replace('-6 ', ''))
      const family = isIpv6 ? ['-6'] : []
      execFileSync('ip', [...family, '-n', netnsName, '-batch', '-'], { input: batch.join('\n') })
    }
  }
}

/** Removes namespaces and cgroups of test processes that were killed before they could; their names have the pid. */
function removeAbandoned(cgroup2: string): void {
  const isAbandoned = (name: string): boolean => {
    const pid = /^weft-t([0-9]+)-/.exec(name)?.[1]
    return pid !== undefined && !existsSync(`/proc/${pid}`)
  }
  for (const name of readdirSync(cgroup2).filter(isAbandoned)) {
    for (const pid of readFileSync(`${cgroup2}/${name}/cgroup.procs`, 'utf8').split('\n')) {
      if (pid !== '') process.kill(Number(pid), 'SIGKILL')
    }
    try {
      rmdirSync(`${cgroup2}/${name}`)
    } catch {
      // What was killed just now has not left yet: the next test removes it.
    }
  }
  const namespaces = existsSync('/var/run/netns') ? readdirSync('/var/run/netns') : []
  for (const name of namespaces.filter(isAbandoned)) execFileSync('ip', ['netns', 'del', name])
  const pins = readdirSync('/run').filter(isAbandoned)
  for (const name of pins) {
    removePins(name.replace(/^(weft-t[0-9]+)-.*/, '$1'))
    rmSync(`/run/${name}`, { recursive: true, force: true })
  }
}

/** Removes the bpf file systems in /run that agents with such names have left there. */
function removePins(prefix: string): void {
  for (const line of readFileSync('/proc/self/mounts', 'utf8').split('\n')) {
    const [, path, type] = line.split(' ')
    if (type !== 'bpf' || !path!.startsWith(`/run/${prefix}-`)) continue
    execFileSync('umount', ['-l', path!])
    rmdirSync(path!)
  }
}

/** The directory of the cgroup (v2) that this process is in. */
function cgroup2OfThisProcess(): string {
  const path = /^0::(.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'))?.[1] ?? '/'
  return `${findCgroup2Mount()}${path}`
}

/** Resolves when `child` has ended, with what it wrote. */
export function finished(child: ChildProcess): Promise<Finished> {
  let stdout = ''
  let stderr = ''
  child.stdout?.on('data', (chunk) => {
    stdout += chunk
  })
  child.stderr?.on('data', (chunk) => {
    stderr += chunk
  })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (status) => resolve({ status, stdout, stderr }))
  })
}

function onceExited(child: ChildProcess): Promise<void> {
  return new Promise((resolve) => child.once('exit', () => resolve()))
}
