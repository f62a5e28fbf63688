import assert from 'node:assert/strict'
import { afterEach, beforeEach, test } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import { Logger } from '../../src/base/log.ts'
import { KubernetesApi, type KubernetesObject, type ResourceType } from '../../src/kubernetes/api.ts'
import { Reflector, type ReflectorPhase, type ReflectorState } from '../../src/kubernetes/reflector.ts'
import { WATCH_LINE_BYTES_MAX, WATCH_SILENCE_MS } from '../../src/kubernetes/watch.ts'
import { answerStatus, FakeApiServer, type SeenRequest } from '../support/fake-api-server.ts'
import { FakeClock } from '../support/fake-clock.ts'

const PODS: ResourceType = { group: '', version: 'v1', plural: 'pods', isNamespaced: true }

let server: FakeApiServer
let api: KubernetesApi
let clock: FakeClock
let kept: Kept

/** What the reflector told, and promises of what it will tell. */
class Kept {
  readonly objects = new Map<string, KubernetesObject>()
  readonly calls: string[] = []
  readonly states: ReflectorState[] = []
  readonly reflector: Reflector<KubernetesObject>
  private readonly waiting = new Set<() => void>()

  constructor() {
    const settings = { api, type: PODS, clock, log: new Logger('test', 'error', () => undefined), random: () => 0 }
    this.reflector = new Reflector<KubernetesObject>(settings, {
      convert: (object) => object,
      onReplaced: (items) => {
        this.objects.clear()
        for (const item of items) this.objects.set(item.metadata.name, item)
        this.told(`replaced ${items.map(({ metadata }) => metadata.name).join(' ')}`)
      },
      onPut: (item) => {
        this.objects.set(item.metadata.name, item)
        this.told(`put ${item.metadata.name}`)
      },
      onDeleted: (item) => {
        this.objects.delete(item.metadata.name)
        this.told(`deleted ${item.metadata.name}`)
      },
      onState: (state) => {
        this.states.push(state)
        this.told('')
      },
    })
  }

  get names(): string {
    return [...this.objects.keys()].sort().join(' ')
  }

  /** Resolves when `test` holds, at once or after a call. */
  async until(test: () => boolean): Promise<void> {
    while (!test()) await new Promise<void>((resolve) => this.waiting.add(resolve))
  }

  async phase(phase: ReflectorPhase): Promise<void> {
    await this.until(() => this.reflector.state.phase === phase)
  }

  private told(call: string): void {
    if (call !== '') this.calls.push(call)
    for (const resolve of this.waiting) resolve()
    this.waiting.clear()
  }
}

beforeEach(async () => {
  server = await FakeApiServer.start()
  clock = new FakeClock()
  api = await KubernetesApi.open({ kubeconfig: server.kubeconfig }, systemClock, { clock, random: () => 0 })
  kept = new Kept()
})

afterEach(async () => {
  await kept.reflector.stop()
  api.close()
  await server.stop()
})

const isQuestion = ({ path }: SeenRequest): boolean => path === '/readyz'
const isWatch = ({ query }: SeenRequest): boolean => query.get('watch') !== null
const isList = (request: SeenRequest): boolean => !isWatch(request) && !isQuestion(request)

function put(...names: string[]): void {
  for (const name of names) server.put(PODS, { metadata: { name, namespace: 'shop' } } as never)
}

/** Starts with pods a and b, and waits until they are watched. */
async function startWithTwo(): Promise<void> {
  server.addType(PODS, 'Pod')
  put('a', 'b')
  kept.reflector.start()
  await server.seen(isWatch)
  await kept.phase('watching')
}

/** Waits for a pause of exactly this long, and moves the clock to its end. */
async function endPause(ms: number): Promise<void> {
  while (clock.nextDelayMs !== ms) await new Promise(setImmediate)
  clock.advance(ms)
}

test('lists, then follows every change', async () => {
  await startWithTwo()
  put('c', 'a')
  server.remove(PODS, 'shop', 'b')
  await kept.until(() => kept.calls.length === 4)
  assert.deepEqual(kept.calls, ['replaced a b', 'put c', 'put a', 'deleted b'])
  assert.deepEqual(kept.reflector.state, { phase: 'watching', isSynced: true, problem: '' })
})

test('nothing happens between the list and the watch: the watch begins where the list was', async () => {
  server.addType(PODS, 'Pod')
  put('a')
  server.answer = (request) => {
    if (isWatch(request)) put('b')
    return false
  }
  kept.reflector.start()
  await kept.until(() => kept.names === 'a b')
})

test('a list of many pages arrives as one replacement', async () => {
  server.addType(PODS, 'Pod')
  put(...Array.from({ length: 600 }, (_, i) => `p${i}`))
  kept.reflector.start()
  await kept.phase('watching')
  assert.equal(kept.calls.length, 1)
  assert.equal(kept.objects.size, 600)
})

for (const how of ['end', 'reset'] as const) {
  test(`a watch that the server or the network ends goes on where it was (${how})`, async () => {
    await startWithTwo()
    put('c')
    await kept.until(() => kept.names === 'a b c')
    const again = server.next(isWatch)
    server.endWatches(PODS, how)
    put('d')
    if (how === 'reset') await endPause(250)
    await again
    await kept.until(() => kept.names === 'a b c d')
    assert.equal(server.requests.filter(isList).length, 1)
    assert.equal(server.requests.at(-1)?.query.get('resourceVersion'), '103')
  })
}

test('a bookmark moves the place to go on from, without an object', async () => {
  await startWithTwo()
  server.bookmark(PODS)
  put('c')
  await kept.until(() => kept.names === 'a b c')
  server.remove(PODS, 'shop', 'c')
  server.bookmark(PODS)
  await kept.until(() => kept.names === 'a b')
  const again = server.next(isWatch)
  // The bookmark is the last thing in the stream before its end.
  server.endWatches(PODS, 'end')
  await again
  assert.equal(server.requests.at(-1)?.query.get('resourceVersion'), '106')
  assert.deepEqual(kept.calls, ['replaced a b', 'put c', 'deleted c'])
})

test('410 in the stream leads to one replacement by what there is now', async () => {
  await startWithTwo()
  const whole = new Promise<void>((resolve) => {
    server.answer = (request) => {
      // Both happen while nobody watches.
      if (isWatch(request)) {
        server.answer = null
        put('c')
        server.remove(PODS, 'shop', 'a')
        server.oldestVersion = 10_000
        resolve()
      }
      return false
    }
  })
  put('x')
  await kept.until(() => kept.names === 'a b x')
  server.endWatches(PODS, 'end')
  await whole
  server.oldestVersion = 0
  await kept.until(() => kept.calls.at(-1) === 'replaced b x c')
  assert.deepEqual(kept.calls, ['replaced a b', 'put x', 'replaced b x c'])
  assert.equal(
    kept.states.some(({ phase }) => phase === 'failing'),
    false,
  )
})

test('410 as the answer does the same', async () => {
  await startWithTwo()
  server.answer = (request, response) => {
    if (isList(request)) return false
    server.answer = null
    answerStatus(response, 410, 'Expired', 'too old resource version')
    return true
  }
  server.endWatches(PODS, 'end')
  await endPause(250)
  await kept.until(() => kept.calls.length === 2)
  assert.deepEqual(kept.calls, ['replaced a b', 'replaced a b'])
})

test('a server that is away leaves the last state, is asked for twice a second, and followed as soon as it is ready', async () => {
  await startWithTwo()
  await server.goAway()
  await kept.phase('failing')
  assert.match(kept.reflector.state.problem, /^pods cannot be kept up to date, the last state stays: /)
  await endPause(250)
  for (let i = 0; i < 100; i++) await endPause(500)
  assert.equal(kept.names, 'a b')
  while (clock.nextDelayMs !== 500) await new Promise(setImmediate)
  server.isReady = false
  const before = server.requests.length
  await server.listenAgain()
  put('c')
  for (let i = 0; i < 3; i++) await endPause(500)
  while (clock.nextDelayMs !== 500) await new Promise(setImmediate)
  assert.ok(server.requests.slice(before).every(isQuestion))
  server.isReady = true
  await endPause(500)
  await kept.phase('watching')
  await kept.until(() => kept.names === 'a b c')
  assert.deepEqual(kept.calls, ['replaced a b', 'put c'])
})

test('a server that is there, but not for this resource, is asked again more and more seldom', async () => {
  await startWithTwo()
  server.answer = (request, response) => {
    if (isQuestion(request)) return false
    response.destroy()
    return true
  }
  server.endWatches(PODS, 'reset')
  await endPause(250)
  for (const ms of [250, 500, 1_000, 2_000, 4_000, 7_500, 7_500]) {
    await endPause(ms)
    await endPause(250)
  }
  while (clock.nextDelayMs !== 7_500) await new Promise(setImmediate)
  assert.equal(server.requests.filter(isWatch).length, 9)
  server.answer = null
  await endPause(7_500)
  await endPause(250)
  await kept.phase('watching')
  // A watch that lasted was a good one: its end is a first failure again.
  clock.advance(10_000)
  const again = server.next(isWatch)
  server.endWatches(PODS, 'reset')
  await endPause(250)
  await again
})

test('a gateway that answers for a server that is away is no word of the server', async () => {
  await startWithTwo()
  server.answer = (_, response) => {
    response.writeHead(503, { 'content-type': 'text/html' }).end('<h1>no healthy upstream</h1>')
    return true
  }
  server.endWatches(PODS, 'end')
  await endPause(250)
  await kept.phase('failing')
  await endPause(250)
  for (let i = 0; i < 5; i++) await endPause(500)
  while (clock.nextDelayMs !== 500) await new Promise(setImmediate)
  server.answer = null
  await endPause(500)
  await kept.phase('watching')
  assert.deepEqual(kept.calls, ['replaced a b'])
})

test('a watch that falls silent is opened again', async () => {
  await startWithTwo()
  clock.advance(WATCH_SILENCE_MS - 1)
  server.bookmark(PODS)
  put('c')
  await kept.until(() => kept.names === 'a b c')
  clock.advance(WATCH_SILENCE_MS - 1)
  assert.equal(kept.reflector.state.phase, 'watching')
  const again = server.next(isWatch)
  clock.advance(1)
  await kept.phase('failing')
  await endPause(250)
  await again
  await kept.phase('watching')
})

test('a server that ends watches at once is not asked in a loop', async () => {
  await startWithTwo()
  server.answer = (request, response) => {
    if (isList(request)) return false
    response.end()
    return true
  }
  server.endWatches(PODS, 'end')
  await endPause(250)
  await endPause(500)
  assert.ok(server.requests.length <= 5)
})

test('a resource that is not served is waited for', async () => {
  kept.reflector.start()
  await kept.phase('missing')
  assert.match(kept.reflector.state.problem, /pods is not served by http:\S+ in version v1/)
  assert.equal(kept.reflector.state.isSynced, false)
  server.addType(PODS, 'Pod')
  put('a')
  await endPause(5_000)
  await kept.until(() => kept.names === 'a')
})

test('a missing permission is named, and the state stays', async () => {
  await startWithTwo()
  server.answer = (_, response) => {
    answerStatus(response, 403, 'Forbidden', 'pods is forbidden: User "system:serviceaccount:x" cannot watch')
    return true
  }
  server.endWatches(PODS, 'end')
  await endPause(250)
  await kept.phase('forbidden')
  assert.match(
    kept.reflector.state.problem,
    /User "system:serviceaccount:x" cannot watch.*Grant the verbs get, list and/,
  )
  assert.equal(kept.names, 'a b')
  for (const ms of [1_000, 2_000, 4_000, 8_000, 16_000, 22_500]) await endPause(ms)
  while (clock.nextDelayMs !== 22_500) await new Promise(setImmediate)
  server.answer = null
  server.remove(PODS, 'shop', 'a')
  await endPause(22_500)
  await kept.until(() => kept.names === 'b')
  assert.deepEqual(kept.calls, ['replaced a b', 'replaced b'])
})

test('errors in the stream are survived; after three without an event the list is read again', async () => {
  await startWithTwo()
  const refuse = (request: SeenRequest): boolean => {
    if (isWatch(request)) {
      setImmediate(() => {
        server.sendLine(
          PODS,
          JSON.stringify({ type: 'ERROR', object: { code: 504, reason: 'Timeout', message: 'rv' } }),
        )
        server.endWatches(PODS, 'end')
      })
    }
    return false
  }
  server.answer = refuse
  server.sendLine(PODS, 'no json at all')
  await kept.phase('failing')
  await endPause(250)
  await endPause(500)
  server.answer = (request) => {
    if (isWatch(request)) return refuse(request)
    server.answer = null
    return false
  }
  await endPause(1_000)
  await kept.until(() => kept.calls.length === 2)
  assert.deepEqual(kept.calls, ['replaced a b', 'replaced a b'])
})

test('an event without end is cut off', async () => {
  await startWithTwo()
  server.sendLine(PODS, `{"x":"${'y'.repeat(WATCH_LINE_BYTES_MAX)}"}`)
  await kept.phase('failing')
  assert.match(kept.reflector.state.problem, /larger than 8388608 bytes/)
  assert.equal(kept.names, 'a b')
})

test('events of an unknown type, and objects without a version, change nothing', async () => {
  await startWithTwo()
  server.sendLine(PODS, JSON.stringify({ type: 'LATER', object: { metadata: { name: 'x', resourceVersion: '104' } } }))
  server.sendLine(PODS, JSON.stringify({ type: 'ADDED', object: { metadata: { name: 'y' } } }))
  server.sendLine(PODS, JSON.stringify({ type: 'ADDED', object: null }))
  server.sendLine(PODS, '')
  put('c')
  await kept.until(() => kept.calls.length === 2)
  assert.deepEqual(kept.calls, ['replaced a b', 'put c'])
})

test('events are read whole wherever the stream is cut', async () => {
  server.addType(PODS, 'Pod')
  const event = (name: string): string =>
    `${JSON.stringify({ type: 'ADDED', object: { metadata: { name, resourceVersion: '104' } } })}\n`
  const bytes = Buffer.from(event('grün') + event('two'))
  for (let cut = 1; cut < bytes.length; cut++) {
    server.answer = (request, response) => {
      if (isList(request)) return false
      response.write(bytes.subarray(0, cut), () => setImmediate(() => response.write(bytes.subarray(cut))))
      return true
    }
    const one = new Kept()
    one.reflector.start()
    await one.until(() => one.calls.length === 3)
    assert.deepEqual(one.calls, ['replaced ', 'put grün', 'put two'])
    await one.reflector.stop()
  }
})

test('nothing is told after stop, and no timer stays', async () => {
  await startWithTwo()
  await kept.reflector.stop()
  put('c')
  await new Promise(setImmediate)
  assert.deepEqual(kept.calls, ['replaced a b'])
  assert.equal(clock.pending, 0)
})
