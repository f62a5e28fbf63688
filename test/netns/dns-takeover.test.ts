/** What becomes of captured DNS when one agent's capture follows another's. */
import assert from 'node:assert/strict'
import { closeSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { afterEach, beforeEach, describe, it } from 'node:test'
import { EbpfCapture } from '../../src/agent/capture-ebpf.ts'
import { silentLog } from '../../src/base/log.ts'
import type { CapturePrograms } from '../../src/kernel/capture-programs.ts'
import { AnsweringDns, DATAGRAM_CLIENT, runDatagrams } from '../support/answering-dns.ts'
import { podToCapture } from '../support/answering-pod.ts'
import { needsRoot, TestNetwork, type TestPod } from '../support/netns.ts'

const RESOLVER = '198.18.0.77'
const OTHER = '198.18.0.78'

describe('DNS capture over takeovers', needsRoot, () => {
  let network: TestNetwork
  let a: TestPod
  let capture: EbpfCapture
  let dns: AnsweringDns

  beforeEach(async () => {
    network = TestNetwork.create(['a'])
    a = network.pod('a')
    network.join()
    open()
    dns = await AnsweringDns.enrol(capture, a)
  })

  afterEach(async () => {
    await network?.close(
      () => dns?.close(),
      () => capture?.close(),
    )
  })

  function open(): void {
    const pinDirectory = `/run/${network.prefix}-dns`
    capture = EbpfCapture.open({ cgroupPath: network.cgroupPath, pinDirectory, log: silentLog })
  }

  /** The agent goes, and leaves what is in the kernel to the next one. */
  async function leave(): Promise<void> {
    await capture.release()
    dns.close()
    await capture.close()
  }

  const programs = (): CapturePrograms => (capture as unknown as { programs: CapturePrograms }).programs
  const ask = async (address: string): Promise<string> =>
    (await runDatagrams(network, a, ['4', 'sendto', address, '53', 'q', 'recv'])).at(-1)!

  function assertNothingIsLeft(): void {
    const { netnsCookie } = dns.captured.dialing
    assert.equal(programs().dnsPods.has(netnsCookie), false)
    assert.equal(programs().resolvers.addressOf(netnsCookie, 1), null)
    assert.doesNotMatch(network.ipIn(a, 'route show table local'), /127\.83/)
    assert.doesNotMatch(network.ipIn(a, '-6 route show table local'), /fd3d/)
  }

  it('a socket that is connected to a resolver stays with it', async () => {
    const steps = ['4', 'connect', RESOLVER, '53', 'send', 'x', 'recv', 'wait', 'send', 'y', 'recv', 'names']
    const client = network.start(a, [DATAGRAM_CLIENT, ...steps])
    const lines = createInterface({ input: client.stdout! })[Symbol.asyncIterator]()
    const line = async (): Promise<string> => String((await lines.next()).value)
    for (let said = ''; said !== 'wait'; ) said = await line()
    await leave()
    open()
    dns = await AnsweringDns.enrol(capture, a)
    // Another resolver is asked first: it must not get the index that the socket bears.
    assert.equal(await ask(OTHER), `recv from ${OTHER} 53 agent 0: ${OTHER} asked q`)
    client.stdin!.write('\n')
    assert.equal(await line(), 'send ok')
    assert.equal(await line(), `recv from ${RESOLVER} 53 agent 0: ${RESOLVER} asked y`)
    assert.match(await line(), new RegExp(`remote ${RESOLVER} 53$`))
  })

  it('the same after the agent before it was drained', async () => {
    assert.match(await ask(RESOLVER), /agent/)
    await capture.drain()
    await leave()
    open()
    dns = await AnsweringDns.enrol(capture, a)
    assert.equal(await ask(OTHER), `recv from ${OTHER} 53 agent 0: ${OTHER} asked q`)
    assert.equal(await ask(RESOLVER), `recv from ${RESOLVER} 53 agent 0: ${RESOLVER} asked q`)
  })

  it('nothing is left of a pod whose DNS the next agent does not capture', async () => {
    assert.match(await ask(RESOLVER), /agent/)
    await leave()
    open()
    const captured = await capture.enrol(podToCapture(a), 1)
    capture.begin(captured.uid)
    for (const { fds } of captured.listeners) for (const fd of fds!) closeSync(fd)
    assertNothingIsLeft()
  })

  it('nothing is left of a pod that the next agent does not want', async () => {
    assert.match(await ask(RESOLVER), /agent/)
    await leave()
    open()
    await capture.retain(new Set())
    assertNothingIsLeft()
  })

  it('nothing is left of a pod that has vanished meanwhile', async () => {
    assert.match(await ask(RESOLVER), /agent/)
    const { netnsCookie } = dns.captured.dialing
    await leave()
    network.deletePod('a')
    open()
    assert.equal(programs().dnsPods.has(netnsCookie), false)
    assert.equal(programs().resolvers.addressOf(netnsCookie, 1), null)
  })
})
