/** The capture that the settings ask for, opened: afresh, or as an earlier agent has left or released it. */
import { setTimeout as delay } from 'node:timers/promises'
import { describeError, WeftError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { isHeld } from '../kernel/bpf-directory.ts'
import { findCgroup2Mount } from '../kernel/probe.ts'
import type { Capture } from './capture.ts'
import { EbpfCapture } from './capture-ebpf.ts'
import { LoopbackCapture } from './capture-loopback.ts'
import type { AgentConfig } from './config.ts'
import type { Handover } from './handover.ts'
import type { TransportName } from './worker-transport.ts'

/** For the pins of an agent that has just died: a process ends within milliseconds, on a busy machine in a second or two. */
const OPEN_TRIES = 100
const OPEN_RETRY_MS = 20

/** Rejects with WeftError; then everything in the kernel is as it was. */
export async function openCapture(
  config: AgentConfig,
  log: Logger,
  version: string,
  handover: Handover,
): Promise<Capture> {
  for (let tries = 1; ; tries++) {
    try {
      return openNow(config, log, version, handover)
    } catch (error) {
      // An agent that was killed may have the pins for a moment after its socket is closed.
      if (!isHeld(error) || tries === OPEN_TRIES) throw error
      await delay(OPEN_RETRY_MS)
    }
  }
}

/** Whether the DNS of pods can be captured. Where it is asked for and cannot be, the log says why, and pods do without. */
export function canAnswerDns(config: AgentConfig, transport: TransportName, log: Logger): boolean {
  if (config.dnsCapture === 'off' || config.capture !== 'ebpf') return false
  if (transport === 'reactor') return true
  log.warn('DNS of pods is not captured: it needs the reactor, and connections are carried by node:net')
  return false
}

function openNow(config: AgentConfig, log: Logger, version: string, handover: Handover): Capture {
  if (config.capture === 'loopback') {
    log.warn('loopback capture proves no identity: for demos and tests only')
    return new LoopbackCapture(config.loopbackBlock)
  }
  const cgroupPath = config.cgroup === '' ? findCgroup2Mount() : config.cgroup
  if (cgroupPath === null) {
    throw new WeftError('WEFT_UNSUPPORTED', 'no cgroup2 hierarchy is mounted; see weft check')
  }
  try {
    const { pinDirectory, state: stateDirectory, nodeNetns } = config
    return EbpfCapture.open({
      cgroupPath,
      pinDirectory,
      stateDirectory,
      nodeNetns,
      version,
      slotBase: handover.slotBase,
      isPredecessorServing: handover.isPredecessorServing,
      log: log.child('capture'),
    })
  } catch (error) {
    if (error instanceof WeftError) throw error
    throw new WeftError('WEFT_BPF', `the capture cannot be opened: ${describeError(error)}`, error)
  }
}
