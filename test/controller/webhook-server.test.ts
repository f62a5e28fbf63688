import assert from 'node:assert/strict'
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { request as httpsRequest } from 'node:https'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, before, describe, test } from 'node:test'
import { connect as tlsConnect } from 'node:tls'
import { silentLog } from '../../src/base/log.ts'
import type { Steps } from '../../src/base/steps.ts'
import type { MeshObject } from '../../src/compiler/object.ts'
import { CertificateAuthority } from '../../src/controller/authority.ts'
import type { CandidateFindings } from '../../src/controller/candidate-analysis.ts'
import {
  REVIEW_BYTES_MAX,
  REVIEWS_WAITING_MAX,
  type ServingCredential,
  WEBHOOK_PATH,
  WebhookServer,
} from '../../src/controller/webhook-server.ts'
import { formatControllerIdentity } from '../../src/model/identity.ts'
import { destinationRule, parse } from '../compiler/builders.ts'

const HOST = 'weft-controller.weft-system.svc'

interface Answer {
  readonly status: number
  readonly body: string
}

describe('the webhook server', () => {
  let directory: string
  let authority: CertificateAuthority
  let port = 0
  let analyse: (found: readonly MeshObject[]) => CandidateFindings = () => ({ own: [], others: [] })
  let look: ((candidate: MeshObject) => Promise<readonly MeshObject[]>) | undefined
  let server: WebhookServer | null = null
  const judged: string[] = []

  before(async () => {
    directory = await mkdtemp(join(tmpdir(), 'weft-webhook-'))
    const settings = { stateDirectory: directory, given: null, trustDomain: 'cluster.local' }
    authority = await CertificateAuthority.open(settings, silentLog)
  })
  after(() => rm(directory, { recursive: true }))
  afterEach(async () => {
    analyse = () => ({ own: [], others: [] })
    look = undefined
    judged.length = 0
    await server?.stop()
    server = null
  })

  function credential(name = HOST): ServingCredential {
    const issued = authority.issue(formatControllerIdentity('cluster.local'), 60_000, [name])
    return { certificateChain: issued.chain, key: issued.keyPem() }
  }

  async function start(): Promise<WebhookServer> {
    server = new WebhookServer({
      credential: credential(),
      analyse: function* (_, found) {
        yield
        return analyse(found)
      },
      ...(look === undefined ? {} : { look }),
      onJudged: ({ plural }, reason) => judged.push(`${plural} ${reason}`),
      log: silentLog,
      nowMs: () => 0,
    })
    port = await server.listen({ address: '127.0.0.1', port: 0 })
    return server
  }

  /** Asks as an API server does: it knows the root, and the name of the service. */
  async function ask(body: string, fields: { path?: string; method?: string; headers?: object } = {}): Promise<Answer> {
    const { path = WEBHOOK_PATH, method = 'POST', headers = {} } = fields
    const request = httpsRequest({
      host: '127.0.0.1',
      port,
      path,
      method,
      servername: HOST,
      ca: authority.bundle,
      headers: { 'content-type': 'application/json', ...headers },
      agent: false,
    })
    request.on('error', () => {})
    request.end(body)
    const [response] = (await once(request, 'response')) as [import('node:http').IncomingMessage]
    let text = ''
    for await (const chunk of response.setEncoding('utf8')) text += chunk
    return { status: response.statusCode!, body: text }
  }

  const REVIEW = JSON.stringify({
    apiVersion: 'admission.k8s.io/v1',
    kind: 'AdmissionReview',
    request: {
      uid: 'u-1',
      operation: 'CREATE',
      namespace: 'shop',
      object: { apiVersion: 'networking.istio.io/v1', kind: 'DestinationRule', metadata: { name: 'a' }, spec: {} },
    },
  })

  test('looks once for what is missing, and judges again with what it found', async () => {
    const missing = { severity: 'warning', code: 'IST0101', text: 'There is no host.', fix: '' } as const
    const problem = { ...missing, object: 'a', field: 'spec', position: null }
    const candidate = parse(destinationRule('a', {}))
    let looks = 0
    analyse = (found) => ({ own: found.length === 0 ? [problem] : [], others: [] })
    look = async ({ kind, name }) => {
      looks++
      return looks === 1 && kind === 'DestinationRule' && name === 'a' ? [candidate] : []
    }
    await start()
    assert.deepEqual((JSON.parse((await ask(REVIEW)).body) as { response: unknown }).response, {
      uid: 'u-1',
      allowed: true,
    })
    assert.equal(looks, 1)
    // Other warnings are no reason to look.
    analyse = () => ({ own: [{ ...problem, code: 'IST0173' }], others: [] })
    assert.match((await ask(REVIEW)).body, /IST0173/)
    assert.equal(looks, 1)
    // What is missing stays a warning.
    analyse = () => ({ own: [problem], others: [] })
    assert.match((await ask(REVIEW)).body, /"warnings":\["spec: There is no host. \(IST0101\)"\]/)
    assert.equal(looks, 2)
  })

  test('answers a review to who knows the root and the name of the service', async () => {
    const webhook = await start()
    const { status, body } = await ask(REVIEW)
    assert.equal(status, 200)
    assert.deepEqual((JSON.parse(body) as { response: unknown }).response, { uid: 'u-1', allowed: true })
    assert.equal(webhook.status().allowed, 1)
    const problem = { code: 'X1', severity: 'error', text: 't', fix: '', field: 'spec', position: null } as const
    analyse = () => ({ own: [{ ...problem, object: 'a' }], others: [] })
    assert.equal((await ask(REVIEW)).status, 200)
    assert.equal(webhook.status().refused, 1)
    assert.deepEqual(judged, ['destinationrules null', 'destinationrules X1'])
  })

  test('shows a new certificate as soon as it has one', async () => {
    const webhook = await start()
    const shown = async (): Promise<string> => {
      const socket = tlsConnect({ host: '127.0.0.1', port, servername: HOST, ca: authority.bundle })
      await once(socket, 'secureConnect')
      const { subjectaltname } = socket.getPeerCertificate()
      socket.destroy()
      return subjectaltname ?? ''
    }
    assert.match(await shown(), /DNS:weft-controller\.weft-system\.svc$/)
    const renewed = authority.issue(formatControllerIdentity('cluster.local'), 60_000, [HOST, 'renewed.example'])
    webhook.replaceCredential({ certificateChain: renewed.chain, key: renewed.keyPem() })
    assert.match(await shown(), /DNS:renewed\.example/)
  })

  for (const [what, body, fields, status] of [
    ['another path', REVIEW, { path: '/' }, 404],
    ['another method', '', { method: 'GET' }, 405],
    ['what is not JSON', '{', {}, 400],
    ['what is no review', '{}', {}, 400],
    ['a body that says it is too large', '', { headers: { 'content-length': REVIEW_BYTES_MAX + 1 } }, 413],
    [
      'a body that is too large',
      ' '.repeat(REVIEW_BYTES_MAX + 1),
      { headers: { 'transfer-encoding': 'chunked' } },
      413,
    ],
  ] as const) {
    test(`answers ${what} with ${status}, and goes on`, async () => {
      const webhook = await start()
      assert.equal((await ask(body, fields)).status, status)
      assert.equal(webhook.status().rejected, 1)
      assert.equal((await ask(REVIEW)).status, 200)
    })
  }

  test('that cannot judge an object says so, and goes on', async () => {
    const webhook = await start()
    analyse = () => {
      throw new Error('out of words')
    }
    assert.equal((await ask(REVIEW)).status, 500)
    assert.equal(webhook.status().failed, 1)
    analyse = () => ({ own: [], others: [] })
    assert.equal((await ask(REVIEW)).status, 200)
  })

  test('lets so many reviews wait and no more', async () => {
    await start()
    const requests = Array.from({ length: REVIEWS_WAITING_MAX }, () => {
      const options = { host: '127.0.0.1', port, path: WEBHOOK_PATH, method: 'POST', servername: HOST }
      const request = httpsRequest({ ...options, ca: authority.bundle, agent: false })
      request.on('error', () => {})
      // The end of the body does not come.
      request.setHeader('content-length', REVIEW.length)
      request.write(REVIEW.slice(1))
      return request
    })
    let answer = await ask(REVIEW)
    while (answer.status === 200) answer = await ask(REVIEW)
    assert.equal(answer.status, 503)
    for (const request of requests) request.destroy()
    while (answer.status === 503) answer = await ask(REVIEW)
    assert.equal(answer.status, 200)
  })

  test('is not troubled by who speaks no TLS', async () => {
    const webhook = await start()
    const socket = connect(port, '127.0.0.1')
    socket.on('error', () => {})
    socket.end('GET / HTTP/1.1\r\n\r\n')
    await once(socket.resume(), 'close')
    assert.equal((await ask(REVIEW)).status, 200)
    assert.equal(webhook.status().rejected, 1)
  })

  test('stops with connections open', async () => {
    const webhook = await start()
    const socket = tlsConnect({ host: '127.0.0.1', port, servername: HOST, ca: authority.bundle })
    await once(socket, 'secureConnect')
    const closed = once(socket.resume(), 'close')
    await webhook.stop()
    await closed
  })

  test('that cannot listen says where', async () => {
    await start()
    function* silent(): Steps<CandidateFindings> {
      yield
      return { own: [], others: [] }
    }
    const second = new WebhookServer({ credential: credential(), analyse: silent, log: silentLog, nowMs: () => 0 })
    await assert.rejects(
      second.listen({ address: '127.0.0.1', port }),
      /cannot listen on 127\.0\.0\.1:\d+; see --webhook/,
    )
    await second.stop()
  })
})
