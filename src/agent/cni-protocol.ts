/**
 * What the CNI plugin and the agent say to each other (native/cni/agent.c is the other end). Integers are little-endian.
 *
 *      request   "WEFTCNI1"  bytes of the rest (4)  then command, container id, netns, args, pid, descriptor and
 *                configuration, each as its length (4) and its bytes
 *      answer    "WEFTCNI1"  code (4)  length (4)  message
 */
import { canonicalAddress } from '../base/address.ts'
import { WeftError } from '../base/errors.ts'

const MAGIC = 'WEFTCNI1'
const HEAD_BYTES = MAGIC.length + 4

/** Of one request: a configuration of 1 MiB, which the plugin does not exceed, and six fields of 4 KiB each. */
export const REQUEST_BYTES_MAX = 1_048_576 + 32_768

/** Longest message of an answer, as the plugin has room for it. */
const MESSAGE_BYTES_MAX = 2048

/** Addresses of one pod: every address of several networks and families. */
const ADDRESSES_MAX = 64

/** Codes of the CNI specification. */
export const CNI_OK = 0
export const CNI_TRY_AGAIN = 11
/** From here on codes are a plugin's own. */
export const CNI_NOT_CAPTURED = 100
/** To ASK: the pod is this agent's to capture; it may start unmeshed when that fails, or must not. ADD comes next. */
export const CNI_OURS_OPEN = 101
export const CNI_OURS_CLOSED = 102

/** Command of the plugin's own: whose is a pod of a namespace that is not written down as one of the mesh? */
export const CNI_ASK = 'ASK'

const FIELDS = ['command', 'containerId', 'netns', 'args', 'pid', 'netnsFd', 'config'] as const

/** A call of the container runtime, as the plugin hands it on. */
export interface CniRequest {
  readonly command: string
  readonly containerId: string
  /** Path of the pod's netns in the file system of the node; may be empty for DEL. */
  readonly netns: string
  /** Of the plugin, which waits for the answer; and its descriptor of the netns, -1 for none. */
  readonly pid: number
  readonly netnsFd: number
  /** Empty when the pod is none of Kubernetes', or an old runtime does not say it. */
  readonly podNamespace: string
  readonly podName: string
  readonly podUid: string
  /** Canonical; what the plugins before have given the pod. */
  readonly addresses: readonly string[]
}

/** Puts the pieces of one request together. */
export class CniRequestReader {
  private readonly pieces: Buffer[] = []
  private length = 0

  /** The request, when this piece completes it; else null. Throws WeftError WEFT_PROTOCOL or WEFT_LIMIT. */
  push(piece: Buffer): CniRequest | null {
    this.pieces.push(piece)
    this.length += piece.length
    if (this.length < HEAD_BYTES) return null
    const all = Buffer.concat(this.pieces.splice(0))
    this.pieces.push(all)
    if (all.toString('latin1', 0, MAGIC.length) !== MAGIC) throw refused('does not begin as one of weft-cni does')
    const rest = all.readUInt32LE(MAGIC.length)
    if (rest > REQUEST_BYTES_MAX) {
      throw new WeftError('WEFT_LIMIT', `a request of ${rest} bytes is more than ${REQUEST_BYTES_MAX}`)
    }
    if (all.length < HEAD_BYTES + rest) return null
    if (all.length > HEAD_BYTES + rest) throw refused('has bytes behind its end')
    return parseRequest(all.subarray(HEAD_BYTES))
  }
}

/** An answer as it goes over the wire. Messages that are too long are cut. */
export function encodeAnswer(code: number, message: string): Buffer {
  // The plugin writes anything else than ASCII as a question mark.
  const text = Buffer.from(message.replace(/[^\x20-\x7e]/g, '?').slice(0, MESSAGE_BYTES_MAX), 'latin1')
  const head = Buffer.alloc(HEAD_BYTES + 4)
  head.write(MAGIC, 'latin1')
  head.writeUInt32LE(code, MAGIC.length)
  head.writeUInt32LE(text.length, MAGIC.length + 4)
  return Buffer.concat([head, text])
}

function parseRequest(bytes: Buffer): CniRequest {
  const fields = new Map<(typeof FIELDS)[number], string>()
  let at = 0
  for (const name of FIELDS) {
    if (bytes.length - at < 4) throw refused(`ends before its ${name}`)
    const length = bytes.readUInt32LE(at)
    at += 4
    if (bytes.length - at < length) throw refused(`ends within its ${name}`)
    fields.set(name, bytes.toString('utf8', at, at + length))
    at += length
  }
  if (at !== bytes.length) throw refused('has more than its fields')
  const args = parseArgs(fields.get('args')!)
  return {
    command: fields.get('command')!,
    containerId: fields.get('containerId')!,
    netns: fields.get('netns')!,
    pid: numberOf(fields.get('pid')!, 'pid'),
    netnsFd: numberOf(fields.get('netnsFd')!, 'descriptor'),
    podNamespace: args.get('K8S_POD_NAMESPACE') ?? '',
    podName: args.get('K8S_POD_NAME') ?? '',
    podUid: args.get('K8S_POD_UID') ?? '',
    addresses: addressesOf(fields.get('config')!),
  }
}

/** `A=1;B=2`. */
function parseArgs(text: string): ReadonlyMap<string, string> {
  const args = new Map<string, string>()
  for (const pair of text.split(';')) {
    const equals = pair.indexOf('=')
    if (equals > 0) args.set(pair.slice(0, equals), pair.slice(equals + 1))
  }
  return args
}

/** The addresses of the result so far: `prevResult.ips[].address`, blocks such as 10.0.0.5/24. */
function addressesOf(config: string): readonly string[] {
  let parsed: { readonly prevResult?: { readonly ips?: unknown } } | null
  try {
    parsed = JSON.parse(config) as typeof parsed
  } catch (error) {
    throw new WeftError('WEFT_PROTOCOL', 'the configuration in a request of weft-cni is no JSON', error)
  }
  const ips = parsed?.prevResult?.ips
  if (!Array.isArray(ips)) return []
  const addresses = new Set<string>()
  for (const ip of ips.slice(0, ADDRESSES_MAX) as unknown[]) {
    const written = (ip as { readonly address?: unknown } | null)?.address
    if (typeof written !== 'string') continue
    const address = canonicalAddress(written.split('/')[0]!)
    if (address !== null) addresses.add(address)
  }
  return [...addresses]
}

function numberOf(text: string, what: string): number {
  if (!/^-?[0-9]{1,10}$/.test(text)) throw refused(`has a ${what} that is no number`)
  return Number(text)
}

function refused(problem: string): WeftError {
  return new WeftError('WEFT_PROTOCOL', `a request at the CNI socket ${problem}`)
}
