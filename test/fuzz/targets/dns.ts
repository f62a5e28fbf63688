/**
 * DNS messages. The input is a list of messages: the first is a query of a pod, the others are what its resolver sends
 * back; then the pod asks again. Checked against the plain decoder of test/support: what goes out, what comes back and
 * what comes from the cache is what it should be, and nothing ever throws.
 */
import assert from 'node:assert/strict'
import { WRONG_REPLIES_MAX } from '../../../src/dns/exchange.ts'
import { readRecords } from '../../../src/dns/message.ts'
import { POSITIVE_TTL_S_MAX } from '../../../src/dns/reply-cache.ts'
import {
  address,
  addressesOf,
  alias,
  message,
  REPLY,
  type ReadMessage,
  readMessage,
  soa,
  TYPES,
  uint16,
} from '../../support/dns-messages.ts'
import { CLIENT, RESOLVER, ResolverMesh, SERVICES } from '../../support/resolver-mesh.ts'
import type { SeededRandom } from '../../support/seeded-random.ts'
import { bytesOf, concat, type Target } from '../target.ts'

const WEB = 'www.example.org'

/** Messages of one input; the rest of it is not read. */
const MESSAGES_MAX = 64

/** Bit of the first byte: the pod asks over TCP. */
const IS_TCP = 1

/** Bit of the first byte: replies get the id of the forwarded query. */
const HAS_ID = 2

function split(input: Uint8Array): Uint8Array[] {
  const messages: Uint8Array[] = []
  for (let at = 0; at + 2 <= input.length && messages.length < MESSAGES_MAX; ) {
    const length = (input[at]! << 8) | input[at + 1]!
    messages.push(input.slice(at + 2, at + 2 + length))
    at += 2 + length
  }
  return messages
}

/** Null when the plain decoder does not take it. */
function plainly(bytes: Uint8Array): ReadMessage | null {
  try {
    return readMessage(bytes)
  } catch (error) {
    if (error instanceof RangeError) return null
    throw error
  }
}

/** An answer of our own: well formed, to this query, and no larger than its client takes. */
function checkOwnAnswer(query: Uint8Array, answer: Uint8Array, isTcp: boolean): string {
  const read = readMessage(answer)
  const asked = plainly(query)
  assert.deepEqual(answer.subarray(0, 2), query.subarray(0, 2), 'the id')
  assert.equal(read.flags & 0x8000, 0x8000, 'a reply')
  assert.equal(read.flags & 0x7900, ((query[2]! & 0x79) << 8) as number, 'opcode and RD')
  assert.equal(read.flags & 0x20, 0, 'never authentic')
  const rcode = read.flags & 15
  assert.ok(rcode === 0 || rcode === 1 || rcode === 2, `rcode ${rcode}`)
  if (asked === null) return `own ${rcode}`
  if (read.questions.length > 0) assert.deepEqual(read.questions, asked.questions)
  const opt = asked.records.find(({ type }) => type === TYPES.OPT)
  const limit = isTcp ? 65_535 : Math.max(512, opt?.class ?? 0)
  assert.ok(answer.length <= limit, `${answer.length} bytes`)
  if (rcode === 0 && opt === undefined) assert.ok(read.records.every(({ type }) => type !== TYPES.OPT))
  if (addressesOf(read).length > 0) {
    const first = asked.questions[0]!.name.toLowerCase().split('.')[0]!
    assert.ok(
      SERVICES.some(({ name }) => name.split('.')[0] === first),
      'a name of the mesh',
    )
  }
  return `own ${rcode} ${read.records.length}`
}

/** Our walk over the records takes everything that the plain decoder takes, but for what it refuses on purpose. */
function checkWalk(bytes: Uint8Array): void {
  const read = plainly(bytes)
  if (read === null || read.questions.length !== 1) return
  const options = read.records.filter(({ type }) => type === TYPES.OPT)
  const isOdd = options.length > 1 || options.some(({ section, name }) => section !== 'additional' || name !== '')
  const end = 12 + questionLength(bytes)
  const records = readRecords(bytes, end)
  if (isOdd || records === null) return
  const others = read.records.filter(({ type }) => type !== TYPES.OPT)
  assert.equal(records.ttlOffsets.length, others.length)
  assert.deepEqual(
    records.answerTypes,
    others.filter(({ section }) => section === 'answer').map(({ type }) => type),
  )
  const ttls = others.map(({ ttl }) => (ttl >= 2 ** 31 ? 0 : ttl))
  assert.equal(records.ttlMin, Math.min(...ttls))
  assert.equal(records.edns === null ? null : records.edns.udpBytes, options[0]?.class ?? null)
}

/** Bytes of an uncompressed question; of a compressed one, too: two for the pointer. */
function questionLength(bytes: Uint8Array): number {
  let at = 12
  while (bytes[at]! !== 0 && bytes[at]! < 192) at += 1 + bytes[at]!
  return at - 12 + (bytes[at]! >= 192 ? 2 : 1) + 4
}

function run(input: Uint8Array): string {
  const isTcp = ((input[0] ?? 0) & IS_TCP) !== 0
  const hasId = ((input[0] ?? 0) & HAS_ID) !== 0
  const [query = new Uint8Array(), ...replies] = split(input.subarray(1))
  const mesh = new ResolverMesh()
  for (const bytes of [query, ...replies]) checkWalk(bytes)
  const answers = mesh.send(query, CLIENT, isTcp)
  assert.ok(answers.length <= 1)
  const [forwarded] = mesh.upstream.sent
  if (forwarded === undefined) {
    mesh.resolver.close()
    return answers.length === 0 ? 'silence' : checkOwnAnswer(query, answers[0]!, isTcp)
  }
  assert.equal(answers.length, 0)
  assert.deepEqual(forwarded.bytes.subarray(2), query.subarray(2), 'the query goes on as it is')
  assert.deepEqual([forwarded.resolverAddress, forwarded.isTcp], [RESOLVER, isTcp])
  let taken: Uint8Array | null = null
  // More of them are an attack, and the pod gets an error.
  for (const reply of replies.slice(0, WRONG_REPLIES_MAX - 1)) {
    if (reply.length < 2 || taken !== null) continue
    forwarded.reply(reply, hasId ? forwarded.id : (reply[0]! << 8) | reply[1]!)
    if (answers.length > 0) taken = reply
  }
  assert.equal(answers.length, taken === null ? 0 : 1)
  if (taken === null) {
    mesh.resolver.close()
    return `waits ${replies.length > 0}`
  }
  const answer = new Uint8Array(answers[0]!)
  assert.deepEqual(answer.subarray(0, 2), query.subarray(0, 2))
  assert.deepEqual(answer.subarray(4), taken.subarray(4), 'the reply comes back as it is')
  assert.equal(answer[2], taken[2])
  const again = checkCached(mesh, query, answer, isTcp)
  mesh.resolver.close()
  return `replied ${answer[3]! & 15} ${again}`
}

/** A second later: either out again, or the same with its TTLs a second lower. */
function checkCached(mesh: ResolverMesh, query: Uint8Array, first: Uint8Array, isTcp: boolean): string {
  mesh.nowMs += 1_000
  const [cached] = mesh.send(query, CLIENT, isTcp)
  if (cached === undefined) {
    assert.equal(mesh.upstream.sent.length, 2)
    return 'anew'
  }
  const [before, after] = [plainly(first), plainly(cached)]
  assert.equal(cached.length, first.length)
  if (before === null || after === null) {
    // Names that loop are the client's to refuse; what is not a TTL is as it was.
    return 'cached odd'
  }
  assert.deepEqual(after.questions, plainly(query)!.questions)
  assert.equal(after.flags, before.flags & ~0x400)
  for (const [i, record] of before.records.entries()) {
    const { ttl }: { readonly ttl: number } = after.records[i]!
    assert.equal(ttl, record.type === TYPES.OPT ? record.ttl : record.ttl - 1)
    assert.deepEqual({ ...after.records[i]!, ttl: 0, name: '' }, { ...record, ttl: 0, name: '' })
  }
  mesh.nowMs += POSITIVE_TTL_S_MAX * 1_000
  mesh.send(query, CLIENT, isTcp)
  assert.equal(mesh.upstream.sent.length, 2, 'nothing is kept for longer than a day')
  return 'cached'
}

function framed(...messages: readonly Uint8Array[]): Uint8Array {
  return concat(...messages.map((one) => concat(uint16(one.length), one)))
}

function seed(mode: number, ...messages: readonly Uint8Array[]): Uint8Array {
  return concat(new Uint8Array([mode]), framed(...messages))
}

/** A compressed reply as resolvers write them. */
function compressed(query: Uint8Array): Uint8Array {
  const record = Buffer.from('c00c00010001000000ff0004c6120909', 'hex')
  const bytes = concat(query, record)
  bytes.set([0x81, 0x80], 2)
  bytes[7] = 1
  return bytes
}

/** Damages one message and keeps the lengths right. */
function mutateMessage(random: SeededRandom, input: Uint8Array): Uint8Array {
  const messages = split(input.subarray(1))
  if (messages.length === 0) return input
  const at = random.integer(0, messages.length - 1)
  const bytes = messages[at]!.slice()
  for (let i = random.integer(1, 3); i > 0 && bytes.length > 0; i--) {
    bytes[random.integer(0, bytes.length - 1)] = random.pick([0, 1, 2, 12, 28, 41, 63, 64, 128, 192, 193, 255])
  }
  messages[at] = random.integer(0, 3) === 0 ? bytes.subarray(0, random.integer(0, bytes.length)) : bytes
  return seed(input[0] ?? 0, ...messages)
}

export const target: Target = {
  sources: ['src/dns/'],
  bytesMax: 8_000,
  testIterations: 6_000,
  tokens: [
    ...[
      'c00c',
      'c000',
      '3f',
      '40',
      '00',
      '00290fa000008000',
      '00010001',
      '001c0001',
      '00060001',
      '8180',
      '8183',
      '8200',
      '0100',
    ].map((hex) => new Uint8Array(Buffer.from(hex, 'hex'))),
    ...['\x07reviews', '\x04shop', '\x03svc', '\x07cluster', '\x05local', '\x03api', '\x07example', '\x03com\0'].map(
      bytesOf,
    ),
  ],
  seeds: () => {
    const web = message({ name: WEB })
    const edns = message({ name: WEB, edns: { isDnssecOk: true } })
    const answers = [alias(WEB, 'x.example.org', 90), address('x.example.org', '198.18.9.9', 60)]
    return [
      seed(0, message()),
      seed(0, message({ name: 'reviews', type: TYPES.ANY, edns: { udpBytes: 600 } })),
      seed(0, message({ name: 'api.example.com', type: TYPES.AAAA, edns: { version: 1 } })),
      seed(1, message({ name: 'ratings.shop', type: TYPES.TXT })),
      seed(2, web, message({ name: WEB, flags: REPLY, answers })),
      seed(2, edns, message({ name: WEB, flags: REPLY | 0x400, answers, edns: {} })),
      seed(2, web, compressed(web)),
      seed(3, web, message({ name: WEB, flags: REPLY | 3, authorities: [soa('example.org', 60, 30)] })),
      seed(2, web, message({ name: WEB, flags: REPLY | 0x200 })),
      seed(
        0,
        web,
        message({ name: WEB, flags: REPLY, answers }),
        message({ id: 0x7000, name: WEB, flags: REPLY, answers }),
      ),
      seed(
        2,
        message({ name: 'api.example.com', type: TYPES.MX }),
        message({ name: 'api.example.com', type: TYPES.MX, flags: REPLY | 3 }),
      ),
      seed(2, message({ name: null }), message({ name: null, flags: REPLY | 5 })),
    ]
  },
  run,
  mutate: mutateMessage,
}
