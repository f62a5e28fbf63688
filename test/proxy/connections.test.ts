import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  CONNECTIONS_PER_POD_MAX,
  type ConnectionDescription,
  Connections,
  NOT_LISTED,
} from '../../src/proxy/connections.ts'

class Live {
  readonly calls: string[] = []
  tableIndex: number = NOT_LISTED
  private readonly connections: Connections
  private readonly pod: string
  /** Ends inside the call, as a connection that a policy now denies does. */
  endsWhenAsked = false

  constructor(connections: Connections, pod: string) {
    this.connections = connections
    this.pod = pod
    connections.add(pod, this)
  }

  recheck(): void {
    this.note('recheck')
  }

  drain(): void {
    this.note('drain')
  }

  abort(): void {
    this.note('abort')
  }

  flushMetrics(): void {
    this.note('flush')
  }

  describe(): ConnectionDescription {
    return { pod: this.pod } as ConnectionDescription
  }

  private note(call: string): void {
    this.calls.push(call)
    if (this.endsWhenAsked) this.connections.remove(this.pod, this)
  }
}

test('open connections are counted by pod', () => {
  const connections = new Connections()
  const [first] = [new Live(connections, 'a'), new Live(connections, 'a'), new Live(connections, 'b')]
  assert.deepEqual([...connections.byPod], Object.entries({ a: 2, b: 1 }))
  connections.remove('a', first!)
  connections.remove('a', first!)
  assert.deepEqual([...connections.byPod], Object.entries({ a: 1, b: 1 }))
  assert.equal(connections.size, 2)
})

test('a pod that has none left is not counted', () => {
  const connections = new Connections()
  const live = new Live(connections, 'a')
  connections.remove('a', live)
  assert.equal(connections.byPod.size, 0)
})

test('one pod has a limit, others have their own', () => {
  const connections = new Connections()
  for (let i = 0; i < CONNECTIONS_PER_POD_MAX; i++) new Live(connections, 'a')
  assert.equal(connections.add('a', new Live(new Connections(), 'a')), false)
  assert.equal(connections.size, CONNECTIONS_PER_POD_MAX)
  assert.equal(connections.add('b', new Live(new Connections(), 'b')), true)
})

test('everybody is asked, also when connections end while they are asked', () => {
  const connections = new Connections()
  const all = ['a', 'a', 'b', 'b'].map((pod) => new Live(connections, pod))
  all[0]!.endsWhenAsked = true
  all[2]!.endsWhenAsked = true
  connections.recheckAll()
  for (const live of all) assert.deepEqual(live.calls, ['recheck'])
  assert.equal(connections.size, 2)
  connections.abortAll()
  assert.deepEqual(
    all.map(({ calls }) => calls.includes('abort')),
    [false, true, false, true],
  )
})

test('who leaves from the middle takes nobody else along', () => {
  const connections = new Connections()
  const all = ['a', 'b', 'c', 'd'].map((pod) => new Live(connections, pod))
  connections.remove('b', all[1]!)
  connections.remove('a', all[0]!)
  connections.remove('b', all[1]!)
  connections.drainPod('d')
  connections.recheckAll()
  assert.deepEqual(
    all.map(({ calls }) => calls),
    [[], [], ['recheck'], ['drain', 'recheck']],
  )
  assert.deepEqual([...connections.byPod], Object.entries({ c: 1, d: 1 }))
  connections.remove('c', all[2]!)
  connections.abortAll()
  assert.deepEqual(all[3]!.calls, ['drain', 'recheck', 'abort'])
  assert.equal(connections.size, 1)
})

test('the drain of a pod leaves those of others alone', () => {
  const connections = new Connections()
  const [a, b] = [new Live(connections, 'a'), new Live(connections, 'b')]
  connections.drainPod('a')
  assert.deepEqual([a.calls, b.calls], [['drain'], []])
})

test('the admin page gets as many as it asks for', () => {
  const connections = new Connections()
  for (const pod of ['a', 'b', 'c']) new Live(connections, pod)
  assert.deepEqual(
    connections.describe(2).map(({ pod }) => pod),
    ['a', 'b'],
  )
})
