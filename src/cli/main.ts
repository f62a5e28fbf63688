#!/usr/bin/env node
/**
 * The `weft` program: finds the command, runs it, turns its outcome into an exit code (0 done, 1 failed or a check does
 * not hold, 2 the command line was wrong). Commands are loaded only when they are run, so that `weft version` does not
 * load gRPC.
 */
import { realpathSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describeError, WeftError } from '../base/errors.ts'
import { didYouMean, UsageError } from '../base/flags.ts'
import { type Command, EXIT_FAILED, EXIT_OK, EXIT_USAGE, type Streams } from './command.ts'

interface CommandEntry {
  /** One line for the list of commands. */
  readonly summary: string
  readonly load: () => Promise<Command>
}

/** In the order of the list that `weft --help` prints. */
const COMMANDS: Readonly<Record<string, CommandEntry>> = {
  demo: {
    summary: 'Run a two-node mesh on this machine.',
    load: async () => (await import('./commands/demo.ts')).demoCommand,
  },
  check: {
    summary: 'Check whether this machine can run an agent. Changes nothing.',
    load: async () => (await import('./commands/check.ts')).checkCommand,
  },
  install: {
    summary: 'Install Weft in a Kubernetes cluster.',
    load: async () => (await import('./commands/install.ts')).installCommand,
  },
  upgrade: {
    summary: 'Upgrade Weft in a cluster, without a lost connection.',
    load: async () => (await import('./commands/install.ts')).upgradeCommand,
  },
  uninstall: {
    summary: 'Take Weft out of a cluster and off its nodes.',
    load: async () => (await import('./commands/uninstall.ts')).uninstallCommand,
  },
  render: {
    summary: 'Print the objects of an installation in a cluster. Asks no cluster.',
    load: async () => (await import('./commands/render.ts')).renderCommand,
  },
  status: {
    summary: 'Is the mesh of a cluster well? Controllers, agents, configuration, certificates.',
    load: async () => (await import('./commands/status.ts')).statusCommand,
  },
  get: {
    summary: 'Pods, services, policies and endpoints as the mesh sees them.',
    load: async () => (await import('./commands/get.ts')).getCommand,
  },
  'proxy-config': {
    summary: 'What the proxy of a pod or node has been told.',
    load: async () => (await import('./commands/proxy-config.ts')).proxyConfigCommand,
  },
  logs: {
    summary: 'Requests and connections of a pod.',
    load: async () => (await import('./commands/logs.ts')).logsCommand,
  },
  tap: {
    summary: 'Open connections of a pod, as they come and go.',
    load: async () => (await import('./commands/tap.ts')).tapCommand,
  },
  controller: {
    summary: 'Run the controller, or issue the credential of a node.',
    load: async () => (await import('./commands/controller.ts')).controllerCommand,
  },
  agent: {
    summary: 'Run the agent of this node: capture, proxy, metrics.',
    load: async () => (await import('./commands/agent.ts')).agentCommand,
  },
  version: {
    summary: 'Print the version.',
    load: async () => (await import('./commands/version.ts')).versionCommand,
  },
}

/** Runs one command line (without `node` and the script). Resolves with the exit code; never rejects. */
export async function main(args: readonly string[], streams: Streams, environment: NodeJS.ProcessEnv): Promise<number> {
  const name = args[0]
  try {
    if (name === undefined || name === '--help' || name === '-h' || (name === 'help' && args.length === 1)) {
      streams.out(overview())
      return name === undefined ? EXIT_USAGE : EXIT_OK
    }
    if (name === 'help') {
      streams.out((await findCommand(args[1]!)).help())
      return EXIT_OK
    }
    const command = await findCommand(name)
    const rest = args.slice(1)
    if (rest.includes('--help') || rest.includes('-h')) {
      streams.out(command.help())
      return EXIT_OK
    }
    return await command.run(rest, streams, environment)
  } catch (error) {
    streams.err(`weft: ${describeError(error)}\n`)
    if (!(error instanceof WeftError)) streams.err(`${error instanceof Error ? (error.stack ?? '') : ''}\n`)
    if (!(error instanceof UsageError)) return EXIT_FAILED
    const topic = name !== undefined && Object.hasOwn(COMMANDS, name) ? ` ${name}` : ''
    streams.err(`Run: weft${topic} --help\n`)
    return EXIT_USAGE
  }
}

async function findCommand(name: string): Promise<Command> {
  const entry = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
  if (entry === undefined) throw new UsageError(`unknown command "${name}"${didYouMean(name, Object.keys(COMMANDS))}`)
  return await entry.load()
}

function overview(): string {
  const list = Object.entries(COMMANDS)
    .map(([name, { summary }]) => `  ${name.padEnd(14)}${summary}\n`)
    .join('')
  return (
    'A sidecarless service mesh: one proxy per node, eBPF underneath.\n\n' +
    `Usage: weft COMMAND [flags]\n\nCommands:\n${list}\n` +
    'Examples:\n' +
    '  weft check                       # can this machine run the mesh? changes nothing\n' +
    '  weft demo                        # a two-node mesh on this machine, until Ctrl-C\n' +
    '  weft demo --duration 20s -o json # unattended, with a verdict\n' +
    '  weft COMMAND --help              # flags and examples of a command\n'
  )
}

/** Of a terminal that does not say. */
const ROWS_DEFAULT = 24

function isProgram(): boolean {
  const script = process.argv[1]
  return script !== undefined && realpathSync(script) === fileURLToPath(import.meta.url)
}

if (isProgram()) {
  const streams: Streams = {
    out: (text) => process.stdout.write(text),
    err: (text) => process.stderr.write(text),
    isTerminal: process.stdout.isTTY === true,
    rows: () => process.stdout.rows ?? ROWS_DEFAULT,
  }
  process.exitCode = await main(process.argv.slice(2), streams, process.env)
}
