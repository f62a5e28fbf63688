import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  CACHED_REPLIES_MAX,
  CACHED_REPLY_BYTES_MAX,
  NEGATIVE_TTL_S_MAX,
  POSITIVE_TTL_S_MAX,
} from '../../src/dns/reply-cache.ts'
import {
  address,
  addressesOf,
  alias,
  type MessageFields,
  message,
  RD,
  REPLY,
  type ReadMessage,
  rcodeOf,
  readMessage,
  soa,
  TYPES,
  uint16,
} from '../support/dns-messages.ts'
import { CLIENT, RESOLVER, ResolverMesh, STRANGER } from '../support/resolver-mesh.ts'

const WEB = 'www.example.org'
const NXDOMAIN = REPLY | 3
const COOKIE = Buffer.concat([uint16(10), uint16(8), Buffer.alloc(8, 7)])

/** Asks once with the resolver answering `reply`; what the same query gets after `waitS` seconds, or null when it goes out. */
function askTwice(
  reply: Uint8Array,
  waitS: number,
  query: MessageFields = {},
  again: MessageFields = query,
): ReadMessage | null {
  const mesh = new ResolverMesh()
  mesh.upstream.onForward = (forwarded) => forwarded.reply(reply)
  mesh.send(message({ name: WEB, ...query }))
  mesh.upstream.onForward = null
  mesh.nowMs += waitS * 1000
  return mesh.ask(message({ name: WEB, id: 0x4321, ...again }))
}

function ttls(read: ReadMessage | null): number[] | null {
  return read === null ? null : read.records.filter(({ type }) => type !== TYPES.OPT).map(({ ttl }) => ttl)
}

const POSITIVE = message({ name: WEB, flags: REPLY | 0x400, answers: [address(WEB, '198.18.9.9', 60)] })

describe('replies of resolvers', () => {
  test('are given again while their lowest TTL lasts, counted down, with the new id and case, and not as an authority', () => {
    const reply = message({
      name: WEB,
      flags: REPLY | 0x400,
      answers: [alias(WEB, 'x.example.org', 90), address('x.example.org', '198.18.9.9', 60)],
      authorities: [{ name: 'example.org', type: TYPES.NS, ttl: 300, content: Buffer.from([0]) }],
      edns: { udpBytes: 1400 },
    })
    const edns = { edns: {} }
    const again = askTwice(reply, 59, edns, { name: 'WWW.example.ORG', ...edns })!
    assert.deepEqual(ttls(again), [31, 1, 241])
    assert.deepEqual([again.id, again.flags, again.questions[0]!.name], [0x4321, REPLY, 'WWW.example.ORG'])
    assert.deepEqual(addressesOf(again), ['198.18.9.9'])
    const opt = again.records.find(({ type }) => type === TYPES.OPT)!
    assert.deepEqual([opt.class, opt.ttl], [1400, 0], 'the OPT record has no TTL to count')
    assert.equal(askTwice(reply, 60, edns), null)
    assert.deepEqual(ttls(askTwice(reply, 0.9, edns)), [90, 60, 300])
  })

  test('that deny a name or a type are kept for the lower of TTL and minimum of their SOA', () => {
    for (const flags of [NXDOMAIN, REPLY]) {
      for (const [ttl, minimum, lifetime] of [
        [300, 30, 30],
        [20, 300, 20],
        [86_400, 86_400, NEGATIVE_TTL_S_MAX],
      ] as const) {
        const reply = message({ name: WEB, flags, authorities: [soa('example.org', ttl, minimum)] })
        const before = askTwice(reply, lifetime - 1)
        assert.equal(before === null ? null : rcodeOf(before), flags & 15)
        assert.deepEqual(ttls(before), [ttl - lifetime + 1])
        assert.equal(askTwice(reply, lifetime), null)
      }
    }
    const aliased = message({
      name: WEB,
      flags: REPLY,
      answers: [alias(WEB, 'x.example.org', 5)],
      authorities: [soa('example.org', 300, 300)],
    })
    assert.deepEqual(ttls(askTwice(aliased, 4)), [1, 296], 'an alias to a name without the type')
    assert.equal(askTwice(aliased, 5), null)
  })

  test('are kept no longer than a day', () => {
    const reply = message({ name: WEB, flags: REPLY, answers: [address(WEB, '198.18.9.9', 0x7fff_ffff)] })
    assert.notEqual(askTwice(reply, POSITIVE_TTL_S_MAX - 1), null)
    assert.equal(askTwice(reply, POSITIVE_TTL_S_MAX), null)
  })

  test('are not kept when nobody says for how long, when they are errors, or not whole', () => {
    const answers = [address(WEB, '198.18.9.9', 60)]
    const bad: Record<string, Uint8Array> = {
      truncated: message({ name: WEB, flags: REPLY | 0x200, answers }),
      SERVFAIL: message({ name: WEB, flags: REPLY | 2, authorities: [soa('example.org', 60, 60)] }),
      REFUSED: message({ name: WEB, flags: REPLY | 5, answers }),
      'NXDOMAIN without SOA': message({ name: WEB, flags: NXDOMAIN }),
      'no data without SOA': message({ name: WEB, flags: REPLY }),
      'an alias without its end': message({ name: WEB, flags: REPLY, answers: [alias(WEB, 'x.example.org', 60)] }),
      'TTL 0': message({ name: WEB, flags: REPLY, answers: [...answers, address(WEB, '198.18.9.8', 0)] }),
      'TTL below 0': message({ name: WEB, flags: REPLY, answers: [address(WEB, '198.18.9.8', 0x8000_0000)] }),
      signed: message({
        name: WEB,
        flags: REPLY,
        answers,
        additionals: [{ name: 'key', type: TYPES.TSIG, ttl: 60, content: Buffer.alloc(4) }],
      }),
      cut: POSITIVE.subarray(0, -1),
      'with something after it': new Uint8Array([...POSITIVE, 0]),
      'a header': message({ name: null, flags: REPLY | 1 }),
      'too large': message({
        name: WEB,
        flags: REPLY,
        answers: Array.from({ length: CACHED_REPLY_BYTES_MAX / 31 }, () => answers[0]!),
      }),
    }
    for (const [what, reply] of Object.entries(bad)) assert.equal(askTwice(reply, 0, {}, {}), null, what)
  })

  test('are for the same question, bits and pod only', () => {
    const edns = { isDnssecOk: false }
    assert.notEqual(askTwice(POSITIVE, 1), null)
    assert.notEqual(
      askTwice(POSITIVE, 1, { edns }, { edns: { udpBytes: 512 } }),
      null,
      'the size is looked at, not compared',
    )
    for (const [what, again] of Object.entries({
      type: { type: TYPES.AAAA },
      class: { class: 3 },
      CD: { flags: RD | 0x10 },
      AD: { flags: RD | 0x20 },
      RD: { flags: 0 },
      EDNS: { edns },
      opcode: { flags: RD | (2 << 11) },
      name: { name: 'www2.example.org' },
    })) {
      assert.equal(askTwice(POSITIVE, 1, {}, again), null, what)
    }
    assert.equal(askTwice(POSITIVE, 1, { edns }, { edns: { isDnssecOk: true } }), null, 'DO')
    const mesh = new ResolverMesh()
    mesh.upstream.onForward = (forwarded) => forwarded.reply(POSITIVE)
    mesh.send(message({ name: WEB }))
    mesh.send(message({ name: WEB }))
    assert.equal(mesh.upstream.sent.length, 1)
    mesh.send(message({ name: WEB }), STRANGER)
    mesh.send(message({ name: WEB }), CLIENT, false, '198.19.0.11')
    assert.equal(mesh.upstream.sent.length, 3)
    mesh.send(message({ name: WEB }), CLIENT, true, RESOLVER)
    assert.equal(mesh.upstream.sent.length, 3, 'over TCP as well')
    assert.deepEqual(mesh.counted(), ['cache/answered 2', 'forwarded/answered 3'])
  })

  test('are not used for queries that say more than a question', () => {
    for (const query of [
      { edns: { options: COOKIE } },
      { edns: { version: 1 } },
      { additionals: [{ name: 'key', type: TYPES.TSIG, ttl: 0, content: Buffer.alloc(4) }] },
      { authorities: [soa(WEB, 1, 1)] },
      { type: TYPES.ANY },
      { type: TYPES.AXFR },
    ]) {
      const reply = message({
        name: WEB,
        flags: REPLY,
        type: query.type ?? TYPES.A,
        answers: [address(WEB, '198.18.9.9', 60)],
      })
      assert.equal(askTwice(reply, 0, query), null, JSON.stringify(query))
    }
  })

  test('that came over TCP are not squeezed into UDP', () => {
    const large = message({
      name: WEB,
      flags: REPLY,
      answers: Array.from({ length: 40 }, (_, i) => address(WEB, `198.18.9.${i}`, 60)),
    })
    const mesh = new ResolverMesh()
    mesh.upstream.onForward = (forwarded) => forwarded.reply(large)
    mesh.send(message({ name: WEB }), CLIENT, true)
    assert.equal(mesh.send(message({ name: WEB }), CLIENT, true).length, 1)
    assert.equal(mesh.upstream.sent.length, 1)
    mesh.send(message({ name: WEB }))
    assert.equal(mesh.upstream.sent.length, 2)
  })

  test('are kept apart from what is done with the bytes afterwards', () => {
    const mesh = new ResolverMesh()
    mesh.upstream.onForward = (forwarded) => forwarded.reply(POSITIVE)
    mesh.send(message({ name: WEB }))[0]!.fill(0)
    mesh.send(message({ name: WEB }))[0]!.fill(0)
    assert.deepEqual(addressesOf(mesh.ask(message({ name: WEB }))!), ['198.18.9.9'])
    assert.equal(mesh.upstream.sent.length, 1)
  })

  test('names that differ in bytes that no host name has are different names', () => {
    const mesh = new ResolverMesh()
    const query = (byte: number): Uint8Array => {
      const bytes = message({ name: WEB })
      bytes[13] = byte
      return bytes
    }
    mesh.upstream.onForward = (forwarded) => {
      const reply = new Uint8Array(POSITIVE)
      reply.set(forwarded.bytes.subarray(12, 20), 12)
      forwarded.reply(reply)
    }
    for (const byte of [0xff, 0xfe, 0xc4, 0xe4, 0x40, 0x60, 0x5b, 0x7b, 0x2e, 0x00]) mesh.send(query(byte))
    assert.equal(mesh.upstream.sent.length, 10)
    mesh.send(query(0x41))
    mesh.send(query(0x61))
    assert.equal(mesh.upstream.sent.length, 11)
  })

  test(`are at most ${CACHED_REPLIES_MAX}; the ones not used for longest make room`, () => {
    const mesh = new ResolverMesh()
    const ask = (i: number): void => {
      mesh.send(message({ name: `n${i}.example.org` }))
    }
    mesh.upstream.onForward = (forwarded) => {
      const { name } = readMessage(forwarded.bytes).questions[0]!
      forwarded.reply(message({ name, flags: REPLY, answers: [address(name, '198.18.9.9', 600)] }))
    }
    for (let i = 0; i < CACHED_REPLIES_MAX; i++) ask(i)
    ask(0)
    assert.equal(mesh.upstream.sent.length, CACHED_REPLIES_MAX)
    ask(CACHED_REPLIES_MAX)
    ask(0)
    assert.equal(mesh.upstream.sent.length, CACHED_REPLIES_MAX + 1, 'what was used stays')
    ask(1)
    assert.equal(mesh.upstream.sent.length, CACHED_REPLIES_MAX + 2, 'what was not used is gone')
  })
})
