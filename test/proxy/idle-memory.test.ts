/**
 * What an idle connection costs, in a program that holds hundreds of them: its objects on the JavaScript heap, and all
 * memory of the process. The limits are half as much again as what was measured, so that doubling breaks them.
 */
import assert from 'node:assert/strict'
import { type ChildProcess, fork } from 'node:child_process'
import { once } from 'node:events'
import { createServer, connect as dial, type Socket } from 'node:net'
import { after, before, describe, test } from 'node:test'
import { TestAuthority } from '../support/certificates.ts'
import type { IdlePlan, IdleQuestion, IdleReport } from '../support/idle-program.ts'
import { reactorKind } from '../support/transports.ts'

const COUNT = 400
/** Opened before the first look, so that what exists once is there. */
const WARM_UP = 100

const authority = new TestAuthority()

class Program {
  readonly plan: IdlePlan
  readonly child: ChildProcess

  constructor(plan: IdlePlan) {
    this.plan = plan
    this.child = fork(new URL('../support/idle-program.ts', import.meta.url), [JSON.stringify(plan)], {
      // A young space that does not grow, or its growth would be counted.
      execArgv: ['--expose-gc', '--max-semi-space-size=1'],
    })
  }

  async answer(): Promise<IdleReport> {
    const [report] = (await once(this.child, 'message')) as [IdleReport]
    return report
  }

  ask(question: IdleQuestion = {}): Promise<IdleReport> {
    const answer = this.answer()
    this.child.send(question)
    return answer
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as { port: number }
  server.close()
  return port
}

async function start(name: string, address: string): Promise<Program> {
  const material = authority.leaf('shop', name)
  const program = new Program({ material, address, requestPort: await freePort(), tunnelPort: await freePort() })
  await program.answer()
  return program
}

/** Bytes per connection that were added between two looks. */
function growth(from: IdleReport, to: IdleReport): IdleReport {
  return {
    heapBytes: (to.heapBytes - from.heapBytes) / COUNT,
    residentBytes: (to.residentBytes - from.residentBytes) / COUNT,
  }
}

function assertBelow(name: string, actual: IdleReport, limit: IdleReport): void {
  const text = `${name}: ${Math.round(actual.heapBytes)} bytes on the heap, ${Math.round(actual.residentBytes)} resident`
  if (process.env['WEFT_TEST_VERBOSE'] !== undefined) console.log(text)
  // Not a connection that was counted would show as nothing.
  assert.ok(actual.heapBytes > limit.heapBytes / 4, text)
  assert.ok(actual.heapBytes < limit.heapBytes, text)
  assert.ok(actual.residentBytes < limit.residentBytes, text)
}

describe('an idle connection', { timeout: 60_000, skip: reactorKind.skip }, () => {
  let server: Program
  let client: Program
  const sockets: Socket[] = []

  before(async () => {
    ;[server, client] = await Promise.all([start('server', '127.0.0.1'), start('client', '127.0.0.1')])
  })
  after(() => {
    for (const socket of sockets) socket.destroy()
    server.child.disconnect()
    client.child.disconnect()
  })

  test('that is plain costs little once its request is answered', async () => {
    await openPlain(WARM_UP)
    const from = await server.ask()
    await openPlain(COUNT)
    assertBelow('plain', growth(from, await server.ask()), { heapBytes: 3_400, residentBytes: 6_000 })
  })

  test('with mutual TLS costs what OpenSSL needs, and little of ours, at both ends', async () => {
    const { identity } = server.plan.material
    const dialled = (count: number): IdleQuestion => {
      return { dial: { address: '127.0.0.1', port: server.plan.tunnelPort, identity, count } }
    }
    await client.ask(dialled(WARM_UP))
    const serverFrom = await server.ask()
    const clientFrom = await client.ask()
    const clientTo = await client.ask(dialled(COUNT))
    const serverTo = await server.ask()
    assertBelow('accepted', growth(serverFrom, serverTo), { heapBytes: 4_400, residentBytes: 45_000 })
    assertBelow('dialled', growth(clientFrom, clientTo), { heapBytes: 4_400, residentBytes: 45_000 })
  })

  async function openPlain(count: number): Promise<void> {
    for (let index = 0; index < count; index++) {
      const socket = dial(server.plan.requestPort, '127.0.0.1')
      sockets.push(socket)
      socket.write('GET / HTTP/1.1\r\nhost: reviews\r\n\r\n')
      const [answer] = (await once(socket, 'data')) as [Buffer]
      assert.match(answer.toString(), /^HTTP\/1.1 200 /)
    }
  }
})
