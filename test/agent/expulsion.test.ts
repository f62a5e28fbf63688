import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Carrier } from '../../src/agent/capture.ts'
import { Expulsion } from '../../src/agent/expulsion.ts'
import { FAMILY_IPV4 } from '../../src/base/address.ts'
import { Logger } from '../../src/base/log.ts'
import type { CarriedPeer } from '../../src/kernel/carried-peers.ts'
import { type Delta, EMPTY_DELTA } from '../../src/model/delta.ts'
import { ACTION_DENY, EMPTY_POLICY_MATCH, POLICY_SCOPE_NAMESPACE, type Policy } from '../../src/model/policy.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { FAILURE_OPEN, type LocalPod } from '../../src/model/workload.ts'
import { workloadOf } from '../support/proxy-objects.ts'

const WORKLOADS = ['client', 'other', 'server'].map((name, index) =>
  workloadOf(name, { serviceAccount: name, addresses: [`198.18.0.${index + 1}`, `198.18.1.${index + 1}`] }),
)
const SERVER = WORKLOADS[2]!
/** Numbers from 1. */
const PODS = new Map(WORKLOADS.map(({ uid }, index) => [uid, index + 1]))

function peer(sourcePod: number, destinationPod: number, fields: Partial<CarriedPeer> = {}): CarriedPeer {
  return {
    sourcePod,
    destinationPod,
    sourceAddress: `198.18.0.${sourcePod}`,
    destinationAddress: `198.18.0.${destinationPod}`,
    destinationPort: 5432,
    family: FAMILY_IPV4,
    id: new Uint8Array(48),
    ...fields,
  }
}

/** Holds for every pod of the namespace. */
function deny(match: Partial<typeof EMPTY_POLICY_MATCH>): Policy {
  return {
    key: `${SERVER.namespace}/no`,
    name: 'no',
    namespace: SERVER.namespace,
    scope: POLICY_SCOPE_NAMESPACE,
    action: ACTION_DENY,
    isDryRun: false,
    rules: [{ clauses: [{ matches: [{ ...EMPTY_POLICY_MATCH, ...match }] }] }],
  }
}

/** Which of these connections one run breaks off, and what it logs. */
function run(peers: readonly CarriedPeer[], delta: Partial<Delta>, pods = PODS, failure: Error | null = null) {
  const broken: CarriedPeer[] = []
  const lines: string[] = []
  const carrier = {
    peersOf: (number: number) => peers.filter(({ sourcePod }) => sourcePod === number),
    breakOff: (_number: number, one: CarriedPeer) => {
      if (failure !== null) throw failure
      broken.push(one)
      return true
    },
  } as unknown as Carrier
  const snapshot = Snapshot.empty.apply({ ...EMPTY_DELTA, workloads: WORKLOADS, ...delta })
  const log = new Logger('carriage', 'info', (line) => lines.push(line))
  new Expulsion(carrier, log).run(snapshot, pods)
  return { broken, lines }
}

const NOT_CLIENT = deny({ principals: [{ kind: 'suffix', value: '/sa/client' }] })

test('exactly the connections that policy denies are broken off, and the log names the policy', () => {
  const peers = [peer(1, 3), peer(2, 3), peer(1, 2)]
  const { broken, lines } = run(peers, { policies: [NOT_CLIENT] })
  assert.deepEqual(broken, [peers[0], peers[2]])
  assert.equal(lines.length, 2)
  assert.match(lines[0]!, /a policy now denies it.*\/no/)
})

test('a connection is judged by its own port and its own addresses', () => {
  const peers = [peer(1, 3), peer(1, 3, { destinationPort: 80 }), peer(1, 3, { sourceAddress: '198.18.1.1' })]
  assert.deepEqual(run(peers, { policies: [deny({ destinationPorts: [80] })] }).broken, [peers[1]])
  assert.deepEqual(run(peers, { policies: [deny({ sourceIps: ['198.18.1.0/24'] })] }).broken, [peers[2]])
  assert.deepEqual(run(peers, {}).broken, [])
})

test('connections to pods whose connections are to be encrypted are broken off, and no others', () => {
  const peers = [peer(1, 3), peer(3, 1), peer(1, 2)]
  const pods = WORKLOADS.map(({ uid }) => {
    const pod: LocalPod = { uid, netns: '', scope: '', failureMode: FAILURE_OPEN }
    return uid === SERVER.uid ? { ...pod, mustEncrypt: true } : pod
  })
  const { broken, lines } = run(peers, { pods })
  assert.deepEqual(broken, [peers[0]])
  assert.match(lines[0]!, /connection closed: connections to its destination are encrypted from now on/)
  assert.doesNotMatch(lines[0]!, /policy/)
})

test('connections to pods that are not captured any more live on', () => {
  const left = new Map([...PODS].filter(([uid]) => uid !== SERVER.uid))
  assert.deepEqual(run([peer(1, 3)], { policies: [NOT_CLIENT] }, left).broken, [])
})

test('a kernel that cannot break connections off is named once, and the connections stay', () => {
  const failure = Object.assign(new Error('netlink: EOPNOTSUPP'), { code: 'EOPNOTSUPP', errno: 95, syscall: 'netlink' })
  const { broken, lines } = run([peer(1, 3), peer(1, 3)], { policies: [NOT_CLIENT] }, PODS, failure)
  assert.deepEqual(broken, [])
  assert.equal(lines.length, 1)
  assert.match(lines[0]!, /"level":"error".*CONFIG_INET_DIAG_DESTROY/)
})
