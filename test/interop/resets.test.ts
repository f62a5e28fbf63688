/**
 * A client or a server that breaks off, in every phase of an exchange, in every combination of versions, over both
 * transports: the other side must see it for what it is, both proxies must record it, and nothing may be left behind.
 */
import assert from 'node:assert/strict'
import { after, afterEach, before, describe, test } from 'node:test'
import { PROTOCOL_HTTP1, PROTOCOL_HTTP2, type Service } from '../../src/model/service.ts'
import { released } from '../support/leaks.ts'
import { TestMesh, type TestPod } from '../support/mesh.ts'
import {
  type Outcome,
  type ScriptedApp,
  ScriptedClient,
  ScriptedServer,
  type Version,
} from '../support/scripted-web.ts'
import { nodeKind, reactorKind, type TransportKind } from '../support/transports.ts'
import type { Target } from '../support/web-clients.ts'

const TEST = { timeout: 20_000 }
const PORT_BY_VERSION = { 1: 8301, 2: 8302 } as const

let mesh: TestMesh
let client: TestPod
const services: Service[] = []
/** By path (one hop, tunnel), then by version. */
const servers: Record<Version, ScriptedServer>[] = []
let nextPath = 0

async function start(kind: TransportKind): Promise<void> {
  mesh = new TestMesh(2, [kind])
  client = await mesh.pod('client', { node: 0 })
  for (const [index, name] of ['local', 'remote'].entries()) {
    const pod = await mesh.pod(name, { node: index })
    const ports = [
      { number: PORT_BY_VERSION[1], targetPort: PORT_BY_VERSION[1], protocol: PROTOCOL_HTTP1 },
      { number: PORT_BY_VERSION[2], targetPort: PORT_BY_VERSION[2], protocol: PROTOCOL_HTTP2 },
    ] as const
    services.push(await mesh.service(name, ports, [pod]))
    const both = { 1: new ScriptedServer(1), 2: new ScriptedServer(2) }
    for (const version of [1, 2] as const) await both[version].listen(pod.appAddress, PORT_BY_VERSION[version])
    servers.push(both)
  }
}

function stop(): void {
  mesh.close()
  for (const both of servers.splice(0)) for (const version of [1, 2] as const) both[version].close()
  services.length = 0
}

/** Which end of an exchange through a tunnel each node is. */
const REPORTERS = ['source', 'destination'] as const

const stages: Stage[] = []

afterEach(() => {
  for (const stage of stages.splice(0)) stage.client.close()
})

/** One combination of versions and path. */
class Stage {
  readonly client: ScriptedClient
  readonly server: ScriptedServer
  readonly path: string
  private readonly index: number
  private readonly apps: ScriptedApp[] = []
  private wake: () => void = () => {}

  constructor(index: number, from: Version, to: Version, script: ((app: ScriptedApp) => void) | null = null) {
    this.index = index
    this.path = `/${nextPath++}`
    this.server = servers[index]![to]
    this.server.reset()
    this.server.script = (app) => {
      this.apps.push(app)
      this.wake()
      script?.(app)
    }
    stages.push(this)
    for (const { recorder } of mesh.nodes) recorder.finished.clear()
    this.client = new ScriptedClient(from, stageTarget(index, to), this.path)
  }

  /** The app's side, once it has the head of the request. */
  async requested(): Promise<ScriptedApp> {
    for (let tried = 0; ; tried++) {
      while (this.apps.length <= tried) {
        await new Promise<void>((resolve) => {
          this.wake = resolve
        })
      }
      if (await this.apps[tried]!.request()) return this.apps[tried]!
    }
  }

  /** Flag and status that both proxies logged, the client's side first; their counters must say the same. */
  async recorded(): Promise<string[]> {
    const records: string[] = []
    for (const node of this.index === 0 ? [0] : [0, 1]) {
      const { recorder } = mesh.nodes[node]!
      for (;;) {
        const record = recorder.records.find(({ http }) => http?.path === this.path)
        if (record !== undefined) {
          const outcome = `${record.flag} ${record.http!.status}`
          const reporters = this.index === 0 ? ['source', 'destination'] : [REPORTERS[node]!]
          assert.deepEqual(
            [...recorder.finished],
            reporters.map((reporter) => [`${reporter} ${outcome}`, 1]),
          )
          records.push(outcome)
          break
        }
        await new Promise((resolve) => setTimeout(resolve, 2))
      }
    }
    return records
  }

  /** What the client's proxy recorded. */
  flagAtSource(): string {
    const record = mesh.nodes[0]!.recorder.records.find(({ http }) => http?.path === this.path)!
    return `${record.flag} ${record.http!.status}`
  }

  /** Ends every connection of the app, none of which is in use. */
  async endIdle(end: (app: ScriptedApp) => void): Promise<void> {
    for (const app of this.apps) {
      if (app.wire.isClosed) continue
      end(app)
      await app.wire.until(() => app.wire.isClosed)
    }
  }

  /** Nothing was recorded of it. */
  assertUnrecorded(): void {
    for (const { recorder } of mesh.nodes) {
      assert.equal(
        recorder.records.some(({ http }) => http?.path === this.path),
        false,
      )
    }
  }

  /** Everything was given back, and nothing was recorded twice. */
  async assertReleased(): Promise<void> {
    this.client.close()
    await released([mesh.nodes[0]!.proxy, mesh.nodes[1]!.proxy])
    for (const { recorder } of mesh.nodes) {
      assert.ok(recorder.records.filter(({ http }) => http?.path === this.path).length <= 1, 'recorded twice')
    }
  }
}

function stageTarget(index: number, to: Version): Target {
  return { host: mesh.vip(services[index]!, 0), port: PORT_BY_VERSION[to], localAddress: client.address }
}

/** What both proxies say; in one hop there is one. */
function both(index: number, source: string, destination = source): string[] {
  return index === 0 ? [source] : [source, destination]
}

for (const kind of [reactorKind, nodeKind]) {
  for (const index of [0, 1]) {
    for (const from of [1, 2] as const) {
      for (const to of [1, 2] as const) {
        const where = `${kind.name}: HTTP/${from} to HTTP/${to} ${index === 0 ? 'in one hop' : 'through a tunnel'}`
        describe(where, { skip: kind.skip }, () => {
          before(() => start(kind))
          after(stop)

          for (const what of from === 1 ? (['connection'] as const) : (['connection', 'stream'] as const)) {
            const reset = (one: ScriptedClient): void => {
              if (what === 'connection') one.resetConnection()
              else one.resetStream()
            }

            if (what === 'connection') {
              test('a client that resets within its head has made no request', TEST, async () => {
                const stage = new Stage(index, from, to)
                stage.client.sendHalfHead()
                await new Promise((resolve) => setTimeout(resolve, 20))
                reset(stage.client)
                await stage.assertReleased()
                stage.assertUnrecorded()
              })
            }

            test(`a client that resets its ${what} after its head is DC, and the app is told`, TEST, async () => {
              const stage = new Stage(index, from, to)
              stage.client.sendHead()
              const app = await stage.requested()
              reset(stage.client)
              await app.gone()
              assert.deepEqual(await stage.recorded(), both(index, 'DC 0'))
              await stage.assertReleased()
            })

            test(`a client that resets its ${what} within its body is DC, and the app is told`, TEST, async () => {
              const stage = new Stage(index, from, to)
              stage.client.sendHead()
              stage.client.sendHalf()
              const app = await stage.requested()
              await app.body('first')
              reset(stage.client)
              await app.gone()
              assert.deepEqual(await stage.recorded(), both(index, 'DC 0'))
              await stage.assertReleased()
            })

            test(`a client that resets its ${what} while it waits is DC, and the app is told`, TEST, async () => {
              const stage = new Stage(index, from, to)
              stage.client.sendHead()
              stage.client.sendHalf()
              stage.client.sendRest()
              const app = await stage.requested()
              await app.body('other')
              reset(stage.client)
              await app.gone()
              assert.deepEqual(await stage.recorded(), both(index, 'DC 0'))
              await stage.assertReleased()
            })

            test(`a client that resets its ${what} within the response is DC, and the app is told`, TEST, async () => {
              const stage = new Stage(index, from, to)
              stage.client.sendHead()
              stage.client.sendHalf()
              stage.client.sendRest()
              const app = await stage.requested()
              await app.body('other')
              app.sendHead()
              app.sendHalf()
              await stage.client.body(5)
              reset(stage.client)
              await app.gone()
              assert.deepEqual(await stage.recorded(), both(index, 'DC 200'))
              await stage.assertReleased()
            })

            test(`a client that resets its ${what} after the response has had its answer`, TEST, async () => {
              const stage = new Stage(index, from, to)
              stage.client.sendHead()
              stage.client.sendHalf()
              stage.client.sendRest()
              const app = await stage.requested()
              await app.body('other')
              app.answer()
              assert.equal((await stage.client.over()).body, 'helloworld')
              reset(stage.client)
              assert.deepEqual(await stage.recorded(), both(index, '- 200'))
              await stage.assertReleased()
            })
          }

          test('a server that resets what it accepts is 503', TEST, async () => {
            const stage = new Stage(index, from, to, (app) => app.resetConnection())
            stage.client.sendHead()
            stage.client.sendHalf()
            stage.client.sendRest()
            const { status, isComplete } = await stage.client.over()
            assert.deepEqual([status, isComplete], [503, true])
            assert.match(stage.flagAtSource(), index === 0 ? /^(UC|UF) 503$/ : /^(-|UF) 503$/)
            await stage.assertReleased()
            // What counted as a failed connect is left alone for a moment.
            while ((await answered(index, from, to)).status !== 200);
          })

          for (const ending of endingsOf(to)) {
            const end = (app: ScriptedApp): void => END_BY_NAME[ending](app)

            test(`a server that ${ending} before it answers is 503, UC at its side`, TEST, async () => {
              const stage = new Stage(index, from, to)
              stage.client.sendHead()
              stage.client.sendHalf()
              stage.client.sendRest()
              const app = await stage.requested()
              await app.body('other')
              end(app)
              const { status, isComplete } = await stage.client.over()
              assert.deepEqual([status, isComplete], [503, true])
              assert.deepEqual(await stage.recorded(), index === 0 ? ['UC 503'] : ['- 503', 'UC 503'])
              await stage.assertReleased()
            })

            test(`a server that ${ending} within the request is 503, UC at its side`, TEST, async () => {
              const stage = new Stage(index, from, to)
              stage.client.sendHead()
              stage.client.sendHalf()
              const app = await stage.requested()
              await app.body('first')
              end(app)
              const { status, isComplete } = await stage.client.over()
              assert.deepEqual([status, isComplete], [503, true])
              assert.deepEqual(await stage.recorded(), index === 0 ? ['UC 503'] : ['- 503', 'UC 503'])
              await stage.assertReleased()
            })

            if (ending !== 'resets its stream') {
              test(`a server that ${ending} within its head is 503, UC at its side`, TEST, async () => {
                const stage = new Stage(index, from, to)
                stage.client.sendHead()
                stage.client.sendHalf()
                stage.client.sendRest()
                const app = await stage.requested()
                await app.body('other')
                app.sendHalfHead()
                await new Promise((resolve) => setTimeout(resolve, 5))
                end(app)
                const { status, isComplete } = await stage.client.over()
                assert.deepEqual([status, isComplete], [503, true])
                assert.deepEqual(await stage.recorded(), index === 0 ? ['UC 503'] : ['- 503', 'UC 503'])
                await stage.assertReleased()
              })
            }

            test(`a server that ${ending} within its body leaves it incomplete, UC at both sides`, TEST, async () => {
              const stage = new Stage(index, from, to)
              stage.client.sendHead()
              stage.client.sendHalf()
              stage.client.sendRest()
              const app = await stage.requested()
              await app.body('other')
              app.sendHead()
              app.sendHalf()
              await stage.client.body(5)
              end(app)
              assert.deepEqual(await stage.client.over(), { status: 200, body: 'hello', isComplete: false })
              assert.deepEqual(await stage.recorded(), both(index, 'UC 200'))
              await stage.assertReleased()
            })

            if (ending !== 'ends its connection' || to === 2) {
              test(`a server that ${ending} within a body without length leaves it incomplete`, TEST, async () => {
                const stage = new Stage(index, from, to)
                stage.client.sendHead()
                stage.client.sendHalf()
                stage.client.sendRest()
                const app = await stage.requested()
                await app.body('other')
                app.sendHead(true)
                app.sendHalf()
                await stage.client.body(5)
                end(app)
                const { status, isComplete } = await stage.client.over()
                assert.deepEqual([status, isComplete], [200, false])
                assert.deepEqual(await stage.recorded(), both(index, 'UC 200'))
                await stage.assertReleased()
              })
            }

            if (ending !== 'resets its stream') {
              test(
                `a server that ${ending} after its answer has answered, and the next request too`,
                TEST,
                async () => {
                  const stage = new Stage(index, from, to, (app) => {
                    answering(app)
                  })
                  stage.client.sendHead()
                  stage.client.sendHalf()
                  stage.client.sendRest()
                  assert.deepEqual(await stage.client.over(), { status: 200, body: 'helloworld', isComplete: true })
                  assert.deepEqual(await stage.recorded(), both(index, '- 200'))
                  await stage.endIdle(end)
                  await stage.assertReleased()
                  const again = new Stage(index, from, to, (app) => {
                    answering(app)
                  })
                  again.client.sendHead()
                  again.client.sendHalf()
                  again.client.sendRest()
                  assert.deepEqual(await again.client.over(), { status: 200, body: 'helloworld', isComplete: true })
                  assert.deepEqual(await again.recorded(), both(index, '- 200'))
                  await again.assertReleased()
                },
              )
            }
          }
        })
      }
    }
  }
}

/** Answers every request of a connection. */
async function answering(app: ScriptedApp): Promise<void> {
  while (await app.request()) {
    await app.body('other')
    app.answer()
  }
}

/** The outcome of a whole request to an app that answers. */
async function answered(index: number, from: Version, to: Version): Promise<Outcome> {
  const stage = new Stage(index, from, to, (app) => {
    answering(app)
  })
  stage.client.sendHead()
  stage.client.sendHalf()
  stage.client.sendRest()
  const outcome = await stage.client.over()
  await stage.assertReleased()
  return outcome
}

type Ending = 'resets its connection' | 'ends its connection' | 'resets its stream'

const END_BY_NAME: Readonly<Record<Ending, (app: ScriptedApp) => void>> = {
  'resets its connection': (app) => app.resetConnection(),
  'ends its connection': (app) => app.endConnection(),
  'resets its stream': (app) => app.resetStream(),
}

function endingsOf(version: Version): readonly Ending[] {
  const ofConnections: readonly Ending[] = ['resets its connection', 'ends its connection']
  return version === 1 ? ofConnections : [...ofConnections, 'resets its stream']
}
