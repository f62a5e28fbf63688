import assert from 'node:assert/strict'
import { afterEach, beforeEach, mock, test } from 'node:test'
import type { PodSearch } from '../../src/agent/pod-finding.ts'
import { Pods } from '../../src/agent/pods.ts'
import { WeftError } from '../../src/base/errors.ts'
import { Logger } from '../../src/base/log.ts'
import { type Delta, EMPTY_DELTA } from '../../src/model/delta.ts'
import { PEER_AUTHENTICATION_PREFIX, POLICY_SCOPE_NAMESPACE, type Policy } from '../../src/model/policy.ts'
import { Snapshot } from '../../src/model/snapshot.ts'
import { FAILURE_BY_POLICY, FAILURE_CLOSED, FAILURE_OPEN, type LocalPod } from '../../src/model/workload.ts'
import { type CaptureLog, FakeCapture } from '../support/fake-capture.ts'
import { SERVICE, workloadOf } from '../support/proxy-objects.ts'

const A = workloadOf('a')
const IDENTITY = 'spiffe://cluster.local/ns/shop/sa/reviews'
/** Longer than any delay between two attempts. */
const LONG_MS = 60_000

const POD_A: LocalPod = { uid: A.uid, netns: '/var/run/netns/a', scope: 'shop', failureMode: FAILURE_BY_POLICY }
const STRICT: Policy = {
  key: `shop/${PEER_AUTHENTICATION_PREFIX}default`,
  name: `${PEER_AUTHENTICATION_PREFIX}default`,
  namespace: 'shop',
  scope: POLICY_SCOPE_NAMESPACE,
} as unknown as Policy

let log: CaptureLog
let capture: FakeCapture
/** What the pods have logged. */
let lines: Record<string, unknown>[]
let identities: ReadonlySet<string>
let isCredentialThere: boolean
let areWorkersWilling: boolean
let isOnKubernetes: boolean
let pods: Pods
/** What is found of pods that no annotation tells of, by name, and how often one was looked for. */
let searches: Map<string, PodSearch>
let looks: number
/** Certificates that are never there. */
let missing: Set<string>
let snapshot: Snapshot

beforeEach(() => {
  mock.timers.enable({ apis: ['setTimeout'] })
  isOnKubernetes = false
  begin('ebpf')
})

afterEach(() => mock.timers.reset())

function begin(kind: 'ebpf' | 'loopback'): void {
  log = []
  lines = []
  capture = new FakeCapture(log, kind)
  isCredentialThere = true
  searches = new Map()
  looks = 0
  missing = new Set()
  areWorkersWilling = true
  snapshot = Snapshot.empty
  pods = new Pods({
    capture,
    workers: {
      count: 2,
      addPod: async (pod) => {
        log.push(`add ${pod.uid}`)
        if (!areWorkersWilling) throw new WeftError('WEFT_SYSCALL', 'cannot listen')
      },
      removePod: (uid) => log.push(`remove ${uid}`),
    },
    log: new Logger('pods', 'info', (line) => {
      const { time: _, component: __, ...rest } = JSON.parse(line) as Record<string, unknown>
      lines.push(rest)
    }),
    isAnsweringDns: true,
    isDeafToAnnotations: isOnKubernetes,
    networks: {
      locate: async (_pod, { name }) => {
        looks++
        return searches.get(name) ?? { kind: 'absent', reason: 'it does not run' }
      },
    },
    credentialReady: async (identity) => {
      if (missing.has(identity)) await new Promise(() => {})
      if (!isCredentialThere) throw new WeftError('WEFT_CERTIFICATE', 'none')
    },
    onIdentities: (set) => {
      identities = set
    },
  })
}

async function apply(delta: Partial<Delta>): Promise<void> {
  snapshot = snapshot.apply({ ...EMPTY_DELTA, ...delta })
  pods.update(snapshot)
  await pods.settled
}

async function later(): Promise<void> {
  mock.timers.tick(LONG_MS)
  await pods.settled
}

function take(): CaptureLog {
  return log.splice(0)
}

test('a pod is prepared, given to the workers, and only then captured; its identity is asked for', async () => {
  await apply({ workloads: [A], pods: [POD_A] })
  assert.deepEqual(take(), ['enrol shop/a', `add ${A.uid}`, `begin ${A.uid}`])
  assert.deepEqual([...identities], [IDENTITY])
  assert.deepEqual([pods.enrolledCount, pods.pendingCount], [1, 0])
  assert.equal(capture.asked[0]!.isStrict, false)
  assert.equal(capture.asked[0]!.isNetnsClaimed, true, 'only its annotation says which netns is its own')
})

test('nothing is captured of a pod whose workload is not known yet', async () => {
  await apply({ pods: [POD_A] })
  assert.deepEqual(take(), [])
  assert.equal(pods.pendingCount, 1)
  await apply({ workloads: [A] })
  assert.deepEqual(take(), ['enrol shop/a', `add ${A.uid}`, `begin ${A.uid}`])
})

test('a pod without a certificate is not captured, until there is one', async () => {
  isCredentialThere = false
  await apply({ workloads: [A], pods: [POD_A] })
  assert.deepEqual(take(), [])
  assert.equal(pods.pendingCount, 1)
  isCredentialThere = true
  await later()
  assert.deepEqual(take(), ['enrol shop/a', `add ${A.uid}`, `begin ${A.uid}`])
  assert.equal(pods.pendingCount, 0)
})

test('a capture that fails is tried again', async () => {
  capture.failures = 2
  await apply({ workloads: [A], pods: [POD_A] })
  await later()
  assert.equal(pods.enrolledCount, 0)
  await later()
  assert.deepEqual(take(), ['enrol shop/a', 'enrol shop/a', 'enrol shop/a', `add ${A.uid}`, `begin ${A.uid}`])
  assert.equal(pods.enrolledCount, 1)
})

test('a pod that the workers cannot listen for is withdrawn, and tried again', async () => {
  areWorkersWilling = false
  await apply({ workloads: [A], pods: [POD_A] })
  assert.deepEqual(take(), ['enrol shop/a', `add ${A.uid}`, `withdraw ${A.uid}`])
  areWorkersWilling = true
  await later()
  assert.deepEqual(take(), ['enrol shop/a', `add ${A.uid}`, `begin ${A.uid}`])
})

test('a pod whose capture does not begin is taken from the workers again, and tried again', async () => {
  capture.failuresToBegin = 1
  await apply({ workloads: [A], pods: [POD_A] })
  assert.deepEqual(take(), [
    ...['enrol shop/a', `add ${A.uid}`, `begin ${A.uid}`],
    ...[`withdraw ${A.uid}`, `remove ${A.uid}`],
  ])
  assert.equal(pods.enrolledCount, 0)
  await later()
  assert.equal(pods.enrolledCount, 1)
})

test('a pod that is gone before the next attempt is not tried again', async () => {
  capture.failures = 1
  await apply({ workloads: [A], pods: [POD_A] })
  take()
  await apply({ removedPods: [A.uid] })
  await later()
  assert.deepEqual(take(), [])
  assert.equal(pods.pendingCount, 0)
})

test('a pod that goes is released by the capture before its listeners close', async () => {
  await apply({ workloads: [A], pods: [POD_A] })
  take()
  await apply({ removedPods: [A.uid] })
  assert.deepEqual(take(), [`withdraw ${A.uid}`, `remove ${A.uid}`])
  assert.deepEqual([pods.enrolledCount, identities.size], [0, 0])
})

test('a pod that comes back in another netns is captured anew', async () => {
  await apply({ workloads: [A], pods: [POD_A] })
  take()
  await apply({ pods: [{ ...POD_A, netns: '/var/run/netns/b' }] })
  assert.deepEqual(take(), [`withdraw ${A.uid}`, `remove ${A.uid}`, 'enrol shop/a', `add ${A.uid}`, `begin ${A.uid}`])
  assert.equal(capture.asked.at(-1)!.pod.netns, '/var/run/netns/b')
})

test('a change that is none of its business leaves a pod alone', async () => {
  await apply({ workloads: [A], pods: [POD_A] })
  take()
  await apply({ services: [SERVICE], workloads: [{ ...A, isHealthy: false }] })
  assert.deepEqual(take(), [`strict ${A.uid} false`])
})

test('STRICT reaches the capture of a pod that is enrolled already', async () => {
  await apply({ workloads: [A], pods: [POD_A] })
  take()
  await apply({ policies: [STRICT] })
  assert.deepEqual(take(), [`strict ${A.uid} true`])
  await apply({ removedPolicies: [STRICT.key] })
  assert.deepEqual(take(), [`strict ${A.uid} false`])
})

test('STRICT reaches a pod that is not enrolled (yet), which an earlier agent may have captured', async () => {
  const found: (readonly [string, boolean])[] = []
  Object.assign(capture, { setFoundStrict: (uid: string, isStrict: boolean) => found.push([uid, isStrict]) })
  isCredentialThere = false
  await apply({ workloads: [A], pods: [POD_A], policies: [STRICT] })
  assert.deepEqual(found, [[A.uid, true]])
})

test('with half a snapshot no pod that an earlier agent has captured is opened', async () => {
  const found: (readonly [string, boolean])[] = []
  Object.assign(capture, { setFoundStrict: (uid: string, isStrict: boolean) => found.push([uid, isStrict]) })
  isCredentialThere = false
  await apply({ pods: [POD_A] })
  assert.deepEqual(found, [], 'a pod without its workload stays as it is')
  await apply({ workloads: [{ ...A, policies: ['shop/missing'] }] })
  assert.deepEqual(found, [[A.uid, true]], 'it may be the one that forbids plaintext')
  await apply({ workloads: [A] })
  assert.deepEqual(found.at(-1), [A.uid, false])
})

test('a failure mode of its own overrules STRICT, also of a pod that is enrolled already', async () => {
  await apply({ workloads: [A], pods: [POD_A] })
  take()
  await apply({ pods: [{ ...POD_A, failureMode: FAILURE_CLOSED }] })
  assert.deepEqual(take(), [`strict ${A.uid} true`])
  await apply({ policies: [STRICT], pods: [{ ...POD_A, failureMode: FAILURE_OPEN }] })
  assert.deepEqual(take(), [`strict ${A.uid} false`])
  await apply({ pods: [POD_A] })
  assert.deepEqual(take(), [`strict ${A.uid} true`])
})

test('a pod is enrolled with its failure mode', async () => {
  await apply({ workloads: [A], pods: [{ ...POD_A, failureMode: FAILURE_CLOSED }] })
  assert.equal(capture.asked[0]!.isStrict, true)
})

test('the DNS of a pod is captured unless it is exempt, and it is enrolled anew when that changes', async () => {
  await apply({ workloads: [A], pods: [POD_A] })
  assert.equal(capture.asked[0]!.isDnsCaptured, true)
  take()
  await apply({ pods: [{ ...POD_A, isDnsExempt: true }] })
  assert.deepEqual(take(), [`withdraw ${A.uid}`, `remove ${A.uid}`, 'enrol shop/a', `add ${A.uid}`, `begin ${A.uid}`])
  assert.equal(capture.asked[1]!.isDnsCaptured, false)
})

test('connections from before the capture are told once, and not of a pod that is enrolled anew', async () => {
  capture.openConnections = 3
  await apply({ workloads: [A], pods: [POD_A] })
  pods.renew(A.uid)
  await pods.settled
  assert.equal(pods.enrolledCount, 1)
  assert.deepEqual(
    lines.filter(({ message }) => /before it was captured/.test(String(message))),
    [
      {
        level: 'warn',
        message: 'connections that a pod had before it was captured go on past the mesh',
        pod: 'shop/a',
        connections: 3,
      },
    ],
  )
})

test('loopback capture is told what to listen on, anew when that changes', async () => {
  begin('loopback')
  await apply({ workloads: [A], pods: [POD_A] })
  assert.deepEqual(capture.asked[0]!.serviceAddresses, [])
  assert.deepEqual(capture.asked[0]!.inboundPorts, [9080])
  await apply({ services: [SERVICE] })
  assert.deepEqual(capture.asked[1]!.serviceAddresses, [{ address: '198.19.0.1', port: 80 }])
})

test('after the end nothing is tried any more', async () => {
  capture.failures = 1
  await apply({ workloads: [A], pods: [POD_A] })
  take()
  await pods.stop()
  await later()
  assert.deepEqual(take(), [])
})

// --- pods that no annotation tells of ---

const FOUND: LocalPod = { ...POD_A, netns: '', podUid: 'uid-1' }

test('a pod is captured in the network that was found, and is not touched when its addresses are published', async () => {
  searches.set('a', { kind: 'found', netns: '/proc/7/ns/net', addresses: ['10.0.0.1', 'fd00::1'] })
  await apply({ workloads: [{ ...A, addresses: [] }], pods: [FOUND] })
  assert.deepEqual(take(), ['enrol shop/a', `add ${A.uid}`, `begin ${A.uid}`])
  assert.equal(capture.asked[0]!.pod.netns, '/proc/7/ns/net')
  assert.deepEqual(capture.asked[0]!.addresses, ['10.0.0.1', 'fd00::1'])
  assert.equal(capture.asked[0]!.isNetnsClaimed, false)
  assert.equal(pods.netnsOf(A.uid), '/proc/7/ns/net')
  await apply({ workloads: [{ ...A, addresses: ['fd00::1', '10.0.0.1'] }] })
  assert.deepEqual(take(), [`strict ${A.uid} false`])
  await apply({ workloads: [{ ...A, addresses: ['10.0.0.2'] }] })
  assert.equal(take().length, 5, 'with another address it is another network')
})

test('on Kubernetes the node says which network is a pod’s, whatever its annotation says', async () => {
  isOnKubernetes = true
  begin('ebpf')
  const liar = { ...FOUND, netns: '/proc/1/ns/net' }
  await apply({ workloads: [A], pods: [liar] })
  assert.deepEqual([take(), pods.pendingCount], [[], 0], 'nobody waits for it')
  searches.set('a', { kind: 'found', netns: '/proc/7/ns/net', addresses: [] })
  await later()
  assert.equal(pods.netnsOf(A.uid), '/proc/7/ns/net')
  assert.equal(capture.asked[0]!.pod.netns, '/proc/7/ns/net')
})

test('another pod of the same name is captured anew', async () => {
  searches.set('a', { kind: 'found', netns: '/proc/7/ns/net', addresses: [] })
  await apply({ workloads: [A], pods: [FOUND] })
  take()
  await apply({ pods: [{ ...FOUND, podUid: 'uid-2' }] })
  assert.deepEqual(take().slice(0, 2), [`withdraw ${A.uid}`, `remove ${A.uid}`])
  assert.equal(pods.enrolledCount, 1)
})

test('a pod in the network of its node is refused, said once, and keeps nobody waiting', async () => {
  searches.set('a', { kind: 'host-network' })
  await apply({ workloads: [A], pods: [FOUND] })
  await apply({ workloads: [{ ...A, isHealthy: false }] })
  assert.deepEqual(take(), [])
  assert.deepEqual([pods.pendingCount, [...pods.refusedCounts()], pods.wanted().size], [0, [['host_network', 1]], 0])
  assert.equal(lines.filter(({ message }) => /uses the network of its node/.test(String(message))).length, 1)
  await apply({ removedPods: [A.uid] })
  assert.equal(pods.refusedCounts().size, 0)
})

test('a pod that does not run is looked for by the clock, and when something is said of it', async () => {
  await apply({ workloads: [A], pods: [FOUND] })
  assert.equal(pods.pendingCount, 0)
  const before = looks
  await apply({ workloads: [workloadOf('other')] })
  assert.equal(looks, before, 'an update of others is no reason')
  await later()
  assert.equal(looks, before + 1)
  searches.set('a', { kind: 'found', netns: '/proc/7/ns/net', addresses: [] })
  await apply({ workloads: [{ ...A, isHealthy: false }] })
  assert.equal(pods.enrolledCount, 1)
  assert.deepEqual(
    pods.states().map(({ state }) => state),
    ['captured'],
  )
})

test('a network that is made or goes is followed at once', async () => {
  await apply({ workloads: [A], pods: [FOUND] })
  let activations = 0
  const unwatch = pods.watch(A.uid, () => activations++)
  searches.set('a', { kind: 'found', netns: '/proc/7/ns/net', addresses: [] })
  pods.networkMade(A.uid)
  await pods.settled
  assert.deepEqual([pods.isActive(A.uid), activations], [true, 1])
  take()
  searches.set('a', { kind: 'absent', reason: 'it does not run' })
  await pods.networkGone(A.uid)
  assert.deepEqual(take(), [`withdraw ${A.uid}`, `remove ${A.uid}`])
  assert.deepEqual([pods.pendingCount, pods.netnsOf(A.uid)], [0, null])
  searches.set('a', { kind: 'found', netns: '/proc/9/ns/net', addresses: [] })
  pods.networkMade(A.uid)
  await pods.settled
  assert.equal(pods.netnsOf(A.uid), '/proc/9/ns/net')
  // Made anew while it is captured: the runtime has replaced the sandbox.
  searches.set('a', { kind: 'found', netns: '/proc/11/ns/net', addresses: [] })
  pods.networkMade(A.uid)
  await pods.settled
  assert.equal(pods.netnsOf(A.uid), '/proc/11/ns/net')
  unwatch()
})

test('a pod whose certificate does not come keeps no other waiting', async () => {
  const other = { ...workloadOf('b'), serviceAccount: 'ratings' }
  missing.add(IDENTITY)
  const pod = { ...POD_A, uid: other.uid, netns: '/var/run/netns/b' }
  snapshot = snapshot.apply({ ...EMPTY_DELTA, workloads: [A, other], pods: [POD_A, pod] })
  pods.update(snapshot)
  for (let turns = 0; turns < 20; turns++) await Promise.resolve()
  assert.equal(pods.isActive(other.uid), true)
  assert.equal(pods.isActive(A.uid), false)
})
