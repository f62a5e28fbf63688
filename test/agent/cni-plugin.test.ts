/** The CNI plugin itself, as the program that runtimes run, with its memory watched by AddressSanitizer. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { CniNamespacesFile, meshNamespaces } from '../../src/agent/cni-namespaces.ts'
import { type CniRequest, CniRequestReader, encodeAnswer, REQUEST_BYTES_MAX } from '../../src/agent/cni-protocol.ts'
import { NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'
import { EMPTY_DELTA } from '../../src/model/delta.ts'
import {
  PEER_AUTHENTICATION_PREFIX,
  POLICY_SCOPE_GLOBAL,
  POLICY_SCOPE_NAMESPACE,
  type Policy,
} from '../../src/model/policy.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { FAILURE_BY_POLICY, FAILURE_CLOSED, FAILURE_OPEN } from '../../src/model/workload.ts'
import { type CniCall, callCni, resultOf } from '../support/cni-call.ts'
import { needsNativeBuild } from '../support/native-build.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const SANITIZED = join(NATIVE_BUILD_DIRECTORY, 'asan/weft-cni')
const POD = { K8S_POD_NAMESPACE: 'shop', K8S_POD_NAME: 'web', K8S_POD_UID: 'u1' }
const ADDRESSES = ['10.1.2.3', 'fd00::3']

let directory: string
let socket: string
let file: CniNamespacesFile
let server: Server | null
let requests: CniRequest[]
/** What the agent does with a request. */
let onRequest: (socket: Socket, request: CniRequest) => void

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'weft-cni-'))
  socket = join(directory, 'cni.sock')
  file = new CniNamespacesFile(directory)
  file.write(
    new Map([
      ['shop', false],
      ['bank', true],
    ]),
  )
  requests = []
  server = null
  onRequest = (connection) => connection.end(encodeAnswer(0, ''))
})

afterEach(() => {
  server?.close()
  rmSync(directory, { recursive: true })
})

async function listen(): Promise<void> {
  server = createServer((connection) => {
    const reader = new CniRequestReader()
    connection.on('error', () => {})
    connection.on('data', (piece) => {
      const request = reader.push(piece)
      if (request === null) return
      requests.push(request)
      onRequest(connection, request)
    })
  })
  await new Promise<void>((resolve) => server!.listen(socket, resolve))
}

const call = (options: Partial<CniCall> = {}): ReturnType<typeof callCni> => {
  return callCni({ args: POD, addresses: ADDRESSES, socket, namespaces: file.path, program: SANITIZED, ...options })
}

const errorOf = (stdout: string): { cniVersion: string; code: number; msg: string } => JSON.parse(stdout)

test(
  'ADD hands the agent what the runtime says, and what came before goes on byte for byte',
  needsNativeBuild,
  async () => {
    await listen()
    const previous = '{"cniVersion":"0.4.0", "ips" :[{"address":"10.1.2.3/24"}],"x":"\\u00e9\\/ \u2603","n":1.0e+2}'
    const config = `{"cniVersion":"0.4.0","name":"n","type":"weft-cni","socket":"${socket}","namespaces":"${file.path}","prevResult": ${previous} }`
    const { status, stdout, stderr } = await call({ config })
    assert.deepEqual([status, stdout, stderr], [0, previous, ''])
    const [request] = requests
    assert.ok(request !== undefined && request.pid > 1 && request.netnsFd > 2)
    const { pid: _, netnsFd: __, ...rest } = request
    assert.deepEqual(rest, {
      command: 'ADD',
      containerId: 'c0ffee',
      netns: '/proc/self/ns/net',
      podNamespace: 'shop',
      podName: 'web',
      podUid: 'u1',
      addresses: ['10.1.2.3'],
    })
  },
)

test('ADD fails with the code and the sentence of the agent', needsNativeBuild, async () => {
  await listen()
  onRequest = (connection) => connection.end(encodeAnswer(11, 'a "quoted" \\ reason \u2603'))
  const { status, stdout } = await call()
  assert.equal(status, 1)
  assert.deepEqual(errorOf(stdout), { cniVersion: '1.0.0', code: 11, msg: 'a "quoted" \\ reason ?' })
})

test('ADD of a pod that is none of Kubernetes asks nobody', needsNativeBuild, async () => {
  await listen()
  const { status, stdout } = await call({ args: {} })
  assert.deepEqual([status, JSON.parse(stdout)], [0, resultOf(ADDRESSES, '/proc/self/ns/net')])
  assert.equal(requests.length, 0)
})

test(
  'ADD of a namespace outside the mesh asks whose the pod is, and passes unless the agent expects it',
  needsNativeBuild,
  async () => {
    const strangers = ['sho', 'shopp'].map((name) => ({ ...POD, K8S_POD_NAMESPACE: name }))
    const commands = (): readonly string[] => requests.splice(0).map(({ command }) => command)
    const passed = [0, JSON.stringify(resultOf(ADDRESSES, '/proc/self/ns/net'))]
    const add = async (args: Readonly<Record<string, string>>): Promise<readonly unknown[]> => {
      const { status, stdout } = await call({ args })
      return [status, stdout]
    }
    // There was never an agent.
    assert.deepEqual(await add(strangers[0]!), passed)
    await listen()
    for (const args of strangers) assert.deepEqual(await add(args), passed)
    assert.deepEqual(commands(), ['ASK', 'ASK'])
    onRequest = (socket, { command }) => socket.end(encodeAnswer(command === 'ASK' ? 101 : 0, ''))
    assert.deepEqual(await add(strangers[0]!), passed)
    assert.deepEqual(commands(), ['ASK', 'ADD'])
    // The agent that expected the pod is gone before it has captured it: what it said of the pod counts.
    onRequest = (socket, { command }) => {
      if (command === 'ASK') socket.end(encodeAnswer(102, ''))
      else socket.destroy()
    }
    const { status, stdout } = await call({ args: strangers[0]! })
    assert.equal(status, 1)
    assert.match(errorOf(stdout).msg, /does not run, and pods of namespace sho must not start without it/)
    assert.deepEqual(commands().slice(0, 2), ['ASK', 'ADD'])
    onRequest = (socket) => socket.end(encodeAnswer(11, 'not now'))
    assert.equal(errorOf((await call({ args: strangers[1]! })).stdout).msg, 'not now')
  },
)

test('without an agent a pod starts or not as its namespace says', needsNativeBuild, async () => {
  const [open, closed] = await Promise.all([call(), call({ args: { ...POD, K8S_POD_NAMESPACE: 'bank' } })])
  assert.deepEqual([open.status, JSON.parse(open.stdout)], [0, resultOf(ADDRESSES, '/proc/self/ns/net')])
  assert.match(open.stderr, /the pod starts unmeshed, as namespace shop allows/)
  assert.equal(closed.status, 1)
  assert.match(errorOf(closed.stdout).msg, /does not run, and pods of namespace bank must not start without it/)
})

test('an agent that ends before it answers is asked again, and the next one answers', needsNativeBuild, async () => {
  await listen()
  onRequest = (connection) => {
    onRequest = (again) => again.end(encodeAnswer(0, ''))
    connection.destroy()
  }
  assert.equal((await call({ args: { ...POD, K8S_POD_NAMESPACE: 'bank' } })).status, 0)
  assert.equal(requests.length, 2)
})

test('an agent that comes while ADD waits answers it', needsNativeBuild, async () => {
  const added = call({ args: { ...POD, K8S_POD_NAMESPACE: 'bank' } })
  await new Promise((resolve) => setTimeout(resolve, 200))
  await listen()
  assert.equal((await added).status, 0)
  assert.equal(requests.length, 1)
})

test('an answer that is none is no answer', needsNativeBuild, async () => {
  await listen()
  const long = Buffer.concat([Buffer.from('WEFTCNI1'), Buffer.from([0, 0, 0, 0, 255, 255, 255, 255])])
  for (const bytes of [Buffer.from('WEFTCNI2\0\0\0\0\0\0\0\0'), long, Buffer.from('WEFT'), Buffer.alloc(0)]) {
    onRequest = (connection) => connection.end(bytes)
    const { status, stdout } = await call({ args: { ...POD, K8S_POD_NAMESPACE: 'bank' } })
    assert.equal(status, 1)
    assert.match(errorOf(stdout).msg, /does not run/)
  }
})

test(
  'DEL tells the agent and never fails; CHECK fails as the agent says, and not without one',
  needsNativeBuild,
  async () => {
    for (const command of ['DEL', 'CHECK', 'GC', 'STATUS']) {
      const { status, stdout } = await call({ command })
      assert.deepEqual([command, status, stdout], [command, 0, ''])
    }
    await listen()
    onRequest = (connection) => connection.end(encodeAnswer(100, 'not captured'))
    assert.equal((await call({ command: 'DEL', netns: '' })).status, 0)
    const checked = await call({ command: 'CHECK' })
    assert.deepEqual([checked.status, errorOf(checked.stdout).code], [1, 100])
    assert.deepEqual(
      requests.map(({ command, netns, netnsFd }) => [command, netns, netnsFd > 0]),
      [
        ['DEL', '', false],
        ['CHECK', '/proc/self/ns/net', true],
      ],
    )
  },
)

test('VERSION answers in the version that was asked', needsNativeBuild, async () => {
  const { status, stdout } = await call({ command: 'VERSION', config: '{"cniVersion":"0.3.1"}' })
  assert.equal(status, 0)
  assert.deepEqual(JSON.parse(stdout), {
    cniVersion: '0.3.1',
    supportedVersions: ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'],
  })
})

// biome-ignore format: a table
const REFUSED: readonly [string, Partial<CniCall>, number, RegExp][] = [
  ['an unknown version', { config: '{"cniVersion":"2.0.0"}' }, 1, /speaks the versions/],
  ['no version', { config: '{}' }, 6, /cniVersion is missing/],
  ['no JSON', { config: '{"cniVersion":"1.0.0"' }, 6, /not one well-formed JSON object/],
  ['nothing', { config: '' }, 6, /not one well-formed/],
  ['an unknown command', { command: 'add' }, 4, /CNI_COMMAND is none of/],
  ['no container', { environment: { CNI_CONTAINERID: '' } }, 4, /CNI_CONTAINERID is not set/],
  ['no netns', { environment: { CNI_NETNS: '' } }, 4, /CNI_NETNS is not set/],
  ['a variable of any length', { environment: { CNI_ARGS: 'x'.repeat(4097) } }, 4, /CNI_ARGS is longer than 4096/],
  ['a configuration of any length', { config: `{"cniVersion":"1.0.0","x":"${'x'.repeat(1_048_576)}"}` }, 6, /more than 1 MiB/],
  ['a chain that begins with it', { config: '{"cniVersion":"1.0.0","socket":"/a","namespaces":"/b"}' }, 7, /there is no prevResult/],
  ['a result that is none', { config: '{"cniVersion":"1.0.0","socket":"/a","namespaces":"/b","prevResult":7}' }, 7, /there is no prevResult/],
  ['no socket', { config: '{"cniVersion":"1.0.0","namespaces":"/b","prevResult":{}}' }, 7, /"socket" of weft-cni/],
  ['a relative path', { config: '{"cniVersion":"1.0.0","socket":"/a","namespaces":"b","prevResult":{}}' }, 7, /"namespaces" of weft-cni/],
  ['a member that comes twice', { config: '{"cniVersion":"1.0.0","cniVersion":"1.0.0"}' }, 6, /well-formed/],
]
for (const [what, options, code, message] of REFUSED) {
  test(`refused with a code of the specification: ${what}`, needsNativeBuild, async () => {
    const { status, stdout } = await call(options)
    assert.equal(status, 1)
    const error = errorOf(stdout)
    assert.equal(error.code, code)
    assert.match(error.msg, message)
  })
}

test(
  'a file of namespaces that is damaged keeps every pod from starting unmeshed, one that is absent none',
  needsNativeBuild,
  async () => {
    const good = readFileSync(file.path, 'utf8')
    const damaged = [
      good.slice(0, -1),
      good.slice(0, -5),
      good.replace('1', '2'),
      '',
      `${good}x`,
      good.replace('open', 'opened'),
    ]
    await Promise.all(
      damaged.map(async (text, i) => {
        const path = join(directory, `damaged-${i}`)
        writeFileSync(path, text)
        assert.equal((await call({ namespaces: path })).status, 1, JSON.stringify(text))
      }),
    )
    assert.equal((await call({ namespaces: join(directory, 'absent') })).status, 0)
  },
)

test(
  'the scanner accepts what JSON.parse accepts, an object with plain names, and finds what it is asked for',
  needsNativeBuild,
  () => {
    const random = new SeededRandom(7)
    const texts: string[] = []
    const seeds = [
      '{"prevResult":{"a":[1,2.5e-3,{"b":null}],"c":"\\u12aF\\n"},"x":true}',
      ' { "a" : [ ] , "prevResult" : "s" , "b" : { } } \n',
      '{"prevResult":-0,"t":[true,false,null,[[[]]],"\u2603\u{1f600}"]}',
      '{}',
      '{"prevResult":"prevResult","a":{"prevResult":1}}',
    ]
    const pieces = [
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      '"',
      '\\',
      '0',
      '1',
      '-',
      '.',
      'e',
      ' ',
      'null',
      '"prevResult":',
      '\\u00',
      '\u0007',
      '\u00e9',
      'tru',
    ]
    for (const seed of seeds) {
      texts.push(seed)
      for (let cut = 0; cut < seed.length; cut++) texts.push(seed.slice(0, cut))
      for (let i = 0; i < 4000; i++) {
        let text = seed
        for (let edits = random.integer(1, 3); edits > 0; edits--) {
          const at = random.integer(0, text.length)
          const isCut = random.boolean()
          text = text.slice(0, at) + (isCut ? '' : random.pick(pieces)) + text.slice(at + random.integer(0, 2))
        }
        texts.push(text)
      }
    }
    texts.push(`{"a":${'['.repeat(62)}${']'.repeat(62)}}`)
    const answers = scan(texts.map((text) => Buffer.from(text)))
    let accepted = 0
    for (const [i, text] of texts.entries()) {
      const bytes = Buffer.from(text)
      const answer = answers[i]!
      const expected = soughtIn(bytes)
      if (expected === undefined) {
        assert.equal(answer, 'refused', JSON.stringify(text))
        continue
      }
      accepted++
      const [at = 0, length = 0] = answer.split(' ').map(Number)
      assert.notEqual(answer, 'refused', JSON.stringify(text))
      if (expected === null) assert.equal(length, 0)
      else assert.deepEqual(JSON.parse(bytes.toString('utf8', at, at + length)), expected.value, JSON.stringify(text))
    }
    assert.ok(accepted > 500, `${accepted} were accepted`)
  },
)

test('the scanner refuses bytes that are no UTF-8, and depth without an end', needsNativeBuild, () => {
  const bad = ['c080', 'e08080', 'eda080', 'f0808080', 'f4908080', 'f8', '80', 'c3', 'e298', 'ff']
  const texts = bad.map((hex) => Buffer.concat([Buffer.from('{"a":"'), Buffer.from(hex, 'hex'), Buffer.from('"}')]))
  texts.push(Buffer.from(`{"a":${'['.repeat(100_000)}`), Buffer.from(`{"a":${'['.repeat(64)}${']'.repeat(64)}}`))
  assert.deepEqual(
    scan(texts),
    texts.map(() => 'refused'),
  )
})

/** What is to be found: undefined when the text must be refused, null when the member is not there. */
function soughtIn(bytes: Buffer): { readonly value: unknown } | null | undefined {
  let parsed: unknown
  try {
    parsed = JSON.parse(bytes.toString('utf8'))
  } catch {
    return undefined
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed)) return undefined
  const names: string[] = []
  // The names of the outermost object as they are written.
  let depth = 0
  let at = 0
  const text = bytes.toString('utf8')
  while (at < text.length) {
    const c = text[at]!
    if (c === '"') {
      const end = /"(?:[^"\\]|\\.)*"/y
      end.lastIndex = at
      const string = end.exec(text)![0]
      if (depth === 1 && /^\s*:/.test(text.slice(at + string.length))) names.push(string)
      at += string.length
      continue
    }
    if (c === '{' || c === '[') depth++
    if (c === '}' || c === ']') depth--
    at++
  }
  if (names.some((name) => name.includes('\\'))) return undefined
  const count = names.filter((name) => name === '"prevResult"').length
  if (count > 1) return undefined
  return count === 0 ? null : { value: (parsed as { prevResult: unknown }).prevResult }
}

function scan(texts: readonly Buffer[]): readonly string[] {
  const input = texts.flatMap((text) => {
    const head = Buffer.alloc(4)
    head.writeUInt32LE(text.length)
    return [head, text]
  })
  const program = join(NATIVE_BUILD_DIRECTORY, 'asan/scan-json')
  const { status, stdout, stderr } = spawnSync(program, { input: Buffer.concat(input), maxBuffer: 1 << 26 })
  assert.equal(status, 0, String(stderr))
  return String(stdout).trimEnd().split('\n')
}

// --- the agent's end ---

test('a request is read in any pieces, and nothing else is', needsNativeBuild, async () => {
  await listen()
  const whole = await recorded()
  const reader = new CniRequestReader()
  for (const byte of whole.subarray(0, -1)) assert.equal(reader.push(Buffer.from([byte])), null)
  assert.equal(reader.push(whole.subarray(-1))!.podName, 'web')
  assert.throws(() => new CniRequestReader().push(Buffer.concat([whole, Buffer.from('x')])), /bytes behind its end/)
  assert.throws(() => new CniRequestReader().push(Buffer.from('GET / HTTP/1.1\r\n')), /does not begin/)
  const large = Buffer.from(whole)
  large.writeUInt32LE(REQUEST_BYTES_MAX + 1, 8)
  assert.throws(() => new CniRequestReader().push(large), /more than/)
  const random = new SeededRandom(3)
  for (let i = 0; i < 5000; i++) {
    const bytes = Buffer.from(whole)
    for (let edits = random.integer(1, 4); edits > 0; edits--)
      bytes[random.integer(0, bytes.length - 1)] = random.integer(0, 255)
    try {
      new CniRequestReader().push(bytes)
    } catch (error) {
      assert.match(String((error as { code?: string }).code), /^WEFT_(PROTOCOL|LIMIT)$/)
    }
  }
})

/** The bytes of a request. */
async function recorded(): Promise<Buffer> {
  const path = join(directory, 'recorded.sock')
  const pieces: Buffer[] = []
  const recorder = createServer((connection) => {
    const reader = new CniRequestReader()
    connection.on('data', (piece) => {
      pieces.push(piece)
      if (reader.push(piece) !== null) connection.end(encodeAnswer(0, ''))
    })
  })
  await new Promise<void>((resolve) => recorder.listen(path, resolve))
  await call({ socket: path })
  recorder.close()
  return Buffer.concat(pieces)
}

test('namespaces are closed as they say, or as policy says for any of their pods', needsNativeBuild, () => {
  const policy = (namespace: string, scope: Policy['scope']): Policy => {
    const name = `${PEER_AUTHENTICATION_PREFIX}${namespace}`
    return { key: `${namespace}/${name}`, name, namespace, scope } as unknown as Policy
  }
  const namespaces = [
    { name: 'open', failureMode: FAILURE_OPEN },
    { name: 'closed', failureMode: FAILURE_CLOSED },
    { name: 'strict', failureMode: FAILURE_BY_POLICY },
    { name: 'plain', failureMode: FAILURE_BY_POLICY },
  ] as const
  const strict = [policy('strict', POLICY_SCOPE_NAMESPACE), policy('open', POLICY_SCOPE_NAMESPACE)]
  const some = Snapshot.empty.apply({ ...EMPTY_DELTA, namespaces, policies: strict })
  const closed = (snapshot: Snapshot): string[] => {
    return [...meshNamespaces(snapshot)].filter(([, isClosed]) => isClosed).map(([name]) => name)
  }
  assert.deepEqual(closed(some), ['closed', 'strict'])
  const all = some.apply({ ...EMPTY_DELTA, policies: [policy('root', POLICY_SCOPE_GLOBAL)] })
  assert.deepEqual(closed(all), ['closed', 'strict', 'plain'])
  file.write(meshNamespaces(all))
  assert.deepEqual(new CniNamespacesFile(directory).read(), meshNamespaces(all))
  writeFileSync(file.path, 'weft-cni 1\nopen open\n')
  assert.equal(new CniNamespacesFile(directory).read().size, 0)
})
