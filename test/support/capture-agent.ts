/**
 * An agent's capture in a process of its own, for tests that kill it and for the sanitizer build of the addon.
 *
 *      node capture-agent.ts {"mode": "stay" | "exercise", "addonPath", "cgroupPath", "pinDirectory", "pods": [...]}
 *
 * `stay` enrols the pods, answers connections, prints `ready` and runs until it is killed. `exercise` goes through every
 * function of the addon, also with bad arguments, and prints `done`.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { EbpfCapture } from '../../src/agent/capture-ebpf.ts'
import { FAMILY_IPV4, FAMILY_IPV6 } from '../../src/base/address.ts'
import { silentLog } from '../../src/base/log.ts'
import { type Addon, loadAddon, NATIVE_BUILD_DIRECTORY, type Ring } from '../../src/kernel/addon.ts'
import { EVENT, POD, TCX_EGRESS } from '../../src/kernel/layout.generated.ts'
import { encodeCookie } from '../../src/kernel/maps.ts'
import { type Answer, AnsweringPod } from './answering-pod.ts'
import { dieAtStep } from './dying.ts'
import type { TestPod } from './netns.ts'
import { openPodSocket } from './open-pod-socket.ts'

export interface AgentRequest {
  readonly mode: 'stay' | 'exercise'
  readonly addonPath: string
  readonly cgroupPath: string
  readonly pinDirectory: string
  readonly stateDirectory?: string
  readonly version?: string
  readonly slotBase?: number
  readonly isPredecessorServing?: boolean
  readonly pods: readonly (TestPod & { readonly isStrict: boolean })[]
  /** Kills itself before that step: see `dieAtStep`. */
  readonly deathStep?: number | string
}

const request = JSON.parse(process.argv[2]!) as AgentRequest
const addon = dieAtStep(loadAddon(request.addonPath), request.deathStep ?? 0)
const capture = EbpfCapture.open({ ...request, log: silentLog, addon })
const answering: AnsweringPod[] = []
for (const pod of request.pods) answering.push(await AnsweringPod.enrol(capture, pod, 2, pod.isStrict))

if (request.mode === 'stay') {
  console.log('ready')
} else {
  await dialBetween(request.pods[0]!, answering[0]!, request.pods[1]!)
  refuseBadArguments(addon)
  await changePrograms(request.pods[0]!)
  capture.stats()
  for (const pod of answering) {
    await capture.withdraw(pod.uid)
    pod.close()
  }
  await capture.close()
  console.log('done')
}

/** Waits until the capture has attached its meter, and attaches and detaches what cannot be. */
async function changePrograms({ netns }: TestPod): Promise<void> {
  const netnsFd = addon.openNetns(netns)
  const { index } = addon.netnsInterfaces(netnsFd).find(({ name }) => name === 'eth0')!
  while (addon.interfacePrograms(netnsFd, index, TCX_EGRESS).length === 0) await delay(10)
  await assert.rejects(addon.attachToInterface(netnsFd, index, TCX_EGRESS, netnsFd), {
    syscall: 'bpf(BPF_PROG_ATTACH)',
  })
  await assert.rejects(addon.attachToInterface(0, index, TCX_EGRESS, 0), { syscall: 'setns' })
  await assert.rejects(addon.detachFromInterface(netnsFd, 9999, TCX_EGRESS, 'weft_udp_sent'), { code: 'ENODEV' })
  await addon.detachFromInterface(netnsFd, index, TCX_EGRESS, 'a name that is longer than the kernel has room for')
  assert.throws(() => addon.interfacePrograms(netnsFd, 9999, TCX_EGRESS), { code: 'ENODEV' })
  closeSync(netnsFd)
}

/** Dials pod `to` from inside pod `from`: what arrives there is captured as inbound. */
async function dialBetween(from: TestPod, dialer: AnsweringPod, to: TestPod): Promise<void> {
  for (const [family, address, source] of [
    [FAMILY_IPV4, to.ipv4, from.ipv4],
    [FAMILY_IPV6, to.ipv6, from.ipv6],
  ] as const) {
    const socket = new Socket({ fd: openPodSocket(addon, dialer.captured.dialing, family) })
    socket.connect(80, address)
    const [line] = (await once(socket, 'data')) as [Buffer]
    const answer = JSON.parse(String(line)) as Answer
    assert.equal(answer.pod, to.name)
    assert.ok(answer.peer.includes(source), `peer is ${source}: ${answer.peer}`)
    socket.destroy()
  }
}

/** Every check of an argument, and failing system calls with and without a log. */
function refuseBadArguments(addon: Addon): void {
  const wrong = addon as unknown as Record<string, (...values: unknown[]) => unknown>
  assert.throws(() => wrong['openNetns']!(7), TypeError)
  assert.throws(() => wrong['netnsCookie']!('x'), TypeError)
  assert.throws(() => wrong['netlinkInNetns']!(0, 0, 'x'), TypeError)
  assert.throws(() => wrong['socketInNetns']!(0, 1, 2, 3), TypeError)
  assert.throws(() => wrong['datagramInNetns']!(0, 1, 2, 3, 4), TypeError)
  assert.throws(() => wrong['loadObject']!('x', null, null), TypeError)
  assert.throws(() => addon.openNetns('/nowhere'), { code: 'ENOENT', syscall: 'open' })
  assert.throws(() => addon.openNetns('/proc/self/status'), { code: 'ENOTTY' })
  assert.throws(() => addon.netnsCookie(-1), { code: 'EBADF', syscall: 'setns' })
  assert.throws(() => addon.loadObject('/nowhere', {}, null), { code: 'ENOENT' })
  assert.throws(() => addon.loadObject(`${NATIVE_BUILD_DIRECTORY}connect.bpf.o`, {}, new Uint8Array(8)))
  assert.throws(() => addon.loadObject(`${NATIVE_BUILD_DIRECTORY}rejected.bpf.o`, {}, null), { code: 'EACCES' })
  const { maps, programs } = addon.loadObject(`${NATIVE_BUILD_DIRECTORY}connect.bpf.o`, {}, null)
  const { stats, pods, events } = maps as { stats: number; pods: number; events: number }
  assert.throws(() => addon.mapUpdate(pods, new Uint8Array(7), new Uint8Array(POD.bytes)), RangeError)
  assert.throws(() => addon.mapUpdate(pods, new Uint8Array(8), new Uint8Array(POD.bytes + 1)), RangeError)
  assert.throws(() => addon.mapLookup(pods, new Uint8Array(9)), RangeError)
  assert.throws(() => addon.mapUpdate(-1, new Uint8Array(8), new Uint8Array(POD.bytes)), {
    object: 'map descriptor -1',
  })
  assert.throws(() => wrong['giveLifeSign']!('x', 0), TypeError)
  const threads = maps['worker_threads']!
  addon.giveLifeSign(threads, 1)
  addon.giveLifeSign(threads, 0)
  for (let i = 0; i < 2; i++) addon.withdrawLifeSign()
  addon.giveLifeSign(threads, 0)
  assert.equal(addon.mapLookup(pods, new Uint8Array(8)), null)
  assert.equal(addon.mapDelete(pods, new Uint8Array(8)), false)
  addon.mapUpdate(pods, new Uint8Array(8), new Uint8Array(POD.bytes).fill(3))
  assert.deepEqual(addon.mapLookup(pods, new Uint8Array(8)), new Uint8Array(POD.bytes).fill(3))
  assert.equal(addon.mapDelete(pods, new Uint8Array(8)), true)
  for (let i = 0; i < 100; i++) addon.mapUpdate(pods, encodeCookie(BigInt(i)), new Uint8Array(POD.bytes).fill(i))
  const { keys, values } = addon.mapEntries(pods)
  assert.deepEqual([keys.length, values.length], [800, 100 * POD.bytes])
  for (let i = 0; i < 100; i++) assert.equal(values[i * POD.bytes], keys[i * 8])
  assert.throws(() => addon.mapEntries(-1), { object: 'map descriptor -1' })
  readRing(addon, events, pods)
  assert.equal(addon.mapLookup(stats, new Uint8Array(4))!.length % 8, 0)
  assert.throws(() => addon.attachLink(-1, -1, 10), { code: 'EBADF' })
  assert.throws(() => addon.pinObject(pods, '/tmp/not-a-bpf-file-system'), { syscall: 'bpf(BPF_OBJ_PIN)' })
  assert.throws(() => addon.mountBpfFilesystem('/nowhere'), { code: 'ENOENT' })
  assert.throws(() => addon.unmount('/nowhere'), { code: 'ENOENT' })
  assert.throws(() => addon.lockDirectory('/nowhere'), { code: 'ENOENT' })
  assert.equal(addon.writeNow(-1, new Uint8Array(1)), false)
  assert.throws(() => addon.duplicateFd(-1), { code: 'EBADF' })
  assert.ok(addon.describeObject(`${NATIVE_BUILD_DIRECTORY}connect.bpf.o`).maps.length > 0)
  for (const fd of [...Object.values(maps), ...Object.values(programs)]) closeSync(fd)
}

function readRing(addon: Addon, events: number, other: number): void {
  const ring = addon.openRing(events, EVENT.bytes)
  assert.equal(addon.readRing(ring, 10).length, 0)
  assert.throws(() => addon.readRing(ring, 0), RangeError)
  assert.throws(() => addon.readRing(null as unknown as Ring, 1), TypeError)
  addon.closeRing(ring)
  addon.closeRing(ring)
  assert.throws(() => addon.readRing(ring, 1), { code: 'EBADF' })
  assert.throws(() => addon.openRing(events, 0), RangeError)
  assert.throws(() => addon.openRing(other, EVENT.bytes), { code: 'EINVAL' })
}
