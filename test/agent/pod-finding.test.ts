import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { PodFinding } from '../../src/agent/pod-finding.ts'
import { parseAddress } from '../../src/base/address.ts'
import type { NetnsInterface } from '../../src/kernel/addon.ts'

const UID = '0f0e1d2c-3b4a-5968-7786-95a4b3c2d1e0'
const OTHER = '11111111-2222-3333-4444-555555555555'
const NODE_COOKIE = 1n

/** A /proc of files: a netns is a file that holds its number, and addresses by number. */
let proc: string
let addresses: Map<string, readonly string[]>
let finding: PodFinding
/** Called when a netns is opened. */
let onOpen: (path: string) => void

beforeEach(() => {
  proc = mkdtempSync(join(tmpdir(), 'weft-proc-'))
  addresses = new Map()
  onOpen = () => {}
  finding = new PodFinding(
    {
      openNetns: (path) => {
        onOpen(path)
        return openSync(path, 'r')
      },
      netnsCookie: (fd) => BigInt(readFileSync(`/proc/self/fd/${fd}`, 'utf8')),
      netnsInterfaces: (fd) => {
        const texts = addresses.get(readFileSync(`/proc/self/fd/${fd}`, 'utf8')) ?? []
        return texts.map((text): NetnsInterface => {
          return { name: 'eth0', index: 2, isUp: true, address: parseAddress(text)! }
        })
      },
    },
    NODE_COOKIE,
    proc,
  )
})

afterEach(() => rmSync(proc, { recursive: true }))

function run(pid: number, uid: string, netns: bigint, startedAt = pid): void {
  mkdirSync(`${proc}/${pid}/ns`, { recursive: true })
  writeFileSync(`${proc}/${pid}/cgroup`, `0::/kubepods/pod${uid}/container\n`)
  const fields = Array.from({ length: 30 }, (_, i) => (i === 18 ? String(startedAt) : '7'))
  writeFileSync(`${proc}/${pid}/stat`, `${pid} (a name) 9 (b)) S ${fields.join(' ')}`)
  writeFileSync(`${proc}/netns-${netns}`, String(netns))
  rmSync(`${proc}/${pid}/ns/net`, { force: true })
  symlinkSync(`${proc}/netns-${netns}`, `${proc}/${pid}/ns/net`)
}

test('a pod is found by the cgroup of its process and an address in its netns', async () => {
  run(10, OTHER, 7n)
  run(20, UID, 8n)
  addresses.set('8', ['127.0.0.1', '10.1.2.3', 'fd00::3'])
  assert.deepEqual(await finding.find(UID, ['10.1.2.3', 'fd00::3']), {
    kind: 'found',
    netns: `${proc}/20/ns/net`,
    addresses: ['10.1.2.3', 'fd00::3'],
  })
})

test('a netns that a container has made for itself is not taken for its pod', async () => {
  run(20, UID, 9n)
  run(21, UID, 8n)
  addresses.set('9', ['172.17.0.1'])
  addresses.set('8', ['10.1.2.3'])
  const search = await finding.find(UID, ['10.1.2.3'])
  assert.equal(search.kind === 'found' && search.netns, `${proc}/21/ns/net`)
})

test('the oldest process counts where pids have begun anew', async () => {
  run(20, UID, 9n, 500)
  run(21, UID, 8n, 400)
  addresses.set('9', ['10.1.2.3'])
  addresses.set('8', ['10.1.2.3'])
  const search = await finding.find(UID, ['10.1.2.3'])
  assert.equal(search.kind === 'found' && search.netns, `${proc}/21/ns/net`)
})

test('a pod in the network of its node is known as such, also beside a process of its runtime', async () => {
  run(20, UID, NODE_COOKIE)
  addresses.set('1', ['10.1.2.3'])
  assert.deepEqual(await finding.find(UID, ['10.1.2.3']), { kind: 'host-network' })
  run(21, UID, 8n)
  addresses.set('8', ['10.1.2.3'])
  assert.equal((await finding.find(UID, ['10.1.2.3'])).kind, 'found')
})

test('a pod that does not run here is absent, with a reason', async () => {
  run(10, OTHER, 7n)
  assert.deepEqual(await finding.find(UID, ['10.1.2.3']), {
    kind: 'absent',
    reason: 'none of its processes runs on this node',
  })
  run(20, UID, 8n)
  addresses.set('8', ['10.9.9.9'])
  assert.deepEqual(await finding.find(UID, ['10.1.2.3']), {
    kind: 'absent',
    reason: 'the network of its process 20 has none of its addresses (10.1.2.3)',
  })
})

test('a process that ends while it is looked at is left out', async () => {
  run(20, UID, 8n)
  run(21, UID, 9n)
  addresses.set('9', ['10.1.2.3'])
  onOpen = (path) => {
    if (path.includes('/20/')) rmSync(`${proc}/20`, { recursive: true })
  }
  const search = await finding.find(UID, ['10.1.2.3'])
  assert.equal(search.kind === 'found' && search.netns, `${proc}/21/ns/net`)
})

test('a pid that has become another pod between two looks is not taken', async () => {
  run(20, UID, 8n)
  addresses.set('8', ['10.1.2.3'])
  onOpen = () => writeFileSync(`${proc}/20/cgroup`, `0::/kubepods/pod${OTHER}/container\n`)
  assert.equal((await finding.find(UID, ['10.1.2.3'])).kind, 'absent')
})

test('a netns that may not be opened is told as the reason', async () => {
  run(20, UID, 8n)
  onOpen = () => {
    throw Object.assign(new Error('open: EACCES'), { code: 'EACCES' })
  }
  assert.deepEqual(await finding.find(UID, ['10.1.2.3']), { kind: 'absent', reason: 'open: EACCES' })
})

test('who asks while a look is under way is answered by the next one, together with all others', async () => {
  run(20, UID, 8n)
  addresses.set('8', ['10.1.2.3'])
  addresses.set('9', ['10.1.2.4'])
  const first = finding.find(UID, ['10.1.2.3'])
  // The first look begins at once, and this pod may come too late for it.
  await new Promise(setImmediate)
  run(30, OTHER, 9n)
  const later = await Promise.all([finding.find(OTHER, ['10.1.2.4']), finding.find(UID, ['10.1.2.3'])])
  assert.deepEqual(
    later.map(({ kind }) => kind),
    ['found', 'found'],
  )
  assert.equal((await first).kind, 'found')
})

test('a /proc that cannot be read is no failure of the agent', async () => {
  const nowhere = new PodFinding(
    {
      openNetns: () => assert.fail('nothing to open'),
      netnsCookie: () => 0n,
      netnsInterfaces: () => [],
    },
    NODE_COOKIE,
    join(proc, 'nowhere'),
  )
  const search = await nowhere.find(UID, [])
  assert.match(search.kind === 'absent' ? search.reason : '', /nowhere cannot be read/)
})
