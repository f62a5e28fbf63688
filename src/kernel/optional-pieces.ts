/**
 * What the capture uses of the kernel where it can be had, and does without where it cannot: each piece by its name, and
 * what happens instead. The agent's log and `weft check` say the same of a kernel.
 */
import { closeSync } from 'node:fs'
import { join } from 'node:path'
import { FAMILY_IPV4 } from '../base/address.ts'
import { type Addon, hasCode } from './addon.ts'
import { breakOff } from './carried-peers.ts'
import { whyErrorsCannotBeChosen } from './denial.ts'

export const PIECE_GETPEERNAME = 'getpeername hooks'
export const PIECE_SOCKOPS = 'sockops'
export const PIECE_SET_RETVAL = 'bpf_set_retval'
export const PIECE_MESSAGES = 'hooks of UDP messages'
export const PIECE_UPDATE = 'updating links'
export const PIECE_DESTROY = 'sock_destroy'
export const PIECE_METER = 'programs that meter UDP'

/** What happens without a piece. */
export const FALLBACKS: Readonly<Record<string, string>> = {
  [PIECE_GETPEERNAME]: 'the proxy carries every connection of pods',
  [PIECE_SOCKOPS]: 'the proxy carries every connection of pods',
  [PIECE_MESSAGES]: 'DNS of pods is not captured',
  [PIECE_SET_RETVAL]: 'connections of pods that policy denies fail with EPERM, not ECONNREFUSED',
  [PIECE_UPDATE]: 'the programs of a new agent are attached beside those of the old one, which go then',
  [PIECE_DESTROY]: 'connections that the kernel carries go on when policy turns against them, until they end',
  [PIECE_METER]: 'UDP of pods passes unmetered',
}

/** Something that this kernel cannot do. */
export interface AbsentPiece {
  readonly piece: string
  /** What happens instead. */
  readonly fallback: string
  /** What the kernel said. */
  readonly reason: string
}

/** Bytes of a socket's name for sock_diag: of none. */
const NO_SOCKET = new Uint8Array(48)

/** A piece, and why this kernel lacks it; null when it does not. Loads programs, and attaches none. */
export function* probePieces(addon: Addon, build: string): Iterable<readonly [piece: string, failure: unknown]> {
  const connect = join(build, 'connect.bpf.o')
  yield [PIECE_GETPEERNAME, whyNot(() => load(addon, connect, ['weft_connect4', 'weft_connect6']))]
  yield [PIECE_SOCKOPS, whyNot(() => load(addon, join(build, 'sockops.bpf.o')))]
  yield [PIECE_MESSAGES, whyNot(() => load(addon, join(build, 'dns.bpf.o')))]
  yield [PIECE_SET_RETVAL, whyErrorsCannotBeChosen(addon, build)]
  yield [PIECE_UPDATE, whyNot(() => updateNothing(addon))]
  yield [PIECE_DESTROY, whyNot(() => destroyNothing(addon))]
  yield [PIECE_METER, whyNot(() => load(addon, join(build, 'meter.bpf.o')))]
}

function whyNot(attempt: () => void): unknown {
  try {
    attempt()
    return null
  } catch (error) {
    return error
  }
}

function load(addon: Addon, path: string, leftOut: readonly string[] = []): void {
  const { maps, programs } = addon.loadObject(path, {}, null, leftOut)
  for (const fd of [...Object.values(maps), ...Object.values(programs)]) closeSync(fd)
}

function updateNothing(addon: Addon): void {
  try {
    addon.updateLink(-1, -1)
  } catch (error) {
    // It knows the call, and says that these are no descriptors.
    if (!hasCode(error, 'EBADF')) throw error
  }
}

function destroyNothing(addon: Addon): void {
  const netnsFd = addon.openNetns('/proc/thread-self/ns/net')
  try {
    breakOff(addon, netnsFd, { family: FAMILY_IPV4, id: NO_SOCKET })
  } finally {
    closeSync(netnsFd)
  }
}
