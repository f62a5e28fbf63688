/**
 * The Kubernetes components of test clusters: built once from their published Go modules (components/go.mod), then kept
 * in the cache under a name that changes with the sources.
 */
import { execFileSync, spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { CACHE_DIRECTORY } from './cluster-files.ts'
import { markUsed, removeUnused } from './unused-files.ts'

const SOURCES = join(import.meta.dirname, '../components')

/** The one program answers to each of these names. */
const NAMES = [
  'etcd',
  'kube-apiserver',
  'kube-controller-manager',
  'kube-scheduler',
  'kubelet',
  'kube-proxy',
  'kubectl',
  'coredns',
] as const

export type ComponentName = (typeof NAMES)[number]

/** What go.mod asks for. */
export const KUBERNETES_VERSION = /k8s\.io\/kubernetes (v[0-9.]+)/.exec(
  readFileSync(join(SOURCES, 'go.mod'), 'utf8'),
)![1]!

/** What stays when components are built: 140 MB each, for checkouts of other versions. */
const COMPONENTS_KEPT = { keptCount: 3, keptMs: 3_600_000 }

/** Oldest Go that go.mod accepts; a newer one is no reason to build anew. */
const GO_NEEDED = '1.24'

/** Compilers side by side: a linker of this program takes 2.4 GB, and other work goes on beside. */
const GO_PARALLEL = 2

/** On two cores it takes five minutes, with the machine to itself; nobody waits for one that hangs. */
const BUILD_TIMEOUT_S = 3000

/** Every so many packages of about 1800 there is a line of progress. */
const PACKAGES_PER_LINE = 200

/** Where the components of these sources are, built or not. */
export function componentsDirectory(): string {
  const hash = createHash('sha256')
  for (const file of ['go.mod', 'go.sum', 'main.go']) hash.update(readFileSync(join(SOURCES, file)))
  return join(CACHE_DIRECTORY, `${KUBERNETES_VERSION}-${hash.digest('hex').slice(0, 12)}`)
}

/** True for names of such directories in the cache, whatever their version. */
export function isComponents(name: string): boolean {
  return /^v[0-9]/.test(name)
}

export function componentPath(name: ComponentName): string {
  return join(componentsDirectory(), name)
}

/** True when nothing is left to build. */
export function hasComponents(): boolean {
  return NAMES.every((name) => existsSync(componentPath(name)))
}

/** Builds what is missing. Two that ask at once build once: the second waits for the first. */
export async function buildComponents(say: (line: string) => void): Promise<void> {
  const directory = componentsDirectory()
  if (hasComponents()) {
    markUsed(directory)
    return
  }
  const missing = missingForBuild()
  if (missing !== null) throw new Error(missing)
  mkdirSync(directory, { recursive: true })
  const program = join(directory, 'components')
  const unfinished = `${program}.unfinished-${process.pid}`
  say(`building Kubernetes ${KUBERNETES_VERSION} from its Go modules, once: minutes`)
  // The second one finds the first one's program, and go's own cache does the rest if it does not.
  const script = '[ -e "$1" ] || exec nice -n 5 go build -v -trimpath -buildvcs=false -ldflags "$2" -o "$3" .'
  const lock = join(CACHE_DIRECTORY, 'build.lock')
  const command = ['flock', lock, 'sh', '-c', script, 'sh', program, linkerFlags(), unfinished]
  const child = spawn('timeout', [String(BUILD_TIMEOUT_S), ...command], {
    cwd: SOURCES,
    env: { ...process.env, CGO_ENABLED: '0', GOFLAGS: `-p=${GO_PARALLEL}`, GOTOOLCHAIN: 'local' },
    stdio: ['ignore', 'ignore', 'pipe'],
  })
  const lastLines: string[] = []
  let packageCount = 0
  createInterface({ input: child.stderr }).on('line', (line) => {
    lastLines.push(line)
    if (lastLines.length > 20) lastLines.shift()
    packageCount++
    if (packageCount % PACKAGES_PER_LINE !== 0) return
    markUsed(directory)
    say(`building: ${packageCount} packages fetched or compiled`)
  })
  const status = await new Promise<number | null>((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  if (status !== 0) {
    rmSync(unfinished, { force: true })
    throw new Error(`Kubernetes could not be built (status ${status}). Its last words:\n${lastLines.join('\n')}`)
  }
  if (existsSync(unfinished)) renameSync(unfinished, program)
  for (const name of NAMES) {
    if (!existsSync(join(directory, name))) symlinkOnce('components', join(directory, name))
  }
  removeUnused(CACHE_DIRECTORY, { ...COMPONENTS_KEPT, isOfKind: isComponents })
}

function symlinkOnce(target: string, path: string): void {
  try {
    symlinkSync(target, path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
  }
}

/** Why the components cannot be built here; null when they can. */
export function missingForBuild(): string | null {
  const remedy = `Install Go ${GO_NEEDED} or newer`
  let version: string
  try {
    version = execFileSync('go', ['env', 'GOVERSION'], { encoding: 'utf8', stdio: 'pipe' }).trim()
  } catch {
    return `Kubernetes is built by Go, and there is no program "go". ${remedy}`
  }
  const [major, minor] = /^go([0-9]+)\.([0-9]+)/.exec(version)?.slice(1).map(Number) ?? [0, 0]
  const [majorNeeded, minorNeeded] = GO_NEEDED.split('.').map(Number) as [number, number]
  const isOld = major! < majorNeeded || (major === majorNeeded && minor! < minorNeeded)
  return isOld ? `Kubernetes needs a newer Go than ${version} to be built. ${remedy}` : null
}

/** Kubernetes reads its version from variables that its own build sets, and refuses to start as v0.0.0. */
function linkerFlags(): string {
  const [major, minor] = KUBERNETES_VERSION.slice(1).split('.')
  const values = {
    gitVersion: KUBERNETES_VERSION,
    gitMajor: major!,
    gitMinor: minor!,
    gitCommit: KUBERNETES_VERSION,
    gitTreeState: 'archive',
    buildDate: '1970-01-01T00:00:00Z',
  }
  const flags = ['-s', '-w']
  for (const owner of ['k8s.io/component-base/version', 'k8s.io/client-go/pkg/version']) {
    for (const [name, value] of Object.entries(values)) flags.push('-X', `${owner}.${name}=${value}`)
  }
  return flags.join(' ')
}
