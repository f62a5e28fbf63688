/**
 * A machine of a test cluster: namespaces of its own (mounts, network, processes, cgroups, host name, IPC) around a
 * process 1 (machine/machine.sh), with cgroups of its own in every hierarchy. Only this process holds it: when it is
 * killed, or whoever started it dies, the kernel takes everything away but the cgroups and the directory.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, mkdirSync, openSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { endCgroups, machineCgroups, makeCgroup, procsFiles } from './cgroups.ts'

const MACHINE_SCRIPT = join(import.meta.dirname, '../machine/machine.sh')

/** What is installed for administrators is found, whoever starts a cluster. */
export const ENVIRONMENT = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin:/sbin` }

/** Joins the cgroups whose files stand before `--`, then becomes the program after it. */
const JOIN_SCRIPT = 'while [ "$1" != -- ]; do echo $$ >"$1" || exit 1; shift; done; shift; exec "$@"'

export interface MachineOptions {
  /** Part of the cgroups' names. */
  readonly clusterName: string
  readonly name: string
  /** Its own, made by it. */
  readonly directory: string
  /** Seen inside at the same place, and read-only. */
  readonly readOnlyPaths: readonly string[]
  /** IPv4 address of its name server. */
  readonly nameServer: string
}

/** How a program ended. */
export interface Ended {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

export class Machine {
  readonly name: string
  readonly directory: string
  /** Of its process 1, as seen from outside. */
  readonly pid: number
  readonly cgroups: readonly string[]

  private constructor(options: MachineOptions, cgroups: readonly string[], pid: number) {
    this.name = options.name
    this.directory = options.directory
    this.cgroups = cgroups
    this.pid = pid
  }

  static async start(options: MachineOptions): Promise<Machine> {
    const { clusterName, name, directory, readOnlyPaths } = options
    mkdirSync(directory, { recursive: true })
    writeFileSync(join(directory, 'resolv.conf'), `nameserver ${options.nameServer}\noptions ndots:1\n`)
    const cgroups = machineCgroups(clusterName, name)
    for (const cgroup of cgroups) makeCgroup(cgroup)
    const namespaces = ['--mount', '--net', '--pid', '--uts', '--ipc', '--cgroup', '--fork', '--kill-child']
    const script = ['bash', MACHINE_SCRIPT, name, directory, ...readOnlyPaths]
    const starter = spawn(
      'setpriv',
      [
        '--pdeathsig',
        'KILL',
        'sh',
        '-c',
        JOIN_SCRIPT,
        'sh',
        ...procsFiles(cgroups),
        '--',
        'unshare',
        ...namespaces,
        ...script,
      ],
      { stdio: ['ignore', 'pipe', 'pipe'], env: ENVIRONMENT },
    )
    let complaint = ''
    starter.stderr.setEncoding('utf8').on('data', (text: string) => {
      complaint += text
    })
    for await (const line of createInterface({ input: starter.stdout })) {
      if (line === 'ready') return new Machine(options, cgroups, childOf(starter.pid!)!)
    }
    throw new Error(`the machine ${name} could not be made: ${complaint.trim()}`)
  }

  /** Arguments of `sh` that run a command inside; for `child_process`. */
  command(args: readonly string[]): readonly string[] {
    return enterCommand(this.pid, this.cgroups, args)
  }

  /** Starts a program inside, with its output in a file of that name; it ends with its starter. */
  spawn(logPath: string, args: readonly string[]): ChildProcess {
    const log = openSync(logPath, 'a')
    const child = spawn('sh', this.command(args), { stdio: ['ignore', log, log], env: ENVIRONMENT })
    closeSync(log)
    return child
  }

  /** Runs a program inside until it ends. */
  async run(args: readonly string[], input = ''): Promise<Ended> {
    return endOf(spawn('sh', this.command(args), { stdio: 'pipe', env: ENVIRONMENT }), input)
  }

  /** Lines for `ip -batch`, in its network. */
  async ip(lines: readonly string[]): Promise<void> {
    const { status, stderr } = await this.run(['ip', '-batch', '-'], lines.join('\n'))
    if (status !== 0) throw new Error(`the network of machine ${this.name}: ${stderr.trim()}`)
  }

  /** Kills all that runs there; its directory stays. */
  async stop(): Promise<void> {
    await endCgroups(() => this.cgroups)
  }

  /** Sets a kernel setting, of its network for instance. */
  async set(setting: string, value: string): Promise<void> {
    const { status, stderr } = await this.run(['sh', '-c', 'echo "$1" >"/proc/sys/$0"', setting, value])
    if (status !== 0) throw new Error(`the setting ${setting} of machine ${this.name}: ${stderr.trim()}`)
  }
}

/** Arguments of `sh` that run `args` in the namespaces of the process `pid`, as a member of `cgroups`. */
export function enterCommand(pid: number, cgroups: readonly string[], args: readonly string[]): readonly string[] {
  const namespaces = ['--mount', '--net', '--pid', '--uts', '--ipc', '--cgroup']
  const enter = ['nsenter', '--target', String(pid), ...namespaces, '--', 'setpriv', '--pdeathsig', 'KILL', '--']
  return ['-c', JOIN_SCRIPT, 'sh', ...procsFiles(cgroups), '--', 'setpriv', '--pdeathsig', 'KILL', ...enter, ...args]
}

/** Output and status of a child. */
export async function endOf(child: ChildProcess, input = ''): Promise<Ended> {
  let stdout = ''
  let stderr = ''
  child.stdout!.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  // Who does not read its input may be gone before it is written.
  child.stdin!.on('error', () => {})
  child.stdin!.end(input)
  const [status] = (await once(child, 'close')) as [number | null]
  return { status, stdout, stderr }
}

/** The process that a program like `nsenter` or `unshare` forked; null when it has none. */
export function childOf(pid: number): number | null {
  try {
    const [child] = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ')
    return child === '' || child === undefined ? null : Number(child)
  } catch {
    return null
  }
}
