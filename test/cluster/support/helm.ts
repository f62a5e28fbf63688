/** Helm itself, built once from its published Go module (test/cluster/helm) into ~/.cache/weft-cluster. */
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, renameSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'

const run = promisify(execFile)

const MODULE = join(import.meta.dirname, '../helm')
const PACKAGE = 'helm.sh/helm/v3/cmd/helm'
/** A first build compiles the Kubernetes client: some minutes on two cores. */
const BUILD_MS_MAX = 1_200_000
/** The largest output: all objects with CRDs are some 300 kB. */
const OUTPUT_BYTES_MAX = 64 * 1_048_576

/** Path of the program. Rejects when Go or the modules are missing. */
export async function buildHelm(): Promise<string> {
  const version = /helm\.sh\/helm\/v3 (v[0-9.]+)/.exec(readFileSync(join(MODULE, 'go.mod'), 'utf8'))![1]!
  const directory = join(homedir(), '.cache/weft-cluster', `helm-${version}`)
  const path = join(directory, 'helm')
  if (existsSync(path)) return path
  mkdirSync(directory, { recursive: true })
  // Beside its place first: a build that is cut short must not look like one that is done.
  const unfinished = join(directory, `helm.${process.pid}`)
  const env = { ...process.env, CGO_ENABLED: '0', GOFLAGS: '-mod=mod' }
  await run('go', ['build', '-trimpath', '-ldflags=-s -w', '-o', unfinished, PACKAGE], {
    cwd: MODULE,
    env,
    timeout: BUILD_MS_MAX,
  })
  renameSync(unfinished, path)
  return path
}

/** What a test needs to run Helm: `skip` says why it cannot, and is false in CI, where the test fails instead. */
export async function needsHelm(): Promise<{ readonly skip: string | false; readonly program: string }> {
  try {
    return { skip: false, program: await buildHelm() }
  } catch (error) {
    if (process.env['CI'] === 'true') throw error
    const reason = error instanceof Error ? error.message.split('\n')[0] : String(error)
    return { skip: `Helm cannot be built: ${reason}`, program: '' }
  }
}

/** Output of one call. Rejects with what it says on standard error. */
export async function helm(path: string, args: readonly string[]): Promise<string> {
  const { stdout } = await run(path, args, { maxBuffer: OUTPUT_BYTES_MAX })
  return stdout
}
