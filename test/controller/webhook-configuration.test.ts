import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { silentLog } from '../../src/base/log.ts'
import { WebhookConfiguration } from '../../src/controller/webhook-configuration.ts'
import { KubernetesError } from '../../src/kubernetes/error.ts'
import type { KubernetesObject } from '../../src/kubernetes/object.ts'
import { FakeClock } from '../support/fake-clock.ts'

const ROOTS = 'roots'
const ENCODED = Buffer.from(ROOTS).toString('base64')

function failure(status: number): KubernetesError {
  return new KubernetesError(`no: ${status}`, { status, reason: '', apiMessage: '' })
}

class Configurations {
  current: KubernetesObject | null
  writes = 0
  /** Thrown by the next writes. */
  failures: KubernetesError[] = []

  constructor(bundles: readonly (string | undefined)[] | null) {
    const webhooks = bundles?.map((caBundle, i) => ({ name: `w${i}`, clientConfig: { service: {}, caBundle } }))
    const metadata = { name: 'weft-controller', resourceVersion: '1' }
    this.current = webhooks === undefined ? null : { apiVersion: 'v1', kind: 'X', metadata, webhooks }
  }

  get bundles(): unknown[] {
    return (this.current!['webhooks'] as { clientConfig: { caBundle?: string } }[]).map(
      (one) => one.clientConfig.caBundle,
    )
  }

  async get(): Promise<KubernetesObject | null> {
    return this.current
  }

  async replace(object: KubernetesObject): Promise<KubernetesObject> {
    this.writes++
    const error = this.failures.shift()
    if (error !== undefined) throw error
    this.current = object
    return object
  }
}

function writerFor(api: Configurations): { writer: WebhookConfiguration; clock: FakeClock } {
  const clock = new FakeClock()
  return { writer: new WebhookConfiguration({ api, clock, log: silentLog, random: () => 1 }), clock }
}

describe('the configuration of the webhook', () => {
  test('gets the roots from the leader, in every webhook', async () => {
    const api = new Configurations([undefined, 'old'])
    const { writer } = writerFor(api)
    writer.setBundle(ROOTS)
    writer.setLeading(true)
    await writer.stop()
    assert.deepEqual(api.bundles, [ENCODED, ENCODED])
    assert.equal(api.writes, 1)
  })

  test('is left alone by who does not lead, and by a leader without roots', async () => {
    const api = new Configurations(['old'])
    const follower = writerFor(api).writer
    follower.setBundle(ROOTS)
    await follower.stop()
    const early = writerFor(api).writer
    early.setLeading(true)
    await early.stop()
    assert.equal(api.writes, 0)
  })

  test('that is right already is not written', async () => {
    const api = new Configurations([ENCODED])
    const { writer } = writerFor(api)
    writer.setBundle(ROOTS)
    writer.setLeading(true)
    await writer.stop()
    assert.equal(api.writes, 0)
  })

  test('that is not there is no trouble, and gets the roots soon after it is made', async () => {
    const api = new Configurations(null)
    const { writer, clock } = writerFor(api)
    writer.setBundle(ROOTS)
    writer.setLeading(true)
    await settled(clock)
    assert.equal(writer.problem, '')
    api.current = new Configurations([undefined]).current
    clock.advance(2_000)
    await settled(clock)
    assert.deepEqual(api.bundles, [ENCODED])
    await writer.stop()
  })

  test('is put right again when somebody else has changed it, and when the roots change', async () => {
    const api = new Configurations([undefined])
    const { writer, clock } = writerFor(api)
    writer.setBundle(ROOTS)
    writer.setLeading(true)
    await settled(clock)
    api.current = new Configurations([undefined]).current
    clock.advance(60_000)
    await settled(clock)
    assert.deepEqual(api.bundles, [ENCODED])
    writer.setBundle('others')
    await settled(clock)
    assert.deepEqual(api.bundles, [Buffer.from('others').toString('base64')])
    await writer.stop()
  })

  test('is tried again: at once after a conflict, later after another failure, which is told', async () => {
    const api = new Configurations([undefined])
    api.failures = [failure(409), failure(403)]
    const { writer, clock } = writerFor(api)
    writer.setBundle(ROOTS)
    writer.setLeading(true)
    await settled(clock)
    assert.equal(clock.nextDelayMs, 0)
    clock.advance(0)
    await settled(clock)
    assert.equal(api.writes, 2)
    assert.match(writer.problem, /no: 403/)
    clock.advance(1_000)
    await settled(clock)
    assert.deepEqual(api.bundles, [ENCODED])
    assert.equal(writer.problem, '')
    await writer.stop()
  })

  test('is not written by who ceases to lead while it is read', async () => {
    const api = new Configurations([undefined])
    const { writer } = writerFor(api)
    writer.setBundle(ROOTS)
    writer.setLeading(true)
    writer.setLeading(false)
    await writer.stop()
    assert.equal(api.writes, 0)
  })

  test('is not written any more by who has ceased to lead', async () => {
    const api = new Configurations([undefined])
    const { writer, clock } = writerFor(api)
    writer.setLeading(true)
    writer.setLeading(false)
    writer.setBundle(ROOTS)
    clock.advance(600_000)
    await writer.stop()
    assert.equal(api.writes, 0)
    assert.equal(clock.pending, 0)
  })
})

/** The look that is under way is over: it has set its next timer. */
async function settled(clock: FakeClock): Promise<void> {
  while (clock.pending === 0) await new Promise((resolve) => setImmediate(resolve))
  await new Promise((resolve) => setImmediate(resolve))
}
