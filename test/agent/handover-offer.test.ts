/** The handover's socket, with both of its ends in this process: order, limits, and bytes that are no messages. */
import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, it } from 'node:test'
import { LINE_BYTES_MAX } from '../../src/agent/handover-messages.ts'
import { HandoverOffer, type OfferLimits, type OfferOwner } from '../../src/agent/handover-offer.ts'
import { Predecessor } from '../../src/agent/predecessor.ts'
import { silentLog } from '../../src/base/log.ts'
import type { MetricsReport } from '../../src/telemetry/report.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const PARTY = { version: '1.0.0', node: 'node1', pid: 41 }
const SUCCESSOR = { version: '2.0.0', node: 'node1', pid: 42 }
const HELLO = JSON.stringify({ kind: 'hello', format: 1, ...SUCCESSOR })

const MATERIAL = {
  identity: 'spiffe://cluster.local/ns/shop/sa/web',
  certificateChain: 'chain',
  key: 'key',
  bundle: 'bundle',
  trustDomain: 'cluster.local',
}

const REPORT: MetricsReport = {
  newSeries: [{ id: 1, kind: 1, labels: ['a', 'b"\n'] }],
  retired: [],
  httpIds: new Uint32Array(0),
  httpValues: new Float64Array(0),
  tcpIds: Uint32Array.of(1),
  tcpValues: Float64Array.of(1, 2.5, 3, 4),
  messageIds: new Uint32Array(0),
  messageValues: new Float64Array(0),
  droppedEdges: 1,
  foldedOutcomes: 2,
  droppedLogLines: 3,
  violations: [{ side: 'downstream', reason: 'bad', count: 4 }],
  dns: {
    queries: [{ source: 'mesh', result: 'answered', count: 5 }],
    failures: [{ reason: 'timeout', count: 6 }],
    receivedDropped: 7,
    sentDropped: 8,
  },
  udp: { counts: [{ isSent: true, labels: ['source', 'c"'], bytes: 9, packets: 10 }], overflows: 11 },
}

describe('the offer of an agent to its successor', () => {
  let directory: string
  let path: string
  let offer: HandoverOffer
  let asked: string[]
  let wake: () => void
  let others: { end(): void }[]

  const owner: OfferOwner = {
    slotBase: 64,
    credentials: () => [MATERIAL],
    release: async () => note('release'),
    resume: async () => note('resume'),
    reports: async () => [REPORT],
    retire: () => note('retire'),
  }

  beforeEach(async () => {
    directory = mkdtempSync(join(tmpdir(), 'weft-offer-'))
    path = join(directory, 'handover.sock')
    asked = []
    others = []
    wake = () => {}
    await open({})
  })

  afterEach(async () => {
    for (const other of others) other.end()
    await offer.end()
    assert.deepEqual(readdirSync(directory), [], 'no socket stays')
    rmSync(directory, { recursive: true })
  })

  function note(what: string): void {
    asked.push(what)
    wake()
  }

  async function open(limits: Partial<OfferLimits>): Promise<void> {
    offer = await HandoverOffer.open(path, PARTY, silentLog, limits)
    assert.ok(offer.claim())
    offer.serve(owner)
  }

  async function find(): Promise<Predecessor> {
    const found = await Predecessor.find({ path, party: SUCCESSOR })
    assert.ok(found !== null)
    others.push({ end: () => found.close() })
    return found
  }

  /** A raw connection, and the lines that it gets. */
  function raw(): { socket: Socket; closed: Promise<string> } {
    const socket = connect(path)
    others.push({ end: () => socket.destroy() })
    let text = ''
    socket.on('data', (bytes) => {
      text += bytes
    })
    socket.on('error', () => {})
    return { socket, closed: new Promise((resolve) => socket.on('close', () => resolve(text))) }
  }

  async function until(what: string): Promise<void> {
    while (!asked.includes(what)) {
      await new Promise<void>((resolve) => {
        wake = resolve
      })
    }
  }

  it('is open to its own user alone', () => {
    assert.equal(statSync(path).mode & 0o777, 0o600)
  })

  it('hands over keys, then the capture, then counters, and last the connections', async () => {
    const predecessor = await find()
    assert.deepEqual(predecessor.credentials, [MATERIAL])
    assert.equal(predecessor.pid, PARTY.pid)
    assert.equal(predecessor.slotBase, 64)
    assert.equal(await predecessor.take(), 'done')
    assert.deepEqual(asked, ['release'])
    const reports: MetricsReport[] = []
    predecessor.onReport = (report) => reports.push(report)
    assert.equal(await predecessor.commit(), 'done')
    assert.deepEqual(reports, [REPORT])
    const ended = new Promise<void>((resolve) => {
      predecessor.onEnded = resolve
    })
    predecessor.serving()
    await until('retire')
    rmSync(path)
    await offer.end()
    await ended
    assert.deepEqual(reports, [REPORT, REPORT], 'what it counted last comes as well')
    assert.deepEqual(asked, ['release', 'retire'])
  })

  for (const steps of [0, 1]) {
    it(`goes back to the agent when the successor goes after ${steps + 1} steps`, async () => {
      const predecessor = await find()
      await predecessor.take()
      if (steps > 0) await predecessor.commit()
      predecessor.close()
      await until('resume')
      assert.deepEqual(asked, ['release', 'resume'])
      const second = await find()
      assert.equal(await second.take(), 'done')
    })
  }

  it('goes back to the agent when the successor is too slow', async () => {
    await offer.end()
    await open({ commitMs: 20 })
    const predecessor = await find()
    await predecessor.take()
    await until('resume')
    await assert.rejects(predecessor.commit(), /no "commit" came within 0.02 s/)
    assert.throws(() => predecessor.assertWilling())
  })

  it('is for one successor at a time', async () => {
    const [first, second] = [await find(), await find()]
    assert.equal(await first.take(), 'done')
    await assert.rejects(second.take(), /it is handing over to process 42/)
    assert.deepEqual(asked, ['release'])
  })

  it('is refused to an agent of another node, and to one that speaks another format', async () => {
    await assert.rejects(
      Predecessor.find({ path, party: { ...SUCCESSOR, node: 'node2' } }),
      /it is the agent of node node1, not node2/,
    )
    const { socket, closed } = raw()
    socket.write(`${HELLO.replace('"format":1', '"format":2')}\n`)
    assert.match(await closed, /^\{"kind":"refused","reason":"it knows handover format 1, not 2/)
  })

  it('is not made while the agent is starting', async () => {
    await offer.end()
    offer = await HandoverOffer.open(path, PARTY, silentLog)
    assert.ok(offer.claim())
    await assert.rejects(Predecessor.find({ path, party: SUCCESSOR }), /it is just starting; try again/)
  })

  it('is found only where somebody listens', async () => {
    await offer.end()
    assert.equal(await Predecessor.find({ path, party: SUCCESSOR }), null)
    await open({})
  })

  describe('on bytes that are no messages', () => {
    const bad: [string, string][] = [
      ['text', 'hello\n'],
      ['an array', '[]\n'],
      ['null', 'null\n'],
      ['a message of the other side', '{"kind":"released"}\n'],
      ['no kind', '{}\n'],
      ['a hello without fields', '{"kind":"hello"}\n'],
      ['a hello with wrong types', '{"kind":"hello","format":"1","version":1,"pid":-1,"node":null}\n'],
      ['a step before hello', '{"kind":"take"}\n'],
      ['hello twice', `${HELLO}\n${HELLO}\n`],
      ['a step out of turn', `${HELLO}\n{"kind":"serving"}\n`],
      ['a commit out of turn', `${HELLO}\n{"kind":"commit"}\n`],
      ['a line that is too long', `${' '.repeat(LINE_BYTES_MAX + 1)}`],
      ['a finished line that is too long', `${' '.repeat(LINE_BYTES_MAX + 1)}\n`],
    ]
    for (const [what, bytes] of bad) {
      it(`closes the connection, and nothing else: ${what}`, async () => {
        const { socket, closed } = raw()
        socket.write(bytes)
        await closed
        assert.deepEqual(asked, [])
        assert.equal(await (await find()).take(), 'done')
      })
    }

    it('closes it for any garbage', async () => {
      const random = new SeededRandom(20_261_122)
      for (let round = 0; round < 200; round++) {
        const length = random.integer(1, 200)
        const bytes = Buffer.from(Array.from({ length }, () => random.integer(0, 255)))
        const cut = random.integer(1, HELLO.length - 1)
        const { socket, closed } = raw()
        socket.write(round % 2 === 0 ? bytes : HELLO.slice(0, cut))
        socket.end('\n')
        await closed
      }
      assert.deepEqual(asked, [])
      assert.equal(await (await find()).take(), 'done')
    })

    it('closes it when nothing comes', async () => {
      await offer.end()
      await open({ helloMs: 20 })
      await raw().closed
    })

    it('takes few connections at a time', async () => {
      const many = Array.from({ length: 8 }, () => raw())
      await Promise.race(many.map(({ closed }) => closed))
      for (const { socket } of many) socket.destroy()
    })
  })
})

describe('a successor', () => {
  let directory: string
  let path: string
  let server: Server

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'weft-predecessor-'))
    path = join(directory, 'handover.sock')
  })

  afterEach(() => {
    server.close()
    rmSync(directory, { recursive: true })
  })

  async function serve(answer: (socket: Socket) => void): Promise<void> {
    server = createServer((socket) => {
      socket.on('error', () => {})
      answer(socket)
    })
    await new Promise<void>((resolve) => server.listen(path, resolve))
  }

  it('says which agent hangs', async () => {
    await serve(() => {})
    await assert.rejects(
      Predecessor.find({ path, party: SUCCESSOR, answerMs: 20 }),
      /may hang; kill it \(SIGKILL\) first/,
    )
  })

  it('does not take over from an agent that lives and closes the connection', async () => {
    await serve((socket) => socket.end())
    await assert.rejects(Predecessor.find({ path, party: SUCCESSOR }), /does not hand over: it closed the connection/)
  })

  it('does not believe an agent that sends garbage', async () => {
    await serve((socket) => socket.write('{"kind":"credential","material":{"key":5}}\n'))
    await assert.rejects(Predecessor.find({ path, party: SUCCESSOR }), /its message is not usable: a text is missing/)
  })
})
