/** `npm run cluster -- up|down|status|build|clean|kubectl`: Kubernetes clusters of real components on this machine. */
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { jsonText, tableText } from '../../src/cli/output.ts'
import { NODES_MAX } from './support/addresses.ts'
import { cleanCache } from './support/cache.ts'
import { askSupervisor, Cluster, takeDown } from './support/cluster.ts'
import { CLUSTERS_DIRECTORY, ClusterFiles, checkClusterName } from './support/cluster-files.ts'
import { CLUSTER_LEVELS, type ClusterLevel, type ClusterState } from './support/cluster-state.ts'
import { buildComponents, componentPath } from './support/components.ts'
import { buildHelm } from './support/helm.ts'
import { buildImages } from './support/images.ts'
import { missingForNodes } from './support/requirements.ts'

const HELP = `Usage: npm run cluster -- <command> [flags]

A Kubernetes cluster on this machine, of real components, in network namespaces with no route out.

  up                 starts a cluster; it runs until it is taken down
  down               ends it; nothing is left
  status             tells what runs
  build              builds the components and images that a cluster needs, and starts nothing
  clean              removes what was built, but for the components of this checkout and what clusters use
  kubectl ARGS...    runs kubectl as the cluster's administrator

Flags:
  --level control-plane|node   node runs pods; control-plane has an API server and controllers only (default node)
  --nodes N                    nodes, from 1 to ${NODES_MAX} (default 1)
  --name NAME                  several clusters run side by side by name (default main)
  -o, --output text|json       with status
  -h, --help

Examples:
  npm run cluster -- up --nodes 2
  npm run cluster -- kubectl get pods -A
  npm run cluster -- status -o json
  npm run cluster -- down

Exit codes: 0 done; 1 failed, or status found no such cluster; 2 wrong usage.
`

const EXIT_FAILED = 1
const EXIT_USAGE = 2

/** A command line that cannot be meant. */
class UsageError extends Error {}

interface Flags {
  readonly level: ClusterLevel
  readonly nodeCount: number
  readonly name: string
  readonly isJson: boolean
}

async function main(args: readonly string[]): Promise<number> {
  const [verb, ...rest] = args
  if (verb === undefined || verb === 'help' || args.includes('-h') || args.includes('--help')) {
    process.stdout.write(HELP)
    return verb === undefined ? EXIT_USAGE : 0
  }
  if (verb === 'kubectl') return kubectl(rest)
  const flags = readFlags(rest)
  switch (verb) {
    case 'up':
      return up(flags)
    case 'down':
      return down(flags)
    case 'status':
      return status(flags)
    case 'build':
      return build()
    case 'clean':
      return clean()
    default:
      throw new UsageError(`there is no command "${verb}"`)
  }
}

function readFlags(args: readonly string[]): Flags {
  let values: { level: string; nodes: string; name: string; output: string }
  try {
    values = parseArgs({
      args: [...args],
      options: {
        level: { type: 'string', default: 'node' },
        nodes: { type: 'string', default: '1' },
        name: { type: 'string', default: 'main' },
        output: { type: 'string', short: 'o', default: 'text' },
      },
    }).values
  } catch (error) {
    throw new UsageError((error as Error).message)
  }
  const level = CLUSTER_LEVELS.find((one) => one === values.level)
  if (level === undefined) throw new UsageError(`--level must be one of ${CLUSTER_LEVELS.join(', ')}`)
  const nodeCount = Number(values.nodes)
  if (!Number.isInteger(nodeCount) || nodeCount < 1 || nodeCount > NODES_MAX) {
    throw new UsageError(`--nodes must be a number from 1 to ${NODES_MAX}`)
  }
  if (!['text', 'json'].includes(values.output)) throw new UsageError('--output must be text or json')
  try {
    checkClusterName(values.name)
  } catch (error) {
    throw new UsageError(`--name: ${(error as Error).message}`)
  }
  return { level, nodeCount, name: values.name, isJson: values.output === 'json' }
}

async function up({ level, nodeCount, name }: Flags): Promise<number> {
  const begin = performance.now()
  const hasNodes = level === 'node'
  const plan = { level, nodeCount: hasNodes ? nodeCount : 0, hasWeft: hasNodes }
  const cluster = await Cluster.start(plan, { name, say })
  await cluster.detach()
  say(`cluster ${name} is ready after ${((performance.now() - begin) / 1000).toFixed(1)} s`)
  process.stdout.write(`export KUBECONFIG=${cluster.kubeconfig}\n`)
  return 0
}

async function build(): Promise<number> {
  await buildComponents(say)
  await buildHelm()
  const missing = missingForNodes()
  if (missing !== null) throw new Error(`${missing}. Without nodes there is --level control-plane`)
  buildImages({ hasWeft: true }, say)
  return 0
}

function clean(): number {
  const removed = cleanCache()
  say(removed.length === 0 ? 'there is nothing to remove' : `removed ${removed.length}: ${removed.join(' ')}`)
  return 0
}

/** One by one, and only by name: others may have theirs on the same machine. */
async function down({ name }: Flags): Promise<number> {
  say((await takeDown(name)) ? `cluster ${name} is gone` : `there is no cluster ${name}${othersText(name)}`)
  return 0
}

async function status({ name, isJson }: Flags): Promise<number> {
  const state = await askSupervisor(name, { verb: 'status' })
  if (isJson) process.stdout.write(jsonText(state))
  else if (state === null) say(`no cluster ${name} runs${othersText(name)}`)
  else process.stdout.write(stateText(state))
  return state === null ? EXIT_FAILED : 0
}

function stateText(state: ClusterState): string {
  const components = state.components.map(({ machine, name, pid, logPath }) => [
    `${machine}/${name}`,
    pid === null ? 'stopped' : `pid ${pid}`,
    logPath,
  ])
  const condition = state.isReady ? '' : ', starting'
  return `cluster ${state.name}: Kubernetes ${state.version}, level ${state.level}${condition}\nkubeconfig ${state.kubeconfig}\n\n${tableText(components)}`
}

function othersText(name: string): string {
  const others = clusterNames().filter((one) => one !== name)
  return others.length === 0 ? '' : `; there are: ${others.join(', ')}`
}

function clusterNames(): readonly string[] {
  return existsSync(CLUSTERS_DIRECTORY) ? readdirSync(CLUSTERS_DIRECTORY) : []
}

/** `--name NAME` first, if at all; everything else is kubectl's. */
function kubectl(args: readonly string[]): number {
  const [flag, chosenName] = args
  const hasName = flag === '--name' && chosenName !== undefined
  const { adminKubeconfig } = new ClusterFiles(hasName ? chosenName : 'main')
  const command = ['--kubeconfig', adminKubeconfig, ...(hasName ? args.slice(2) : args)]
  return spawnSync(componentPath('kubectl'), command, { stdio: 'inherit' }).status ?? EXIT_FAILED
}

function say(line: string): void {
  process.stderr.write(`weft: ${line}\n`)
}

main(process.argv.slice(2)).then(
  (code) => {
    process.exitCode = code
  },
  (error: Error) => {
    say(error.message)
    if (error instanceof UsageError) say('see npm run cluster -- --help')
    process.exitCode = error instanceof UsageError ? EXIT_USAGE : EXIT_FAILED
  },
)
