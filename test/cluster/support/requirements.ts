/** What this machine lacks for a test cluster, said before anything is started. */
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { hasComponents, missingForBuild } from './components.ts'

/** Where Debian's package containernetworking-plugins has them. */
export const CNI_PLUGINS = '/usr/lib/cni'

/** Programs of a node, and of its images, by the Debian package that has them. */
const NODE_PROGRAMS = {
  containerd: 'containerd',
  ctr: 'containerd',
  runc: 'runc',
  nft: 'nftables',
  buildah: 'buildah',
  gcc: 'gcc',
} as const

const CONTROL_PLANE_PROGRAMS = {
  ip: 'iproute2',
  nsenter: 'util-linux',
  unshare: 'util-linux',
  openssl: 'openssl',
} as const

/** Options for tests: skipped with what is missing, but not in CI, where they run and fail. */
export function needsControlPlane(): { readonly skip: string | false } {
  return skipped(missingForControlPlane())
}

export function needsNodes(): { readonly skip: string | false } {
  return skipped(missingForControlPlane() ?? missingForNodes())
}

/** A sentence with the remedy; null when nothing is missing. */
export function missingForControlPlane(): string | null {
  if (process.getuid?.() !== 0) return 'A cluster is made of namespaces and cgroups, which takes root'
  const packages = packagesMissing(CONTROL_PLANE_PROGRAMS)
  if (packages.length > 0)
    return `A cluster needs Debian packages that are not installed: ${packages.join(' ')}. ${SET_UP}`
  return hasComponents() ? null : missingForBuild()
}

export function missingForNodes(): string | null {
  if (existsSync('/sys/fs/cgroup/cgroup.controllers')) {
    return 'This host has cgroup v2 alone; nodes have only been made to run with cgroup v1, or with both'
  }
  const packages = packagesMissing(NODE_PROGRAMS)
  if (!existsSync(`${CNI_PLUGINS}/ptp`)) packages.push('containernetworking-plugins')
  if (packages.length === 0) return null
  return `Nodes need Debian packages that are not installed: ${packages.join(' ')}. ${SET_UP}`
}

const SET_UP = 'Run: sh deploy/setup.sh cluster'

function packagesMissing(programs: Readonly<Record<string, string>>): string[] {
  const missing = Object.entries(programs).filter(([program]) => !hasProgram(program))
  return [...new Set(missing.map(([, name]) => name))]
}

function hasProgram(name: string): boolean {
  const path = `${process.env['PATH']}:/usr/sbin:/sbin`
  try {
    execFileSync('/bin/sh', ['-c', 'command -v "$0"', name], { stdio: 'pipe', env: { PATH: path } })
    return true
  } catch {
    return false
  }
}

function skipped(missing: string | null): { readonly skip: string | false } {
  return { skip: missing === null || process.env['CI'] === 'true' ? false : missing }
}
