import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { chmod, readFile, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { Certificates, type CertificatesOptions } from '../../src/agent/certificates.ts'
import { NodeCredentialFiles } from '../../src/agent/node-credential.ts'
import { describeError } from '../../src/base/errors.ts'
import { silentLog } from '../../src/base/log.ts'
import { formatIdentity, formatNodeIdentity } from '../../src/model/identity.ts'
import { writeCredentialFiles } from '../../src/security/credential-files.ts'
import { issueFromRequest } from '../../src/security/issue.ts'
import type { TlsMaterial } from '../../src/transport/conn.ts'
import { TestAuthority } from '../support/certificates.ts'
import { Events, temporaryDirectory } from '../support/control-plane.ts'
import { FakeClock } from '../support/fake-clock.ts'

const WEB = formatIdentity('cluster.local', 'shop', 'web')
const API = formatIdentity('cluster.local', 'shop', 'api')
const NODE = formatNodeIdentity('cluster.local', 'node1')
const MINUTE_MS = 60_000

/** A holder of certificates whose authority is at hand: answers, or fails, as a test says. */
class Setting {
  readonly clock = new FakeClock()
  readonly authority = new TestAuthority('cluster.local', this.clock.now())
  readonly directory: string
  readonly material = new Events<TlsMaterial>()
  readonly nodeCredentials = new Events<boolean>()
  readonly removed: string[] = []
  readonly requests: string[] = []
  /** Requests under way at most, ever. */
  concurrencyMax = 0
  lifetimeMs = MINUTE_MS
  /** Thrown instead of an answer; null answers. */
  failure: Error | null = null
  bundle = this.authority.bundle
  private concurrency = 0

  constructor(directory: string) {
    this.directory = directory
  }

  async writeNodeCredential(identity = NODE, lifetimeMs = 10 * MINUTE_MS): Promise<void> {
    const leaf = this.authority.leafFor(identity, { lifetimeMs, nowMs: this.clock.now() })
    await writeCredentialFiles(this.directory, leaf)
  }

  async open(options: Partial<CertificatesOptions> = {}): Promise<Certificates> {
    return Certificates.open({
      nodeCredential: new NodeCredentialFiles(this.directory),
      requestCertificate: (csr, identity) => this.answer(csr, identity),
      validitySeconds: 0,
      clock: this.clock,
      log: silentLog,
      random: () => 1,
      onMaterial: (material) => this.material.push(material),
      onRemoved: (identity) => this.removed.push(identity),
      onNodeCredential: () => this.nodeCredentials.push(true),
      ...options,
    })
  }

  private async answer(csr: string, identity: string): Promise<readonly string[]> {
    this.requests.push(identity)
    this.concurrency++
    this.concurrencyMax = Math.max(this.concurrencyMax, this.concurrency)
    await new Promise(setImmediate)
    this.concurrency--
    if (this.failure !== null) throw this.failure
    return [issueFromRequest(this.authority.authority, csr, identity, this.lifetimeMs, this.clock.now()), this.bundle]
  }
}

async function setUp(t: TestContext): Promise<Setting> {
  const setting = new Setting(join(await temporaryDirectory(t), 'credential'))
  await setting.writeNodeCredential()
  return setting
}

/** Lets everything that is already under way settle. */
async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise(setImmediate)
}

test('each identity of the pods gets a key and a certificate of its own', async (t) => {
  const setting = await setUp(t)
  const certificates = await setting.open()
  certificates.setIdentities(new Set([WEB, API]))
  const both = [await setting.material.next(), await setting.material.next()]
  assert.deepEqual(both.map((material) => material.identity).sort(), [API, WEB])
  assert.notEqual(both[0]!.key, both[1]!.key)
  for (const material of both) {
    const leaf = new X509Certificate(material.certificateChain)
    assert.equal(leaf.subjectAltName, `URI:${material.identity}`)
    assert.equal(material.bundle, setting.bundle)
    assert.equal(material.trustDomain, 'cluster.local')
  }
  assert.deepEqual(certificates.materialOf(WEB)?.identity, WEB)
})

test('an identity that stays is not requested again; one that goes is forgotten and its renewal with it', async (t) => {
  const setting = await setUp(t)
  const certificates = await setting.open()
  certificates.setIdentities(new Set([WEB, API]))
  await setting.material.next()
  await setting.material.next()
  certificates.setIdentities(new Set([WEB]))
  assert.deepEqual(setting.removed, [API])
  assert.equal(certificates.materialOf(API), null)
  assert.equal(setting.requests.length, 2)
  setting.clock.advance(MINUTE_MS / 2)
  await setting.material.next()
  assert.deepEqual(setting.requests.slice(2), [WEB])
})

test('an answer for an identity that is gone meanwhile is dropped', async (t) => {
  const setting = await setUp(t)
  const certificates = await setting.open()
  certificates.setIdentities(new Set([WEB]))
  certificates.setIdentities(new Set())
  await settle()
  assert.equal(setting.material.count, 0)
  assert.equal(setting.clock.pending, 0)
})

test('a certificate of 60 seconds is renewed after 30, with a new key', async (t) => {
  const setting = await setUp(t)
  const certificates = await setting.open()
  certificates.setIdentities(new Set([WEB]))
  const first = await setting.material.next()
  assert.equal(setting.clock.nextDelayMs, 30_000)
  setting.clock.advance(29_999)
  assert.equal(setting.requests.length, 1)
  setting.clock.advance(1)
  const second = await setting.material.next()
  assert.notEqual(second.key, first.key)
  assert.notEqual(second.certificateChain, first.certificateChain)
  assert.equal(certificates.status().at(-1)?.notAfterMs, setting.clock.now() + MINUTE_MS)
})

test('a failed renewal is tried again with back-off several times before the certificate expires', async (t) => {
  const setting = await setUp(t)
  const certificates = await setting.open()
  certificates.setIdentities(new Set([WEB]))
  await setting.material.next()
  setting.failure = new Error('the controller is away')
  const delays: (number | null)[] = []
  setting.clock.advance(30_000)
  for (let i = 0; i < 4; i++) {
    await settle()
    delays.push(setting.clock.nextDelayMs)
    assert.match(certificates.status().at(-1)!.lastError!, /the controller is away/)
    assert.notEqual(certificates.materialOf(WEB), null)
    setting.clock.advance(setting.clock.nextDelayMs!)
  }
  assert.deepEqual(delays, [500, 1000, 2000, 4000])
  await settle()
  setting.failure = null
  setting.clock.advance(setting.clock.nextDelayMs!)
  await setting.material.next()
  assert.equal(certificates.status().at(-1)!.lastError, null)
  // Certificates count in whole seconds.
  assert.ok(setting.clock.nextDelayMs! > 29_000)
})

test('an answer that is for another identity, another key or another root is not used', async (t) => {
  const setting = await setUp(t)
  const stranger = new TestAuthority('cluster.local', setting.clock.now())
  const answers: readonly [() => readonly string[], RegExp][] = [
    [
      () => [setting.authority.leafFor(API, { nowMs: setting.clock.now() }).certificateChain, setting.bundle],
      /names .*api/,
    ],
    [
      () => [setting.authority.leafFor(WEB, { nowMs: setting.clock.now() }).certificateChain, setting.bundle],
      /another key/,
    ],
    [() => [], /no PEM certificate/],
  ]
  for (const [answer, pattern] of answers) {
    const certificates = await setting.open({ requestCertificate: async () => answer() })
    certificates.setIdentities(new Set([WEB]))
    await settle()
    assert.match(certificates.status().at(-1)!.lastError!, pattern)
    assert.equal(certificates.materialOf(WEB), null)
    certificates.stop()
  }
  setting.bundle = stranger.bundle
  const certificates = await setting.open()
  certificates.setIdentities(new Set([WEB]))
  await settle()
  assert.match(certificates.status().at(-1)!.lastError!, /no trusted authority issued/)
  assert.equal(setting.material.count, 0)
})

test('a bundle with an old and a new root is handed out whole', async (t) => {
  const setting = await setUp(t)
  setting.bundle += new TestAuthority('cluster.local', setting.clock.now()).bundle
  const certificates = await setting.open()
  certificates.setIdentities(new Set([WEB]))
  const { bundle } = await setting.material.next()
  assert.equal(bundle.match(/BEGIN CERTIFICATE/g)?.length, 2)
})

test('a node with many identities asks for a few at a time', async (t) => {
  const setting = await setUp(t)
  const certificates = await setting.open()
  const identities = Array.from({ length: 30 }, (_, i) => formatIdentity('cluster.local', 'shop', `app-${i}`))
  certificates.setIdentities(new Set(identities))
  for (const _ of identities) await setting.material.next()
  assert.equal(setting.requests.length, 30)
  assert.equal(setting.concurrencyMax, 8)
})

test('after stop nothing is requested and no answer counts', async (t) => {
  const setting = await setUp(t)
  const certificates = await setting.open()
  certificates.start()
  certificates.setIdentities(new Set([WEB]))
  certificates.stop()
  await settle()
  assert.equal(setting.material.count, 0)
  assert.equal(setting.clock.pending, 0)
})

// --- the node's own credential ---

test("the node's name and trust domain are those of its certificate", async (t) => {
  const setting = await setUp(t)
  const certificates = await setting.open()
  assert.equal(certificates.node, 'node1')
  assert.equal(certificates.trustDomain, 'cluster.local')
})

test("the node's own credential is renewed at half its time and written back, with the same key", async (t) => {
  const setting = await setUp(t)
  const certificates = await setting.open()
  const before = certificates.nodeCredential()
  certificates.start()
  assert.equal(setting.clock.nextDelayMs, 5 * MINUTE_MS)
  setting.bundle += new TestAuthority('cluster.local', setting.clock.now()).bundle
  setting.clock.advance(5 * MINUTE_MS)
  await setting.nodeCredentials.next()
  const after = certificates.nodeCredential()
  assert.notEqual(after, before)
  assert.notEqual(after.certificateChain, before.certificateChain)
  assert.equal(after.key, before.key)
  while ((await readFile(join(setting.directory, 'cert.pem'), 'utf8')) !== after.certificateChain) {
    await new Promise(setImmediate)
  }
  assert.equal(await readFile(join(setting.directory, 'root.pem'), 'utf8'), setting.bundle)
  const again = await setting.open()
  assert.deepEqual(again.nodeCredential(), after)
})

test('a renewed credential that cannot be written is used all the same, and status says so', async (t) => {
  const setting = await setUp(t)
  const certificates = await setting.open()
  certificates.start()
  await rm(setting.directory, { recursive: true })
  setting.clock.advance(5 * MINUTE_MS)
  await setting.nodeCredentials.next()
  while (certificates.status()[0]!.lastError === null) await new Promise(setImmediate)
  assert.match(certificates.status()[0]!.lastError!, /cannot be written/)
})

test('files of a credential: the key is readable by its owner only, the directory is private', async (t) => {
  const setting = await setUp(t)
  assert.equal((await stat(setting.directory)).mode & 0o777, 0o700)
  assert.equal((await stat(join(setting.directory, 'key.pem'))).mode & 0o777, 0o600)
})

const UNFIT: readonly [string, (setting: Setting) => Promise<void>, RegExp][] = [
  ['missing', (setting) => rm(join(setting.directory, 'cert.pem')), /cert\.pem cannot be read/],
  [
    'with a key that others can read',
    (setting) => chmod(join(setting.directory, 'key.pem'), 0o644),
    /mode 0644.*chmod/,
  ],
  ['of a workload', (setting) => setting.writeNodeCredential(WEB), /it is of .*web, not of a node/],
  [
    'that has expired',
    async (setting) => {
      setting.clock.advance(11 * MINUTE_MS)
    },
    /weft controller issue.*expired at/,
  ],
]

for (const [what, spoil, pattern] of UNFIT) {
  test(`a node credential ${what} is refused with what to do`, async (t) => {
    const setting = await setUp(t)
    await spoil(setting)
    await assert.rejects(setting.open(), (error) => {
      assert.match(describeError(error), pattern)
      return true
    })
  })
}

test('no status shows a key', async (t) => {
  const setting = await setUp(t)
  const certificates = await setting.open()
  certificates.setIdentities(new Set([WEB]))
  await setting.material.next()
  assert.doesNotMatch(JSON.stringify(certificates.status()), /KEY/)
})
