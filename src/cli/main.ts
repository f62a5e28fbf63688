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

/** In the order of the list that `weft --help` prints. */
const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  demo: async () => (await import('./commands/demo.ts')).demoCommand,
  check: async () => (await import('./commands/check.ts')).checkCommand,
  controller: async () => (await import('./commands/controller.ts')).controllerCommand,
  agent: async () => (await import('./commands/agent.ts')).agentCommand,
  version: async () => (await import('./commands/version.ts')).versionCommand,
}

/** Runs one command line (without `node` and the script). Resolves with the exit code; never rejects. */
export async function main(args: readonly string[], streams: Streams, environment: NodeJS.ProcessEnv): Promise<number> {
  const name = args[0]
  try {
    if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
      streams.out(await overview())
      return name === undefined ? EXIT_USAGE : EXIT_OK
    }
    const load = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined
    if (load === undefined) {
      throw new UsageError(`unknown command "${name}"${didYouMean(name, Object.keys(COMMANDS))}`)
    }
    const command = await load()
    const rest = args.slice(1)
    if (rest.includes('--help') || rest.includes('-h')) {
      streams.out(await command.help())
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

async function overview(): Promise<string> {
  const commands = await Promise.all(Object.values(COMMANDS).map((load) => load()))
  const list = commands.map((command) => `  ${command.name.padEnd(12)}${command.summary}\n`).join('')
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

function isProgram(): boolean {
  const script = process.argv[1]
  return script !== undefined && realpathSync(script) === fileURLToPath(import.meta.url)
}

if (isProgram()) {
  const streams: Streams = {
    out: (text) => process.stdout.write(text),
    err: (text) => process.stderr.write(text),
    isTerminal: process.stdout.isTTY === true,
  }
  process.exitCode = await main(process.argv.slice(2), streams, process.env)
}
