import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  FORWARDS_MAX,
  REPLY_TIMEOUT_MS,
  RETRY_AFTER_MS,
  WAITERS_MAX,
  WRONG_REPLIES_MAX,
} from '../../src/dns/exchange.ts'
import { QUERY_BYTES_MAX } from '../../src/dns/query.ts'
import { EXCHANGES_MAX, POD_EXCHANGES_MAX } from '../../src/dns/resolver.ts'
import { address, message, nameBytes, RD, REPLY, rcodeOf, readMessage, TYPES, uint16 } from '../support/dns-messages.ts'
import { CLIENT, RESOLVER, ResolverMesh, STRANGER } from '../support/resolver-mesh.ts'

const WEB = 'www.example.org'
const COOKIE = Buffer.concat([uint16(10), uint16(8), Buffer.alloc(8, 7)])

function query(fields: Parameters<typeof message>[0] = {}): Uint8Array {
  return message({ name: WEB, ...fields })
}

function reply(fields: Parameters<typeof message>[0] = {}): Uint8Array {
  return message({ name: WEB, flags: REPLY, answers: [address(WEB, '198.18.9.9', 60)], ...fields })
}

describe('what the mesh does not answer', () => {
  test('goes to the resolver that the pod asked, unchanged but for the id, and so does the reply', () => {
    for (const bytes of [
      query(),
      query({ flags: 0x0130 }),
      query({ name: 'WwW.eXample.org' }),
      query({ edns: { udpBytes: 4096, isDnssecOk: true, options: COOKIE } }),
      query({ edns: { version: 7 } }),
      query({ type: TYPES.AXFR }),
      query({ flags: RD | (5 << 11), authorities: [address('x.example.org', '198.18.0.1', 0)] }),
      message({ name: null, edns: { options: COOKIE } }),
      message({ name: '' }),
      Buffer.concat([query(), Buffer.from('trailing')]),
      query({ edns: {} }).subarray(0, -1),
    ]) {
      for (const isTcp of [false, true]) {
        const mesh = new ResolverMesh()
        const answers = mesh.send(bytes, CLIENT, isTcp)
        const { last } = mesh.upstream
        assert.equal(mesh.upstream.sent.length, 1)
        assert.deepEqual([last.source, last.resolverAddress, last.isTcp], [CLIENT.uid, RESOLVER, isTcp])
        assert.equal(last.id, 0x7000)
        assert.deepEqual(last.bytes.subarray(2), new Uint8Array(bytes.subarray(2)))
        assert.equal(answers.length, 0)
        const flagged = new Uint8Array(Buffer.concat([bytes, Buffer.from('anything')]))
        flagged[2]! |= 0x80
        last.reply(flagged)
        assert.equal(answers.length, 1)
        assert.deepEqual([answers[0]![0], answers[0]![1]], [0x12, 0x34])
        assert.deepEqual(new Uint8Array(answers[0]!.subarray(2)), flagged.subarray(2))
        assert.equal(last.cancelCount, 1)
        assert.equal(mesh.resolver.exchangeCount, 0)
      }
    }
  })

  test('a truncated reply is given as it is, and the client comes again over TCP', () => {
    const mesh = new ResolverMesh()
    const answers = mesh.send(query())
    mesh.upstream.last.reply(reply({ flags: REPLY | 0x200, answers: [] }))
    assert.equal(readMessage(answers[0]!).flags, REPLY | 0x200)
    const whole = mesh.send(query({ id: 0x55 }), CLIENT, true)
    assert.equal(mesh.upstream.sent.length, 2, 'a truncated reply is not kept')
    mesh.upstream.last.reply(reply())
    assert.equal(readMessage(whole[0]!).id, 0x55)
    assert.deepEqual(mesh.counted(), ['forwarded/answered 1', 'forwarded/truncated 1'])
  })

  test('bytes of the query are not used after the call', () => {
    const mesh = new ResolverMesh()
    const bytes = Buffer.from(query())
    const answers = mesh.send(bytes)
    bytes.fill(0xff)
    mesh.upstream.last.reply(reply())
    assert.equal(answers.length, 1)
  })

  test('replies are believed only with the id, the question and the flags of a reply', () => {
    for (const [what, forged, id] of [
      ['another id', reply(), 0x7001],
      ['another name', reply({ name: 'www.example.com' }), 0x7000],
      ['another type', reply({ type: TYPES.AAAA }), 0x7000],
      ['another class', reply({ class: 3 }), 0x7000],
      ['a query', reply({ flags: RD }), 0x7000],
      ['another opcode', reply({ flags: REPLY | (1 << 11) }), 0x7000],
      ['no question', message({ name: null, flags: REPLY }), 0x7000],
      ['cut in the question', reply().subarray(0, 20), 0x7000],
      ['cut in the header', reply().subarray(0, 11), 0x7000],
    ] as const) {
      const mesh = new ResolverMesh()
      const answers = mesh.send(query())
      mesh.upstream.last.reply(forged, id)
      assert.equal(answers.length, 0, what)
      mesh.upstream.last.reply(reply())
      assert.equal(answers.length, 1, what)
      assert.deepEqual(mesh.counted(), ['forwarded/answered 1', 'mismatch 1'])
    }
  })

  test('only letters have case: signs that differ in the same bit are different names', () => {
    for (const [asked, other] of ['@`', '[{', '\x0e.', '0\x10'].map((pair) => [...pair])) {
      const mesh = new ResolverMesh()
      const bytes = query()
      bytes[14] = asked!.charCodeAt(0)
      const answers = mesh.send(bytes)
      const forged = reply()
      forged[14] = other!.charCodeAt(0)
      mesh.upstream.last.reply(forged)
      assert.equal(answers.length, 0, `${asked} and ${other}`)
    }
  })

  test('a resolver may change the case of the question, and may answer an error with a header alone', () => {
    const mesh = new ResolverMesh()
    const lower = mesh.send(query({ name: 'WWW.Example.ORG' }))
    mesh.upstream.last.reply(reply())
    assert.equal(lower.length, 1)
    const refused = mesh.send(query({ name: 'other.example.org' }))
    mesh.upstream.last.reply(message({ name: null, flags: 0x8185 }))
    assert.equal(rcodeOf(readMessage(refused[0]!)), 5)
  })

  test('a guesser of ids makes the exchange fail before he is likely to be right', () => {
    const mesh = new ResolverMesh()
    const answers = mesh.send(query())
    for (let i = 1; i <= WRONG_REPLIES_MAX; i++) mesh.upstream.last.reply(reply(), i)
    assert.equal(rcodeOf(readMessage(answers[0]!)), 2)
    mesh.upstream.last.reply(reply())
    assert.equal(answers.length, 1)
    assert.equal(mesh.upstream.last.cancelCount, 1)
    assert.deepEqual(mesh.counted(), ['forged 1', 'forwarded/error 1', `mismatch ${WRONG_REPLIES_MAX}`])
  })

  test('ids of forwarded queries are the random ones', () => {
    const mesh = new ResolverMesh()
    for (const id of [0, 0xffff, 0x0102]) {
      mesh.nextId = id
      mesh.send(query({ name: `n${id}.example.org` }))
      assert.equal(mesh.upstream.last.id, id)
    }
  })

  test('a resolver may answer before the query is sent in full', () => {
    const mesh = new ResolverMesh()
    mesh.upstream.onForward = (forwarded) => forwarded.reply(reply())
    assert.equal(mesh.send(query()).length, 1)
    assert.equal(mesh.upstream.last.cancelCount, 1)
    mesh.upstream.onForward = (forwarded) => forwarded.fail('unreachable')
    assert.equal(rcodeOf(readMessage(mesh.send(query({ name: 'b.example.org' }))[0]!)), 2)
    assert.equal(mesh.upstream.last.cancelCount, 1)
    assert.equal(mesh.resolver.exchangeCount, 0)
  })
})

describe('a resolver that does not answer', () => {
  test('is told at once to the client when its host says so', () => {
    const mesh = new ResolverMesh()
    const answers = mesh.send(query({ edns: { isDnssecOk: true } }))
    mesh.upstream.last.fail('refused')
    const read = readMessage(answers[0]!)
    assert.deepEqual([rcodeOf(read), read.id, read.questions[0]!.name], [2, 0x1234, WEB])
    assert.equal(read.records[0]!.ttl, 0x8000)
    assert.deepEqual(mesh.counted(), ['forwarded/error 1', 'refused 1'])
  })

  test('leaves clients over UDP to their own time-out, and is told to those over TCP', () => {
    for (const isTcp of [false, true]) {
      const mesh = new ResolverMesh()
      const answers = mesh.send(query(), CLIENT, isTcp)
      mesh.wait(REPLY_TIMEOUT_MS - 100)
      assert.equal(mesh.upstream.last.cancelCount, 0)
      mesh.wait(400)
      assert.equal(mesh.upstream.last.cancelCount, 1)
      assert.deepEqual(
        answers.map((answer) => rcodeOf(readMessage(answer))),
        isTcp ? [2] : [],
      )
      assert.equal(mesh.resolver.exchangeCount, 0)
      assert.deepEqual(mesh.counted(), ['none/timeout 1', 'timeout 1'])
    }
  })

  test('lets the next query of the same kind go out anew', () => {
    const mesh = new ResolverMesh()
    mesh.send(query())
    mesh.wait(REPLY_TIMEOUT_MS + 300)
    const answers = mesh.send(query())
    mesh.upstream.last.reply(reply())
    assert.equal(answers.length, 1)
    assert.equal(mesh.upstream.sent.length, 2)
  })
})

describe('equal queries in flight', () => {
  test('are sent once, and each client is answered with its own id', () => {
    const mesh = new ResolverMesh()
    const first = mesh.send(query({ id: 1 }))
    const second = mesh.send(query({ id: 2 }))
    const again = mesh.send(query({ id: 1 }))
    assert.equal(mesh.upstream.sent.length, 1)
    mesh.upstream.last.reply(reply())
    assert.deepEqual(
      [first, second, again].map((answers) => answers.map((answer) => readMessage(answer).id)),
      [[1], [2], [1]],
    )
    assert.notEqual(first[0]!.buffer, second[0]!.buffer)
    assert.equal(mesh.upstream.last.cancelCount, 1)
  })

  test('are equal only in all that the resolver would see', () => {
    const mesh = new ResolverMesh()
    mesh.send(query())
    mesh.send(query({ type: TYPES.AAAA }))
    mesh.send(query({ name: 'WWW.example.org' }))
    mesh.send(query({ flags: 0 }))
    mesh.send(query({ edns: {} }))
    mesh.send(query(), STRANGER)
    mesh.send(query(), CLIENT, true)
    mesh.send(query(), CLIENT, false, '198.19.0.11')
    assert.equal(mesh.upstream.sent.length, 8)
  })

  test('that come late are retries: they go out again, and the first reply to any of them counts', () => {
    for (const answering of [0, 1]) {
      const mesh = new ResolverMesh()
      const first = mesh.send(query())
      mesh.wait(RETRY_AFTER_MS - 100)
      mesh.send(query())
      assert.equal(mesh.upstream.sent.length, 1)
      mesh.wait(100)
      const retried = mesh.send(query())
      assert.equal(mesh.upstream.sent.length, 2)
      mesh.upstream.sent[answering]!.reply(reply())
      assert.deepEqual([first.length, retried.length], [1, 1])
      assert.deepEqual(
        mesh.upstream.sent.map(({ cancelCount }) => cancelCount),
        [1, 1],
      )
    }
  })

  test('a retry that fails does not end the wait for the first', () => {
    const mesh = new ResolverMesh()
    const answers = mesh.send(query())
    mesh.wait(RETRY_AFTER_MS)
    mesh.send(query())
    mesh.upstream.sent[1]!.fail('exhausted')
    assert.equal(answers.length, 0)
    mesh.upstream.sent[0]!.reply(reply())
    assert.equal(answers.length, 1)
  })

  test(`are sent at most ${FORWARDS_MAX} times, and have at most ${WAITERS_MAX} clients`, () => {
    const mesh = new ResolverMesh()
    const all: Uint8Array[][] = []
    for (let i = 0; i < WAITERS_MAX + 3; i++) {
      all.push(mesh.send(query({ id: i })))
      if (i < 5) mesh.wait(RETRY_AFTER_MS)
    }
    assert.equal(mesh.upstream.sent.length, FORWARDS_MAX)
    mesh.upstream.last.reply(reply())
    const rcodes = all.map((answers) => answers.map((answer) => rcodeOf(readMessage(answer))).join())
    assert.deepEqual(rcodes, [...new Array<string>(WAITERS_MAX).fill('0'), '2', '2', '2'])
    assert.deepEqual(mesh.counted(), [`forwarded/answered ${WAITERS_MAX}`, 'none/limited 3'])
  })
})

describe('limits', () => {
  test('one pod has so many queries in flight, and others still have theirs', () => {
    const mesh = new ResolverMesh()
    for (let i = 0; i < POD_EXCHANGES_MAX; i++) assert.equal(mesh.send(query({ name: `n${i}.example.org` })).length, 0)
    assert.equal(rcodeOf(mesh.ask(query({ name: 'more.example.org' }))!), 2)
    assert.equal(mesh.upstream.sent.length, POD_EXCHANGES_MAX)
    assert.equal(mesh.ask(query(), STRANGER), null)
    assert.equal(rcodeOf(mesh.ask(message())!), 0, 'names of the mesh need no resolver')
    mesh.upstream.sent[0]!.reply(reply({ name: 'n0.example.org' }))
    assert.equal(mesh.ask(query({ name: 'more.example.org' })), null, 'an exchange that is over makes room')
  })

  test('a worker has so many queries in flight', () => {
    const mesh = new ResolverMesh()
    const pods = Array.from({ length: EXCHANGES_MAX / POD_EXCHANGES_MAX + 1 }, (_, i) => ({
      ...CLIENT,
      uid: `pod-${i}`,
    }))
    let answered = 0
    for (const pod of pods) {
      for (let i = 0; i < POD_EXCHANGES_MAX; i++)
        answered += mesh.send(query({ name: `n${i}.example.org` }), pod).length
    }
    assert.equal(mesh.resolver.exchangeCount, EXCHANGES_MAX)
    assert.equal(answered, POD_EXCHANGES_MAX)
    mesh.resolver.close()
    assert.deepEqual([mesh.resolver.exchangeCount, mesh.resolver.waitingPodCount], [0, 0])
    assert.ok(mesh.upstream.sent.every(({ cancelCount }) => cancelCount === 1))
    assert.equal(mesh.ask(query()), null, 'and the room is there again')
  })
})

describe('bytes that are no query', () => {
  test('get no answer when they have no id or are answers themselves', () => {
    const mesh = new ResolverMesh()
    for (let length = 0; length < 12; length++) assert.equal(mesh.send(query().subarray(0, length)).length, 0)
    assert.equal(mesh.send(reply()).length, 0)
    assert.equal(mesh.upstream.sent.length, 0)
    assert.deepEqual(mesh.counted(), ['none/malformed 13'])
  })

  test('get FORMERR with their id when the question cannot be read', () => {
    const label = (length: number): Buffer => Buffer.concat([Buffer.from([length]), Buffer.alloc(length, 0x61)])
    const ask = (...name: Buffer[]): Uint8Array => {
      const head = message({ name: null })
      head[5] = 1
      return new Uint8Array(Buffer.concat([head, ...name, uint16(1), uint16(1)]))
    }
    const root = Buffer.from([0])
    const two = Buffer.concat([message({ name: WEB }), nameBytes(WEB), uint16(1), uint16(1)])
    two[5] = 2
    const bad: Record<string, Uint8Array> = {
      'two questions': two,
      'a name that points to itself': ask(Buffer.from([0xc0, 12])),
      'a name that points into the header': ask(Buffer.from([1, 0x61, 0xc0, 0])),
      'a label of 64 bytes': ask(Buffer.from([64]), Buffer.alloc(64, 0x61), root),
      'a label type of 1998': ask(Buffer.from([0x41]), Buffer.alloc(65, 0x61), root),
      'a name of 256 bytes': ask(label(63), label(63), label(63), label(62), root),
      'more than a query may have': new Uint8Array(Buffer.concat([query(), Buffer.alloc(QUERY_BYTES_MAX)])),
    }
    for (const [what, bytes] of Object.entries(bad)) {
      const mesh = new ResolverMesh()
      const answer = mesh.ask(bytes)!
      assert.deepEqual([answer.id, answer.flags, answer.questions], [0x1234, 0x8181, []], what)
      assert.equal(mesh.upstream.sent.length, 0)
    }
    const longest = new ResolverMesh()
    assert.equal(longest.ask(ask(label(63), label(63), label(63), label(61), root)), null, 'a name of 255 bytes is one')
    assert.equal(longest.upstream.sent.length, 1)
  })

  test('a query cut at any byte is an error or passed on as it is', () => {
    const whole = message({ name: WEB, edns: { options: COOKIE } })
    const questionEnd = 12 + nameBytes(WEB).length + 4
    for (let length = 12; length < whole.length; length++) {
      const mesh = new ResolverMesh()
      const answer = mesh.ask(whole.subarray(0, length))
      assert.equal(answer === null ? -1 : rcodeOf(answer), length < questionEnd ? 1 : -1, `${length} bytes`)
      assert.equal(mesh.upstream.sent.length, length < questionEnd ? 0 : 1)
    }
  })
})
