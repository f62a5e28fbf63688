/** `weft demo`: a two-node mesh on this machine. */
import { tmpdir, userInfo } from 'node:os'
import { join } from 'node:path'
import { WeftError } from '../../base/errors.ts'
import {
  choiceFlag,
  describeFlags,
  durationFlag,
  outputFlag,
  parseFlags,
  switchFlag,
  UsageError,
} from '../../base/flags.ts'
import { type Command, EXIT_FAILED, EXIT_OK, helpText, type Streams } from '../command.ts'
import { failureJson, runDemo } from '../demo/demo.ts'
import { takeLock } from '../demo/lock.ts'
import { type CaptureKind, DEMO_NAME } from '../demo/plan.ts'
import { removeTopology } from '../demo/topology.ts'
import { demoRequirements } from '../machine.ts'
import { onEndSignals } from '../signals.ts'

/** All checks take some five seconds beside the load. */
const DURATION_MIN_MS = 5000
const DURATION_MAX_MS = 86_400_000

const FLAGS = {
  duration: durationFlag(
    { name: 'duration', doc: 'Run unattended for this long, then print a verdict. Default: until Ctrl-C.' },
    DURATION_MIN_MS,
    DURATION_MAX_MS,
  ),
  output: outputFlag,
  capture: choiceFlag(
    {
      name: 'capture',
      doc: 'How connections come to the proxy: by the kernel, by loopback addresses (no privileges), or what is possible.',
    },
    ['auto', 'ebpf', 'loopback'] as const,
    'auto',
  ),
  clean: switchFlag({ name: 'clean', doc: 'Only remove what a demo that was killed has left.' }),
}

export const demoCommand: Command = {
  help() {
    return helpText({
      summary:
        'Runs a two-node mesh on this machine: real processes in network namespaces, the real agent, controller and eBPF.\n' +
        'Everything it makes is removed when it ends. Without the privileges for that, pods are loopback addresses.',
      usage: 'weft demo [flags]',
      flags: describeFlags(FLAGS),
      examples: [
        ['npm run demo', 'set up what is missing, then watch it until Ctrl-C'],
        ['npm run -s demo -- --duration 20s -o json', 'unattended: one JSON object, exit code 0 if all checks hold'],
        ['weft demo --capture loopback', 'without root and eBPF'],
        ['weft demo --clean', 'tidy up after a kill -9'],
      ],
    })
  },

  async run(args, streams) {
    const { duration, output, capture, clean } = parseFlags(FLAGS, args)
    if (clean) return await removeRemains(streams)
    const isJson = output === 'json'
    if (isJson && duration === null) throw new UsageError('-o json needs --duration: the JSON is printed at the end')
    try {
      return await run(capture, duration, isJson, streams)
    } catch (error) {
      // Whoever reads the JSON is told in it, too, when the demo cannot begin.
      if (isJson) streams.out(failureJson(error))
      throw error
    }
  },
}

async function run(
  capture: 'auto' | CaptureKind,
  durationMs: number | null,
  isJson: boolean,
  streams: Streams,
): Promise<number> {
  const kind = await chooseCapture(capture, streams)
  const stop = new AbortController()
  const forgetSignals = onEndSignals(() => stop.abort())
  try {
    return await runDemo({ kind, runDirectory: runDirectoryOf(kind), durationMs, isJson }, streams, stop.signal)
  } finally {
    forgetSignals()
  }
}

function runDirectoryOf(kind: CaptureKind): string {
  return kind === 'ebpf' ? `/run/${DEMO_NAME}` : join(tmpdir(), `${DEMO_NAME}-${userInfo().uid}`)
}

/** Says plainly what is missing. Throws WEFT_UNSUPPORTED when what was asked for cannot be had. */
async function chooseCapture(wanted: 'auto' | CaptureKind, streams: Streams): Promise<CaptureKind> {
  if (wanted === 'loopback') return 'loopback'
  const missing = (await demoRequirements()).filter(({ isMet, isRequired }) => isRequired && !isMet)
  if (missing.length === 0) return 'ebpf'
  const lines = missing.map(({ name, detail }) => `  ${name}: ${detail}\n`).join('')
  if (wanted === 'ebpf') {
    throw new WeftError('WEFT_UNSUPPORTED', `eBPF capture is not possible on this machine:\n${lines.trimEnd()}`)
  }
  streams.err(
    'weft: running on loopback addresses, because eBPF capture is not possible on this machine:\n' +
      `${lines}weft: routing, mutual TLS, policy and telemetry are the real ones; capture and source identity are not.\n`,
  )
  return 'loopback'
}

async function removeRemains(streams: Streams): Promise<number> {
  const lock = await takeLock(DEMO_NAME)
  try {
    const left = await removeTopology(runDirectoryOf('ebpf'))
    for (const what of left) streams.err(`weft: cannot remove ${what}\n`)
    return left.length === 0 ? EXIT_OK : EXIT_FAILED
  } finally {
    await lock.release()
  }
}
