/** DNS messages written and read the plain way: names as lists of labels, everything decoded. Shares no code with src/dns. */
import assert from 'node:assert/strict'
import { parseAddress } from '../../src/base/address.ts'

export const TYPES = {
  A: 1,
  NS: 2,
  CNAME: 5,
  SOA: 6,
  PTR: 12,
  MX: 15,
  TXT: 16,
  AAAA: 28,
  SRV: 33,
  OPT: 41,
  HTTPS: 65,
  TSIG: 250,
  AXFR: 252,
  ANY: 255,
} as const

export interface EdnsFields {
  readonly udpBytes?: number
  readonly version?: number
  readonly isDnssecOk?: boolean
  readonly extendedRcode?: number
  readonly options?: Uint8Array
}

export interface RecordFields {
  readonly name: string
  readonly type: number
  readonly ttl: number
  readonly content: Uint8Array
}

export interface MessageFields {
  readonly id?: number
  readonly flags?: number
  readonly name?: string | null
  readonly type?: number
  readonly class?: number
  readonly answers?: readonly RecordFields[]
  readonly authorities?: readonly RecordFields[]
  readonly additionals?: readonly RecordFields[]
  readonly edns?: EdnsFields | null
}

/** Flags of an ordinary query: recursion desired. */
export const RD = 0x0100

/** Flags of an ordinary reply. */
export const REPLY = 0x8180

export function uint16(value: number): Buffer {
  return Buffer.from([value >>> 8, value & 255])
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32BE(value)
  return bytes
}

/** The bytes of a name; `''` is the root. */
export function nameBytes(name: string): Buffer {
  const labels = name === '' ? [] : name.split('.')
  return Buffer.concat([
    ...labels.map((label) => Buffer.concat([Buffer.from([label.length]), Buffer.from(label, 'latin1')])),
    Buffer.from([0]),
  ])
}

export function address(name: string, text: string, ttl: number): RecordFields {
  const content = parseAddress(text)!
  return { name, type: content.length === 4 ? TYPES.A : TYPES.AAAA, ttl, content }
}

export function alias(name: string, target: string, ttl: number): RecordFields {
  return { name, type: TYPES.CNAME, ttl, content: nameBytes(target) }
}

export function soa(name: string, ttl: number, minimum: number): RecordFields {
  const content = Buffer.concat([
    nameBytes('ns.example'),
    nameBytes('admin.example'),
    ...[1, 2, 3, 4, minimum].map(uint32),
  ])
  return { name, type: TYPES.SOA, ttl, content }
}

function recordBytes({ name, type, ttl, content }: RecordFields): Buffer {
  return Buffer.concat([nameBytes(name), uint16(type), uint16(1), uint32(ttl), uint16(content.length), content])
}

function ednsBytes({
  udpBytes = 1232,
  version = 0,
  isDnssecOk = false,
  extendedRcode = 0,
  options = new Uint8Array(),
}: EdnsFields): Buffer {
  const flags = Buffer.from([extendedRcode, version, isDnssecOk ? 0x80 : 0, 0])
  return Buffer.concat([Buffer.from([0]), uint16(TYPES.OPT), uint16(udpBytes), flags, uint16(options.length), options])
}

/** One message; a query for the A records of `reviews.shop.svc.cluster.local` unless the fields say otherwise. */
export function message(fields: MessageFields = {}): Uint8Array {
  const { id = 0x1234, flags = RD, name = 'reviews.shop.svc.cluster.local', type = TYPES.A, edns = null } = fields
  const { answers = [], authorities = [], additionals = [] } = fields
  return new Uint8Array(
    Buffer.concat([
      uint16(id),
      uint16(flags),
      uint16(name === null ? 0 : 1),
      uint16(answers.length),
      uint16(authorities.length),
      uint16(additionals.length + (edns === null ? 0 : 1)),
      ...(name === null ? [] : [nameBytes(name), uint16(type), uint16(fields.class ?? 1)]),
      ...[...answers, ...authorities, ...additionals].map(recordBytes),
      ...(edns === null ? [] : [ednsBytes(edns)]),
    ]),
  )
}

export interface ReadRecord {
  readonly section: 'answer' | 'authority' | 'additional'
  readonly name: string
  readonly type: number
  readonly class: number
  readonly ttl: number
  readonly content: Buffer
}

export interface ReadMessage {
  readonly id: number
  readonly flags: number
  readonly questions: readonly { readonly name: string; readonly type: number; readonly class: number }[]
  readonly records: readonly ReadRecord[]
}

/** Decodes a message wholly; throws RangeError on anything that is wrong with it, also bytes that are left over. */
export function readMessage(input: Uint8Array): ReadMessage {
  const bytes = Buffer.from(input)
  const counts = [4, 6, 8, 10].map((at) => bytes.readUInt16BE(at))
  let at = 12
  const name = (): string => {
    const [labels, end] = readLabels(bytes, at)
    at = end
    return labels.join('.')
  }
  const number = (length: 2 | 4): number => {
    const value = bytes.readUIntBE(at, length)
    at += length
    return value
  }
  const questions = Array.from({ length: counts[0]! }, () => ({ name: name(), type: number(2), class: number(2) }))
  const records: ReadRecord[] = []
  for (const [i, section] of (['answer', 'authority', 'additional'] as const).entries()) {
    for (let left = counts[i + 1]!; left > 0; left--) {
      const head = { section, name: name(), type: number(2), class: number(2), ttl: number(4) }
      const length = number(2)
      if (at + length > bytes.length) throw new RangeError('content')
      records.push({ ...head, content: bytes.subarray(at, at + length) })
      at += length
    }
  }
  if (at !== bytes.length) throw new RangeError('left over')
  return { id: bytes.readUInt16BE(0), flags: bytes.readUInt16BE(2), questions, records }
}

/** Follows pointers, with a budget instead of cleverness. */
function readLabels(bytes: Buffer, start: number): [string[], number] {
  const labels: string[] = []
  let [at, end, length, jumps] = [start, -1, 1, 0]
  for (;;) {
    const first = bytes.readUInt8(at)
    if (first >= 192) {
      const target = bytes.readUInt16BE(at) & 0x3fff
      if (end < 0) end = at + 2
      if (++jumps > 128) throw new RangeError('loop')
      at = target
      continue
    }
    if (first > 63) throw new RangeError('label type')
    at++
    if (first === 0) return [labels, end < 0 ? at : end]
    if (at + first > bytes.length) throw new RangeError('label')
    length += first + 1
    if (length > 255) throw new RangeError('name')
    labels.push(bytes.toString('latin1', at, at + first))
    at += first
  }
}

/** Addresses in the answer section, as text. */
export function addressesOf(read: ReadMessage): string[] {
  return read.records
    .filter(({ section, type }) => section === 'answer' && (type === TYPES.A || type === TYPES.AAAA))
    .map(({ content }) =>
      content.length === 4 ? content.join('.') : content.toString('hex').replace(/(.{4})(?!$)/g, '$1:'),
    )
}

export function rcodeOf(read: ReadMessage): number {
  return read.flags & 15
}

/** The one OPT record; fails when there is none. */
export function ednsOf(read: ReadMessage): ReadRecord {
  const found = read.records.filter(({ type }) => type === TYPES.OPT)
  assert.equal(found.length, 1)
  return found[0]!
}
