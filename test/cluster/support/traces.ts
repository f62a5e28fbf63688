/** What a cluster has on this machine: taken while it runs, looked for again after it ended. */
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { setTimeout as delay } from 'node:timers/promises'
import { cgroupsOfCluster } from './cgroups.ts'
import type { Cluster } from './cluster.ts'
import { CLUSTERS_DIRECTORY } from './cluster-files.ts'

const INTERFACES = '/sys/class/net'

/** Killed processes of a busy machine are reaped much sooner. */
const GONE_TIMEOUT_MS = 20_000

export class Traces {
  private readonly name: string
  private readonly directory: string
  /** Of the interface on the host; its name is given to the next cluster at once. */
  private readonly interfaceIndex: string

  private constructor(name: string, directory: string, interfaceIndex: string) {
    this.name = name
    this.directory = directory
    this.interfaceIndex = interfaceIndex
  }

  static of({ state }: Cluster): Traces {
    const interfaceName = `weftc${state.host!.ipv4.split('.')[2]}`
    return new Traces(state.name, state.directory, interfaceIndexOf(interfaceName))
  }

  /** What stays; empty when all is gone. The kernel takes a killed machine apart in the background. */
  async leftForGood(): Promise<readonly string[]> {
    const deadline = performance.now() + GONE_TIMEOUT_MS
    while (this.left().length > 0 && performance.now() < deadline) await delay(50)
    return this.left()
  }

  /** What is there now, one line each. */
  left(): readonly string[] {
    const found: string[] = []
    for (const pid of processIds()) {
      // Numbers of namespaces are given anew; cgroups have names.
      if (fileOf(pid, 'cgroup').includes(`/weft-cluster-${this.name}-`)) found.push(`process ${pid}`)
      if (fileOf(pid, 'cmdline').includes(`"name":"${this.name}"`)) found.push(`supervisor ${pid}`)
    }
    for (const group of cgroupsOfCluster(this.name)) found.push(`cgroup ${group}`)
    for (const line of readFileSync('/proc/mounts', 'utf8').split('\n')) {
      if (line.includes(this.directory)) found.push(`mount ${line}`)
    }
    for (const name of readdirSync(INTERFACES)) {
      if (name.startsWith('weftc') && interfaceIndexOf(name) === this.interfaceIndex) found.push(`interface ${name}`)
    }
    for (const path of [this.directory, ...leavings('/run', this.name), ...leavings('/tmp', this.name)]) {
      if (existsSync(path)) found.push(`path ${path}`)
    }
    return found
  }
}

/** Empty when it is gone. */
function interfaceIndexOf(name: string): string {
  try {
    return readFileSync(`${INTERFACES}/${name}/ifindex`, 'utf8')
  } catch {
    return ''
  }
}

function leavings(directory: string, name: string): readonly string[] {
  const own = (entry: string): boolean => entry.includes(name) && `${directory}/${entry}` !== CLUSTERS_DIRECTORY
  return readdirSync(directory)
    .filter(own)
    .map((entry) => `${directory}/${entry}`)
}

function processIds(): readonly number[] {
  return readdirSync('/proc')
    .filter((name) => /^[0-9]+$/.test(name))
    .map(Number)
}

/** Empty when the process has ended. */
function fileOf(pid: number, name: string): string {
  try {
    return readFileSync(`/proc/${pid}/${name}`, 'utf8')
  } catch {
    return ''
  }
}
