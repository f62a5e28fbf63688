/**
 * The closing states of conn.ts as a table: what one side does, and what the other is told; between two of ours, and
 * with a foreign peer that ends, cuts or resets in the middle. Plain and TLS.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import net from 'node:net'
import { after, describe, test } from 'node:test'
import tls from 'node:tls'
import { type Conn, ORIGIN_ANY } from '../../src/transport/conn.ts'
import { AcceptRecorder, ConnRecorder, writeText } from '../support/conn-recorder.ts'
import { SERVER, TlsPeers } from '../support/tls-peers.ts'
import type { TransportKind } from '../support/transports.ts'

interface Ends {
  readonly one: Conn
  readonly other: Conn
  readonly oneHears: ConnRecorder
  readonly otherHears: ConnRecorder
}

/** Name; what happens; events of who acts, and of the other, behind `open`; the codes with which they close. */
type Row = readonly [string, (ends: Ends) => Promise<void> | void, string, string, string | null, string | null]

const ROWS: readonly Row[] = [
  [
    'both end',
    ({ one, other }) => {
      one.end()
      other.end()
    },
    'end close',
    'end close',
    null,
    null,
  ],
  [
    'one ends, the other answers that',
    async ({ one, other, otherHears }) => {
      one.end()
      await otherHears.seen('end')
      writeText(other, 'the last word')
      other.end()
    },
    'bytes end close',
    'end close',
    null,
    null,
  ],
  ['one aborts', ({ one }) => one.abort(), 'close', 'close', null, 'WEFT_RESET'],
  [
    'one aborts, having been ended on',
    async ({ one, other, oneHears }) => {
      other.end()
      await oneHears.seen('end')
      one.abort()
    },
    'end close',
    'close',
    null,
    'WEFT_RESET',
  ],
  [
    'one closes, the other ends',
    async ({ one, other, otherHears }) => {
      one.close()
      await otherHears.seen('end')
      other.end()
    },
    'close',
    'end close',
    null,
    null,
  ],
  [
    'one closes behind its last bytes',
    async ({ one, other, otherHears }) => {
      writeText(one, 'last')
      one.close()
      await otherHears.seen('end')
      other.end()
    },
    'close',
    'bytes end close',
    null,
    null,
  ],
  [
    'both close',
    ({ one, other }) => {
      one.close()
      other.close()
    },
    'close',
    'close',
    null,
    null,
  ],
  [
    'both abort',
    ({ one, other }) => {
      one.abort()
      other.abort()
    },
    'close',
    'close',
    null,
    null,
  ],
]

/** How a peer of another make leaves; what we hear; and whether it is an end in order. */
const DEPARTURES: readonly (readonly [string, boolean, (raw: net.Socket, socket: net.Socket) => void, boolean])[] = [
  ['its end', false, (raw) => raw.end(), true],
  ['a reset', false, (raw) => raw.resetAndDestroy(), false],
  ["TLS's end (close_notify)", true, (_raw, socket) => socket.end(), true],
  ["TCP's end alone", true, (raw) => raw.end(), false],
  ['a reset under TLS', true, (raw) => raw.resetAndDestroy(), false],
]

/** Tests of the ends of connections. */
export function testClosing(kind: TransportKind): void {
  const peers = new TlsPeers(kind)
  const { transport } = peers
  after(() => peers.close())

  async function listen(isTls: boolean) {
    const context = transport.tlsContext(peers.serverMaterial)
    const acceptor = new AcceptRecorder(() => new ConnRecorder())
    const target = { address: '127.0.0.1', port: 0, isShared: false }
    const listener = await transport.listen(target, isTls ? { current: () => context } : null, acceptor)
    peers.atEnd(() => listener.close())
    return { acceptor, port: listener.port }
  }

  describe('the ends of a connection', { timeout: 30_000 }, () => {
    for (const isTls of [false, true]) {
      for (const [name, act, oneHears, otherHears, oneCode, otherCode] of ROWS) {
        for (const isDialling of [true, false]) {
          const who = isDialling ? 'the one who dialled first' : 'the one who accepted first'
          test(`${isTls ? 'TLS' : 'plain'}, ${name}: ${who}`, async () => {
            const { acceptor, port } = await listen(isTls)
            const client = new ConnRecorder()
            const tlsContext = isTls ? transport.tlsContext(peers.clientMaterial) : null
            const options = { address: '127.0.0.1', port, origin: ORIGIN_ANY, timeoutMs: 5_000 }
            const conn = transport.connect({ ...options, tls: tlsContext, expectedIdentities: [SERVER] }, client)
            const server = await acceptor.handler(0)
            await server.seen('open')
            await client.seen('open')
            const [one, other] = isDialling ? [client, server] : [server, client]
            const ends = isDialling
              ? { one: conn, other: server.conn!, oneHears: one, otherHears: other }
              : { one: server.conn!, other: conn, oneHears: one, otherHears: other }
            await act(ends)
            await one.seen('close')
            await other.seen('close')
            assert.equal(one.events.join(' '), `open ${oneHears}`)
            assert.equal(other.events.join(' '), `open ${otherHears}`)
            assert.deepEqual([one.error?.code ?? null, other.error?.code ?? null], [oneCode, otherCode])
            assert.ok(ends.one.isClosed && ends.other.isClosed)
          })
        }
      }
    }
  })

  describe('a peer of another make that leaves by', { timeout: 30_000 }, () => {
    for (const [name, isTls, leave, isOrderly] of DEPARTURES) {
      test(`${name} is ${isOrderly ? 'heard to end' : 'reset'}`, async () => {
        const { acceptor, port } = await listen(isTls)
        const raw = net.connect({ port, host: '127.0.0.1', allowHalfOpen: true })
        raw.on('error', () => {})
        // @types/node knows `allowHalfOpen` only for sockets that it connects itself.
        const options = { ...peers.foreignIdentity, socket: raw, ALPNProtocols: ['h2'], allowHalfOpen: true }
        const socket = isTls ? tls.connect(options as tls.ConnectionOptions) : raw
        socket.on('error', () => {})
        await once(socket, isTls ? 'secureConnect' : 'connect')
        socket.write('said')
        const server = await acceptor.handler(0)
        await server.seen('bytes')
        leave(raw, socket)
        // node:tls cannot tell a cut from TLS's end: see the head of node-tls.ts.
        const isHeardAsEnd = isOrderly || (kind.name === 'node' && name === "TCP's end alone")
        if (isHeardAsEnd) {
          await server.seen('end')
          server.conn!.end()
        }
        await server.seen('close')
        assert.equal(server.events.includes('end'), isHeardAsEnd)
        if (!isHeardAsEnd) assert.equal(server.error?.code, 'WEFT_RESET')
        else if (isOrderly) assert.equal(server.error, null)
        assert.equal(server.text, 'said')
        socket.destroy()
        raw.destroy()
      })
    }
  })
}
