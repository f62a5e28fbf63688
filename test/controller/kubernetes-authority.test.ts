/** The root in Secrets: who makes it, who may replace it, and what happens when the API server says no. */
import assert from 'node:assert/strict'
import { after, afterEach, before, beforeEach, test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { type Clock, systemClock } from '../../src/base/clock.ts'
import { Logger } from '../../src/base/log.ts'
import type { CertificateAuthority } from '../../src/controller/authority.ts'
import { KubernetesAuthority } from '../../src/controller/kubernetes-authority.ts'
import { SECRETS } from '../../src/controller/secret-watch.ts'
import { KubernetesApi } from '../../src/kubernetes/api.ts'
import { formatIdentity } from '../../src/model/identity.ts'
import { Events } from '../support/control-plane.ts'
import { answerStatus, FakeApiServer, type SeenRequest } from '../support/fake-api-server.ts'
import { FakeClock } from '../support/fake-clock.ts'
import { type IstioRoot, makeIstioRoot } from '../support/istio-root.ts'
import { Openssl } from '../support/openssl.ts'

const NAMESPACE = 'weft-system'
const WEB = formatIdentity('cluster.local', 'shop', 'web')
const HOUR_MS = 3_600_000
const LEAF_MS = 10 * 60_000
const ANNOUNCE_MS = 5 * 60_000

let server: FakeApiServer
let clock: FakeClock
const replicas: Replica[] = []
const openssl = new Openssl()
let corporate: IstioRoot
let other: IstioRoot

/** One replica of the controller, as far as it is the authority. */
class Replica {
  readonly bundles = new Events<string>()
  readonly lines = new Events<string>()
  readonly keeper: KubernetesAuthority
  readonly opened: Promise<CertificateAuthority>
  private readonly api: KubernetesApi

  constructor(api: KubernetesApi, isLeading: boolean, watchClock: Clock) {
    this.api = api
    this.keeper = new KubernetesAuthority({
      api,
      namespace: NAMESPACE,
      trustDomain: 'cluster.local',
      leafLifetimeMs: LEAF_MS,
      clock,
      watchClock,
      log: new Logger('authority', 'info', (line) => this.lines.push(line)),
      onBundle: (bundle) => this.bundles.push(bundle),
      random: () => 1,
    })
    this.keeper.setLeading(isLeading)
    this.opened = this.keeper.start()
    replicas.push(this)
  }

  static async start(isLeading: boolean, watchClock: Clock = systemClock): Promise<Replica> {
    return new Replica(await KubernetesApi.open({ kubeconfig: server.kubeconfig }), isLeading, watchClock)
  }

  async end(): Promise<void> {
    await this.keeper.stop()
    this.api.close()
  }
}

before(() => {
  corporate = makeIstioRoot(openssl, 'corporate')
  other = makeIstioRoot(openssl, 'other')
})

after(() => openssl.remove())

beforeEach(async () => {
  clock = new FakeClock(Date.now())
  server = await FakeApiServer.start()
  server.addType(SECRETS, 'Secret')
})

afterEach(async () => {
  server.answer = null
  for (const replica of replicas.splice(0)) await replica.end()
  await server.stop()
})

function putSecret(name: string, texts: Readonly<Record<string, string>>, annotations = {}): void {
  const data = Object.fromEntries(
    Object.entries(texts).map(([key, text]) => [key, Buffer.from(text).toString('base64')]),
  )
  const metadata = { name, namespace: NAMESPACE, annotations }
  server.put(SECRETS, { metadata, data })
}

function plug(root: IstioRoot, annotations = {}): void {
  putSecret('cacerts', { ...root }, annotations)
}

function textOf(name: string, key: string): string | null {
  const data = server.stored(SECRETS, NAMESPACE, name)?.['data'] as Record<string, string> | undefined
  return data?.[key] === undefined ? null : Buffer.from(data[key], 'base64').toString()
}

function isCreate({ method }: SeenRequest): boolean {
  return method === 'POST'
}

/** Resolves when the record of roots is written that `test` wants. */
async function recorded(test: (roots: { pem: string; untilMs: number | null }[]) => boolean): Promise<void> {
  for (;;) {
    const text = textOf('weft-ca-roots', 'roots.json')
    if (text !== null && test(JSON.parse(text).roots)) return
    await new Promise(setImmediate)
  }
}

/** PEM without what openssl leaves around it. */
function plain(pem: string): string {
  return `${pem.trim()}\n`
}

test('the leader makes a root, and every replica uses the one in the Secret', async () => {
  const [follower, leader] = [await Replica.start(false), await Replica.start(true)]
  const [a, b] = await Promise.all([follower.opened, leader.opened])
  assert.equal(a.bundle, b.bundle)
  assert.equal(textOf('weft-ca', 'ca.crt'), a.bundle)
  assert.equal(server.stored(SECRETS, NAMESPACE, 'weft-ca')?.['type'], 'kubernetes.io/tls')
  assert.ok(a.issue(WEB, HOUR_MS).leaf.x509.verify(b.issue(WEB, HOUR_MS).leaf.publicKey) === false)
  assert.equal(b.issue(WEB, HOUR_MS).bundle, a.bundle)
  assert.deepEqual(await leader.bundles.next(), a.bundle)
})

test('two that both believe they lead end up with one root', async () => {
  const all = await Promise.all([Replica.start(true), Replica.start(true), Replica.start(true)])
  const bundles = new Set((await Promise.all(all.map(({ opened }) => opened))).map(({ bundle }) => bundle))
  assert.equal(bundles.size, 1)
})

test('a new leader uses the root that there is', async () => {
  const first = await Replica.start(true)
  const { bundle } = await first.opened
  await recorded((roots) => roots.length === 1)
  await first.end()
  const second = await Replica.start(true)
  assert.equal((await second.opened).bundle, bundle)
  assert.equal(server.requests.filter(isCreate).length, 2)
})

test('a follower makes nothing', async () => {
  const follower = await Replica.start(false)
  assert.match(await follower.lines.next(), /waiting for the leader to make a root/)
  assert.equal(server.requests.some(isCreate), false)
  follower.keeper.setLeading(true)
  await follower.opened
})

for (const [what, status, reason] of [
  ['is forbidden to read', 403, 'Forbidden'],
  ['cannot be asked for', 500, 'InternalError'],
] as const) {
  for (const name of ['cacerts', 'weft-ca', 'weft-ca-roots']) {
    test(`no root is made while the Secret ${name} ${what}`, async () => {
      server.answer = (request, response) => {
        if (request.method !== 'GET' || request.query.get('fieldSelector') !== `metadata.name=${name}`) return false
        answerStatus(response, status, reason, `secrets "${name}" no`)
        return true
      }
      const leader = await Replica.start(true, clock)
      const line = await leader.lines.until((one) => one.includes('waiting for Secret'))
      assert.match(line, new RegExp(`waiting for Secret ${name}: .*secrets .*no`))
      assert.match(leader.keeper.status().problem, new RegExp(name))
      assert.equal(server.requests.some(isCreate), false)
      server.answer = null
      const isOpen = leader.opened.then(() => true)
      // Requests are real, and waits between them are not.
      while (!(await Promise.race([isOpen, delay(20, false)]))) clock.advance(15_000)
    })
  }
}

test('a replica that can see the Secrets no more does not make a root when it becomes the leader', async () => {
  const replica = await Replica.start(false)
  await replica.lines.until((line) => line.includes('waiting for the leader'))
  while (server.watchCount(SECRETS) < 3) await new Promise(setImmediate)
  // Another leader may have made one meanwhile.
  server.answer = (request, response) => {
    if (request.method !== 'GET') return false
    answerStatus(response, 403, 'Forbidden', 'secrets is forbidden')
    return true
  }
  const names = ['cacerts', 'weft-ca', 'weft-ca-roots']
  const refused = names.map((name) =>
    server.next(({ query }) => query.get('fieldSelector') === `metadata.name=${name}`),
  )
  server.endWatches(SECRETS, 'end')
  await Promise.all(refused)
  // Nothing tells when a refusal has been read, nor that nothing is sent.
  await delay(50)
  replica.keeper.setLeading(true)
  await delay(50)
  assert.equal(server.requests.some(isCreate), false)
})

test('a root whose Secret cannot be written is never used; it is tried again', async () => {
  server.answer = (request, response) => {
    if (request.method !== 'POST') return false
    answerStatus(response, 507, 'InsufficientStorage', 'etcdserver: mvcc: database space exceeded')
    return true
  }
  const leader = await Replica.start(true)
  const line = await leader.lines.until((one) => one.includes('cannot be made'))
  assert.match(line, /Secret weft-system\/weft-ca cannot be made: .*database space exceeded/)
  assert.equal(leader.keeper.status().secret, null)
  assert.equal(leader.bundles.count, 0)
  server.answer = null
  while (clock.nextDelayMs === null) await new Promise(setImmediate)
  clock.advance(60_000)
  const { bundle } = await leader.opened
  assert.equal(textOf('weft-ca', 'ca.crt'), bundle)
})

test('a plugged-in root is preferred: its intermediate signs, its root is trusted', async () => {
  plug(corporate)
  const replica = await Replica.start(true)
  const authority = await replica.opened
  assert.equal(authority.bundle, plain(corporate['root-cert.pem']))
  const { chain } = authority.issue(WEB, HOUR_MS)
  const [leaf, intermediate] = [openssl.file('leaf.pem', chain), openssl.file('ca.pem', corporate['ca-cert.pem'])]
  const root = openssl.file('root.pem', corporate['root-cert.pem'])
  assert.match(openssl.run('verify', '-x509_strict', '-CAfile', root, '-untrusted', intermediate, leaf), /OK/)
  assert.equal(chain.match(/BEGIN/g)?.length, 2, 'leaf and intermediate, no root')
  assert.equal(textOf('weft-ca', 'tls.key'), null)
  assert.equal(replica.keeper.status().secret, 'cacerts')
})

test('a root that is plugged in later takes over without a restart: trusted first, signing then, the old one kept', async () => {
  const replica = await Replica.start(true)
  const authority = await replica.opened
  const own = await replica.bundles.next()
  plug(corporate)
  const root = plain(corporate['root-cert.pem'])
  assert.equal(await replica.bundles.next(), own + root)
  assert.equal(authority.bundle, own + root)
  assert.equal(authority.issue(WEB, HOUR_MS).chain.match(/BEGIN/g)?.length, 1, 'the old root signs')
  clock.advance(ANNOUNCE_MS)
  assert.equal(await replica.bundles.next(), root + own)
  assert.equal(authority.issue(WEB, HOUR_MS).chain.match(/BEGIN/g)?.length, 2, 'the intermediate signs')
  await recorded((roots) => roots.some(({ pem, untilMs }) => pem === own && untilMs !== null))
  clock.advance(LEAF_MS + ANNOUNCE_MS)
  assert.equal(await replica.bundles.next(), root)
  assert.equal(authority.bundle, root)
})

test('a replica that starts during the overlap trusts the old root too', async () => {
  const leader = await Replica.start(true)
  const own = (await leader.opened).bundle
  await recorded((roots) => roots.length === 1)
  plug(corporate)
  await leader.bundles.until((bundle) => bundle !== own)
  clock.advance(ANNOUNCE_MS)
  await recorded((roots) => roots.some(({ untilMs }) => untilMs !== null))
  const late = await Replica.start(false)
  assert.equal((await late.opened).bundle, plain(corporate['root-cert.pem']) + own)
})

const BROKEN: readonly [string, (good: IstioRoot) => Partial<Record<keyof IstioRoot, string>>, RegExp][] = [
  ['without a key', (good) => ({ ...good, 'ca-key.pem': '' }), /it has no ca-key\.pem/],
  [
    'without a root',
    (good) => ({ 'ca-cert.pem': good['ca-cert.pem'], 'ca-key.pem': good['ca-key.pem'] }),
    /no root-cert/,
  ],
  [
    'with a foreign key',
    (good) => ({ ...good, 'ca-key.pem': corporate['ca-key.pem'] }),
    /does not belong to its certificate/,
  ],
  [
    'with a foreign root',
    (good) => ({ ...good, 'root-cert.pem': corporate['root-cert.pem'], 'cert-chain.pem': '' }),
    /no trusted authority/,
  ],
  ['with garbage', (good) => ({ ...good, 'ca-cert.pem': 'garbage', 'cert-chain.pem': '' }), /no PEM certificate/],
]

for (const [what, spoil, pattern] of BROKEN) {
  test(`a plugged-in root ${what} is refused by name; the last good one stays, and signs on`, async () => {
    const replica = await Replica.start(true)
    const authority = await replica.opened
    const own = authority.bundle
    putSecret('cacerts', spoil(other) as Record<string, string>)
    const line = await replica.lines.until((one) => one.includes('not usable'))
    assert.match(line, /Secret weft-system\/cacerts is not usable, the last good root stays/)
    assert.match(line, pattern)
    assert.equal(authority.bundle, own)
    authority.issue(WEB, HOUR_MS)
    assert.match(replica.keeper.status().problem, pattern)
    plug(other)
    await replica.bundles.until((bundle) => bundle === own + plain(other['root-cert.pem']))
    assert.equal(replica.keeper.status().problem, '')
  })
}

test('with a broken plugged-in root and none before, it waits and makes none of its own', async () => {
  putSecret('cacerts', { 'ca-cert.pem': 'garbage', 'ca-key.pem': 'x', 'root-cert.pem': 'y' })
  const replica = await Replica.start(true)
  assert.match(await replica.lines.next(), /cacerts is not usable, there is no root until it is put right/)
  assert.equal(server.requests.some(isCreate), false)
  plug(corporate)
  assert.equal((await replica.opened).bundle, plain(corporate['root-cert.pem']))
})

test('a stolen root is replaced at once, and trusted no more', async () => {
  const replica = await Replica.start(true)
  const authority = await replica.opened
  await replica.bundles.next()
  plug(corporate, { 'weft.dev/root-overlap': 'none' })
  assert.equal(await replica.bundles.next(), plain(corporate['root-cert.pem']))
  assert.equal(authority.issue(WEB, HOUR_MS).chain.match(/BEGIN/g)?.length, 2)
})

test('our own root is put back, with its key, when its Secret is deleted', async () => {
  const replica = await Replica.start(true)
  const { bundle } = await replica.opened
  const key = textOf('weft-ca', 'tls.key')
  server.remove(SECRETS, NAMESPACE, 'weft-ca')
  await replica.lines.until((line) => line.includes('is put back'))
  assert.deepEqual([textOf('weft-ca', 'ca.crt'), textOf('weft-ca', 'tls.key')], [bundle, key])
  assert.equal((await replica.opened).bundle, bundle)
})

test('a plugged-in root that is taken away is followed by our own, with the same overlap', async () => {
  plug(corporate)
  const replica = await Replica.start(true)
  const root = (await replica.opened).bundle
  await replica.bundles.next()
  server.remove(SECRETS, NAMESPACE, 'cacerts')
  const both = await replica.bundles.next()
  assert.equal(both, root + textOf('weft-ca', 'ca.crt'))
})

test('while the API server is away the root signs on', async () => {
  const replica = await Replica.start(true)
  const authority = await replica.opened
  await server.goAway()
  authority.issue(WEB, HOUR_MS)
  await server.listenAgain()
})
