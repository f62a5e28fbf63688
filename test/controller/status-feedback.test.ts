import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { connect } from 'node:tls'
import { silentLog } from '../../src/base/log.ts'
import { CompileMemo } from '../../src/compiler/compile-memo.ts'
import { CertificateAuthority } from '../../src/controller/authority.ts'
import { Feedback } from '../../src/controller/status-feedback.ts'
import { WEBHOOK_CONFIGURATIONS } from '../../src/controller/webhook-configuration.ts'
import { KubernetesApi } from '../../src/kubernetes/api.ts'
import { SETTINGS } from '../compiler/builders.ts'
import { FakeApiServer } from '../support/fake-api-server.ts'
import { FakeClock } from '../support/fake-clock.ts'

const HOST = 'weft-controller.weft-system.svc'
const DAY_MS = 86_400_000

describe('the certificate of the webhook', () => {
  let directory: string
  let server: FakeApiServer
  let api: KubernetesApi
  let clock: FakeClock
  let authority: CertificateAuthority
  let feedback: Feedback
  let port: number

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'weft-serving-'))
    server = await FakeApiServer.start()
    server.addType(WEBHOOK_CONFIGURATIONS, 'ValidatingWebhookConfiguration')
    server.put(WEBHOOK_CONFIGURATIONS, {
      metadata: { name: 'weft-controller' },
      webhooks: [{ name: 'validate.weft.dev', clientConfig: { service: {} } }],
    })
    api = await KubernetesApi.open({ kubeconfig: server.kubeconfig })
    // TLS judges by the real time, which the clock reaches when half of the life is over.
    clock = new FakeClock(Date.now() - DAY_MS / 2 - 60_000)
    authority = await authorityIn('first')
    feedback = new Feedback({
      api,
      authority: {
        issue: (...order) => authority.issue(...order),
        get bundle() {
          return authority.bundle
        },
      },
      settings: SETTINGS,
      memo: new CompileMemo(),
      dnsNames: [HOST],
      onJudged: () => {},
      instance: 'one',
      clock,
      log: silentLog,
    })
    port = await feedback.listen({ address: '127.0.0.1', port: 0 })
  })

  after(async () => {
    await feedback.stop()
    api.close()
    await server.stop()
    await rm(directory, { recursive: true })
  })

  function authorityIn(name: string): Promise<CertificateAuthority> {
    const settings = { stateDirectory: join(directory, name), given: null, trustDomain: 'cluster.local' }
    return CertificateAuthority.open(settings, silentLog, () => clock.now())
  }

  /** Serial number of the certificate that a client sees who knows the root and the name of the service. */
  async function shown(): Promise<string> {
    const socket = connect({ host: '127.0.0.1', port, servername: HOST, ca: authority.bundle })
    await once(socket, 'secureConnect')
    const { serialNumber } = socket.getPeerCertificate()
    socket.destroy()
    return serialNumber
  }

  function storedBundle(): string {
    const { webhooks } = server.stored(WEBHOOK_CONFIGURATIONS, null, 'weft-controller') as unknown as {
      webhooks: { clientConfig: { caBundle?: string } }[]
    }
    return Buffer.from(webhooks[0]!.clientConfig.caBundle ?? '', 'base64').toString()
  }

  const isWrite = ({ method }: { method: string }): boolean => method === 'PUT'

  test('is renewed at half of its life, long before it ends', async () => {
    const first = await shown()
    clock.advance(DAY_MS / 2 - 10_000)
    assert.equal(await shown(), first)
    clock.advance(20_000)
    assert.notEqual(await shown(), first)
  })

  test('is by the new root soon after the roots change, and the API server hears of that from the leader', async () => {
    const written = server.next(isWrite)
    feedback.setLeading(true)
    await written
    assert.equal(storedBundle(), authority.bundle)
    authority = await authorityIn('second')
    const again = server.next(isWrite)
    clock.advance(5_000)
    await shown()
    await again
    assert.equal(storedBundle(), authority.bundle)
  })
})
