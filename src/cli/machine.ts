/**
 * What this machine must have to run an agent, and the demo: looked at, never changed. `weft check` prints the rows; the
 * demo decides by them.
 */
import { createServer } from 'node:net'
import { probeKernel } from '../kernel/probe.ts'
import { hasProgram } from './demo/shell.ts'

export interface Requirement {
  readonly name: string
  readonly isMet: boolean
  /** False for what makes a difference but is not needed. */
  readonly isRequired: boolean
  /** What was found, or what to do. */
  readonly detail: string
}

/** `engines` of package.json: type stripping without a flag, and all of node:test that the tests use. */
const NODE_MAJOR_MIN = 22
const NODE_MINOR_MIN = 18

/** Of the agent, on every address: metrics, readiness; and admin. */
const AGENT_PORTS = [15_000, 15_020, 15_021]

/** Programs with which the demo makes its namespaces, and the Debian packages that have them. */
const DEMO_PROGRAMS: readonly (readonly [program: string, debianPackage: string])[] = [
  ['ip', 'iproute2'],
  ['nsenter', 'util-linux'],
  ['setpriv', 'util-linux'],
  ['mount', 'mount'],
  ['tcpdump', 'tcpdump'],
]

/** What an agent with eBPF capture needs. */
export async function agentRequirements(): Promise<readonly Requirement[]> {
  return [runtime(), ...kernelRequirements(), ...(await Promise.all(AGENT_PORTS.map(freePort)))]
}

/** What the demo needs for eBPF capture. Its ports are in namespaces of its own. */
export async function demoRequirements(): Promise<readonly Requirement[]> {
  const programs = DEMO_PROGRAMS.map(async ([program, debianPackage]) => {
    const isMet = await hasProgram(program)
    const detail = isMet ? 'found' : `not found. Run: apt-get install -y ${debianPackage}`
    return { name: `program ${program}`, isMet, isRequired: true, detail }
  })
  // The demo mounts a cgroup2 hierarchy of its own where there is none.
  const kernel = kernelRequirements().map((row) => (row.name === 'cgroup2' ? { ...row, isRequired: false } : row))
  return [runtime(), ...kernel, ...(await Promise.all(programs))]
}

function runtime(): Requirement {
  const version = process.versions.node
  const [major, minor] = version.split('.').map(Number) as [number, number]
  const isMet = major > NODE_MAJOR_MIN || (major === NODE_MAJOR_MIN && minor >= NODE_MINOR_MIN)
  const detail = isMet ? version : `${version} is too old. Run npm ci, which brings its own, and start through npm`
  return { name: `Node.js >= ${NODE_MAJOR_MIN}.${NODE_MINOR_MIN}`, isMet, isRequired: true, detail }
}

/** Every address counts: the agent listens on all of them by default. */
function freePort(port: number): Promise<Requirement> {
  const name = `port ${port}`
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', (error: NodeJS.ErrnoException) => {
      const detail = `${error.code}: end what listens there (ss -ltnp 'sport = :${port}'), or give the agent another port`
      resolve({ name, isMet: false, isRequired: true, detail })
    })
    server.listen(port, '0.0.0.0', () => {
      server.close(() => resolve({ name, isMet: true, isRequired: true, detail: 'free' }))
    })
  })
}

function kernelRequirements(): readonly Requirement[] {
  return probeKernel().map(({ name, ok, isRequired, detail, remedy }) => ({
    name,
    isMet: ok,
    isRequired,
    detail: remedy === '' ? detail : `${detail}: ${remedy}`,
  }))
}
