/**
 * Requirements of RFC 9113 as a table: what a peer sends on a connection with two open requests, and what it costs it.
 * The connections are those of applications, in both roles.
 *
 * Stream 1 is a POST whose request has not ended, stream 3 a GET that has; neither has an answer yet.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PREFACE } from '../../src/http/h2/frame.ts'
import { APP_CLIENT_SETTINGS, APP_SERVER_SETTINGS } from '../../src/http/h2/limits.ts'
import { frame, GET_FIELDS, ScriptedH2Peer, StreamRecorder, settingsFrame } from './scripted-h2-peer.ts'

export const POST_FIELDS: readonly string[] = [':method', 'POST', ...GET_FIELDS.slice(2)]

/** A connection with its two requests. */
export class Situation {
  readonly peer: ScriptedH2Peer
  readonly streams = new Map<number, StreamRecorder>()
  private readonly isServer: boolean

  constructor(isServer: boolean) {
    this.isServer = isServer
    this.peer = new ScriptedH2Peer(isServer ? APP_SERVER_SETTINGS : APP_CLIENT_SETTINGS)
    if (isServer) {
      this.streams.set(1, this.peer.request(1, POST_FIELDS))
      this.streams.set(3, this.peer.request(3, GET_FIELDS, true))
    } else {
      for (const [id, fields] of [
        [1, POST_FIELDS],
        [3, GET_FIELDS],
      ] as const) {
        const recorder = new StreamRecorder()
        recorder.stream = this.peer.engine.open(fields, id === 3, recorder)
        this.streams.set(id, recorder)
      }
    }
    this.peer.flush()
    this.peer.take()
  }

  stream(id: number): StreamRecorder {
    return this.streams.get(id) ?? this.peer.streams.get(id)!
  }

  /** `connection CODE`, `stream N CODE` or `tolerated`. */
  outcome(): string {
    const { peer } = this
    const frames = [...peer.sink.frames]
    const goAway = peer.goAwayName()
    if (goAway !== null) {
      assert.deepEqual(peer.sink.endings, ['close'], 'the connection is closed behind the GOAWAY')
      assert.equal(peer.failed?.[0], goAway)
      return `connection ${goAway}`
    }
    assert.equal(peer.failed, null)
    const resets = frames.filter((one) => one.type === 3).map((one) => `${one.streamId} ${codeName(one.payload)}`)
    this.assertAlive()
    return resets.length === 0 ? 'tolerated' : `stream ${resets.join(', ')}`
  }

  /** The connection, and its header compression, still work. */
  private assertAlive(): void {
    const { peer } = this
    if (this.isServer) {
      assert.deepEqual(peer.request(1001, POST_FIELDS).stream!.id, 1001)
      assert.deepEqual(peer.requests.at(-1), [...POST_FIELDS])
    } else if (peer.engine.canOpen) {
      const recorder = new StreamRecorder()
      const { id } = peer.engine.open(GET_FIELDS, true, recorder)
      peer.send(peer.headersFrame(id, [':status', '204'], true))
      assert.deepEqual(recorder.heads, [[':status', '204']])
    }
  }
}

export type Script = (peer: ScriptedH2Peer) => readonly Uint8Array[]

/** Section, what the peer does, what it costs. */
export type Requirement = readonly [string, string, Script, string]

/** One test for each requirement of a role. */
export function testRequirements(role: 'server' | 'client', requirements: readonly Requirement[]): void {
  for (const [section, title, script, expected] of requirements) {
    test(`${section}, ${role}: ${title}: ${expected}`, () => {
      const situation = new Situation(role === 'server')
      situation.peer.send(...script(situation.peer))
      assert.equal(situation.outcome(), expected)
    })
  }
}

/** The same for what comes first on a connection. */
export function testBeginnings(
  beginnings: readonly (readonly [string, 'server' | 'client', string, Uint8Array, string])[],
): void {
  for (const [section, role, title, bytes, expected] of beginnings) {
    test(`${section}, ${role}: ${title}: ${expected}`, () => {
      const peer = new ScriptedH2Peer(role === 'server' ? APP_SERVER_SETTINGS : APP_CLIENT_SETTINGS, false)
      peer.send(bytes)
      const name = peer.goAwayName()
      assert.equal(name === null ? 'tolerated' : `connection ${name}`, expected)
    })
  }
}

export const SETTINGS_AFTER_PREFACE = Buffer.concat([PREFACE, settingsFrame()])

/** HEADERS without END_HEADERS. */
export function openHeaders(peer: ScriptedH2Peer, streamId: number, fields: readonly string[]): Uint8Array {
  return frame(1, 0, streamId, peer.headersFrame(streamId, fields).subarray(9))
}

const CODES = [
  'NO_ERROR',
  'PROTOCOL_ERROR',
  'INTERNAL_ERROR',
  'FLOW_CONTROL_ERROR',
  'SETTINGS_TIMEOUT',
  'STREAM_CLOSED',
  'FRAME_SIZE_ERROR',
  'REFUSED_STREAM',
  'CANCEL',
  'COMPRESSION_ERROR',
  'CONNECT_ERROR',
  'ENHANCE_YOUR_CALM',
]

function codeName(payload: Buffer): string {
  return CODES[payload.readUInt32BE(0)]!
}
