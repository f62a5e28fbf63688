import assert from 'node:assert/strict'
import { afterEach, beforeEach, mock, test } from 'node:test'
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
let pods: Pods
let snapshot: Snapshot

beforeEach(() => {
  mock.timers.enable({ apis: ['setTimeout'] })
  begin('ebpf')
})

afterEach(() => mock.timers.reset())

function begin(kind: 'ebpf' | 'loopback'): void {
  log = []
  lines = []
  capture = new FakeCapture(log, kind)
  isCredentialThere = true
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
    credentialReady: async () => {
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
