import assert from 'node:assert/strict'
import { beforeEach, describe, it } from 'node:test'
import { type AuditedPod, CaptureWatch } from '../../src/agent/capture-watch.ts'
import { WeftError } from '../../src/base/errors.ts'
import { Logger } from '../../src/base/log.ts'
import type { PodFault } from '../../src/kernel/pod-inspection.ts'

const STEERING: PodFault = { piece: 'steering', problem: 'IPv4 packets are not steered to the agent' }
const LISTENER: PodFault = { piece: 'listener', problem: 'nobody listens for tunnels (data worker 0)' }

describe('the watch over the capture', () => {
  let wanted: Map<string, string>
  let audits: Map<string, () => AuditedPod | null>
  let renewed: string[]
  let lines: unknown[][]
  let watch: CaptureWatch

  beforeEach(() => {
    wanted = new Map([
      ['a', 'shop/a'],
      ['b', 'shop/b'],
    ])
    audits = new Map()
    renewed = []
    lines = []
    const log = new Logger('capture', 'info', (line) => {
      const { level, message, pod, problem, problems } = JSON.parse(line)
      lines.push([level, message, pod, problem ?? problems])
    })
    watch = new CaptureWatch({
      audit: (uid) => audits.get(uid)?.() ?? (audits.has(uid) ? null : { uid, faults: [], left: [] }),
      wanted: () => wanted,
      renew: (uid) => renewed.push(uid),
      log,
    })
  })

  function find(uid: string, faults: readonly PodFault[], left: readonly PodFault[]): void {
    audits.set(uid, () => ({ uid, faults, left }))
  }

  it('says nothing while every pod is captured', async () => {
    for (let i = 0; i < 3; i++) await watch.check()
    assert.deepEqual(lines, [])
    assert.deepEqual([watch.notCaptured, watch.repaired], [0, 0])
  })

  it('tells what it has repaired, each time', async () => {
    find('a', [STEERING], [])
    for (let i = 0; i < 2; i++) await watch.check()
    const line = ['warn', 'the capture of a pod was damaged, and is repaired', 'shop/a', [STEERING.problem]]
    assert.deepEqual(lines, [line, line])
    assert.deepEqual([watch.notCaptured, watch.repaired, renewed.length], [0, 2, 0])
  })

  it('tells what it cannot repair once, and when it is right again', async () => {
    find('b', [STEERING], [STEERING])
    for (let i = 0; i < 3; i++) await watch.check()
    assert.equal(watch.notCaptured, 1)
    audits.clear()
    for (let i = 0; i < 2; i++) await watch.check()
    assert.deepEqual(lines, [
      ['error', 'a pod is not captured as it should be', 'shop/b', STEERING.problem],
      ['info', 'a pod is captured again', 'shop/b', undefined],
    ])
    assert.deepEqual([watch.notCaptured, watch.repaired, renewed.length], [0, 0, 0])
  })

  it('enrols a pod anew whose programs or listeners are gone', async () => {
    find('a', [LISTENER], [LISTENER])
    await watch.check()
    assert.deepEqual(renewed, ['a'])
    assert.equal(watch.notCaptured, 1)
  })

  it('counts a pod that is not enrolled, and one that cannot be looked at', async () => {
    audits.set('a', () => null)
    audits.set('b', () => {
      throw new WeftError('WEFT_SYSCALL', 'an interface is down')
    })
    await watch.check()
    assert.equal(watch.notCaptured, 2)
    assert.deepEqual(
      lines.map(([, , pod, problem]) => [pod, problem]),
      [
        ['shop/a', 'it is not enrolled (yet)'],
        ['shop/b', 'an interface is down'],
      ],
    )
  })

  it('forgets a pod that is wanted no more, without a word', async () => {
    audits.set('a', () => null)
    await watch.check()
    wanted.delete('a')
    await watch.check()
    assert.deepEqual([watch.notCaptured, lines.length], [0, 1])
  })
})
