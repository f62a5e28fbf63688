/** The node's credential by token, over real gRPC; files as the kubelet mounts them. */
import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { mkdir, readdir, rename, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { Certificates } from '../../src/agent/certificates.ts'
import { NodeToken } from '../../src/agent/node-token.ts'
import { Logger } from '../../src/base/log.ts'
import { formatIdentity, formatNodeIdentity } from '../../src/model/identity.ts'
import { readCredentialFiles, writeCredentialFiles } from '../../src/security/credential-files.ts'
import { issueFromRequest } from '../../src/security/issue.ts'
import type { TlsMaterial } from '../../src/transport/conn.ts'
import { TestAuthority } from '../support/certificates.ts'
import { Events, TRUST_DOMAIN, temporaryDirectory } from '../support/control-plane.ts'
import { FakeClock } from '../support/fake-clock.ts'
import { TokenController } from '../support/token-controller.ts'

const NODE = formatNodeIdentity(TRUST_DOMAIN, 'node1')
const WEB = formatIdentity(TRUST_DOMAIN, 'shop', 'web')
const HOUR_MS = 3_600_000

class Setting {
  readonly clock = new FakeClock(Date.now())
  readonly lines = new Events<string>()
  readonly controller: TokenController
  readonly directory: string
  readonly mounts: string
  /** Tells roots as the API server would; null while nobody listens, or nobody may. */
  tell: ((pem: string) => void) | null = null
  isFollowing = false
  /** Ended before its directory is removed. */
  certificates: Certificates | null = null

  private constructor(controller: TokenController, directory: string) {
    this.controller = controller
    this.directory = join(directory, 'credential')
    this.mounts = join(directory, 'mounts')
  }

  static async make(t: TestContext, nodeLifetimeMs = HOUR_MS): Promise<Setting> {
    const clock: { now: () => number } = { now: Date.now }
    const controller = await TokenController.start(t, { nodeLifetimeMs, now: () => clock.now() })
    let setting: Setting | null = null
    t.after(() => setting?.certificates?.stop())
    setting = new Setting(controller, await temporaryDirectory(t))
    const { clock: own } = setting
    clock.now = () => own.now()
    controller.tokens.nodes.set('first', 'node1').set('second', 'node1')
    await mkdir(setting.mounts)
    return setting
  }

  async mountToken(token: string): Promise<void> {
    await this.mount('token', `${token}\n`)
  }

  async mountRoots(roots = this.controller.authority.bundle): Promise<void> {
    await this.mount('root-cert.pem', roots)
  }

  source(signal?: AbortSignal): NodeToken {
    return new NodeToken({
      ...(signal === undefined ? {} : { signal }),
      node: 'node1',
      trustDomain: TRUST_DOMAIN,
      controller: this.controller.address,
      tokenFile: join(this.mounts, 'token'),
      rootsFile: join(this.mounts, 'root-cert.pem'),
      followRoots: this.isFollowing ? (onRoots) => this.follow(onRoots) : null,
      directory: this.directory,
      clock: this.clock,
      log: new Logger('credential', 'info', (line) => this.lines.push(line)),
      random: () => 1,
    })
  }

  private follow(onRoots: (pem: string) => void): () => void {
    this.tell = onRoots
    return () => {
      this.tell = null
    }
  }

  /** The way the kubelet does it: all at once. */
  private async mount(name: string, text: string): Promise<void> {
    await writeFile(join(this.mounts, `.${name}`), text)
    await rename(join(this.mounts, `.${name}`), join(this.mounts, name))
  }
}

test('the first start gets a credential with the token and keeps it for its owner only', async (t) => {
  const setting = await Setting.make(t)
  await setting.mountToken('first')
  await setting.mountRoots()
  const texts = await setting.source().open()
  assert.equal(new X509Certificate(texts.certificateChain).subjectAltName, `URI:${NODE}`)
  assert.deepEqual(await readCredentialFiles(setting.directory), texts)
  assert.equal((await stat(setting.directory)).mode & 0o777, 0o700)
  assert.deepEqual((await readdir(setting.directory)).sort(), ['cert.pem', 'key.pem', 'root.pem'])
})

test('a kept credential is used again without asking anybody, with the roots that are mounted now', async (t) => {
  const setting = await Setting.make(t)
  await setting.mountToken('first')
  await setting.mountRoots()
  const first = await setting.source().open()
  const other = new TestAuthority().bundle
  await setting.mountRoots(setting.controller.authority.bundle + other)
  const second = await setting.source().open()
  assert.equal(second.certificateChain, first.certificateChain)
  assert.equal(second.bundle, setting.controller.authority.bundle + other)
  assert.deepEqual(setting.controller.tokens.reviewed, ['first'])
})

test('a kept credential that has expired, of another node or of other roots is replaced', async (t) => {
  const setting = await Setting.make(t)
  await setting.mountToken('first')
  await setting.mountRoots()
  const good = await setting.source().open()
  setting.clock.advance(HOUR_MS)
  assert.notEqual((await setting.source().open()).certificateChain, good.certificateChain)
  await writeCredentialFiles(setting.directory, {
    ...setting.controller.authority.issue(formatNodeIdentity(TRUST_DOMAIN, 'node2'), HOUR_MS).tlsMaterial(TRUST_DOMAIN),
  })
  assert.match(new X509Certificate((await setting.source().open()).certificateChain).subjectAltName ?? '', /node1$/)
  await writeCredentialFiles(setting.directory, new TestAuthority().leafFor(NODE))
  assert.match(new X509Certificate((await setting.source().open()).certificateChain).subjectAltName ?? '', /node1$/)
  assert.equal(setting.controller.tokens.reviewed.length, 4)
})

test('it waits for roots, for a token, and for a controller that takes it, and says what is missing', async (t) => {
  const setting = await Setting.make(t)
  const opening = setting.source().open()
  const saidNext = async (pattern: RegExp, remedy: () => Promise<void>): Promise<void> => {
    assert.match(await setting.lines.next(), pattern)
    await remedy()
    setting.clock.advance(15_000)
  }
  const other = new TestAuthority().bundle
  await saidNext(/token cannot be read; mount a projected ServiceAccount token/, () => setting.mountToken('stranger'))
  await saidNext(/root-cert\.pem cannot be read; the controller writes them/, () => setting.mountRoots(other))
  await saidNext(/UNAVAILABLE/, () => setting.mountRoots())
  await saidNext(/UNAUTHENTICATED: the token is nobody/, () => setting.mountToken('first'))
  assert.match((await opening).certificateChain, /BEGIN CERTIFICATE/)
})

test('a credential that cannot be kept is used all the same, and the log says what is wrong', async (t) => {
  const setting = await Setting.make(t)
  await setting.mountToken('first')
  await setting.mountRoots()
  await writeFile(setting.directory, 'in the way of the directory')
  const texts = await setting.source().open()
  assert.equal(new X509Certificate(texts.certificateChain).subjectAltName, `URI:${NODE}`)
  await setting.lines.until((line) => line.includes("the node's credential cannot be kept"))
})

test('a wait for the first credential ends when the agent is told to', async (t) => {
  const setting = await Setting.make(t)
  const abort = new AbortController()
  const opening = setting.source(abort.signal).open()
  await setting.lines.next()
  abort.abort(new Error('told to end'))
  await assert.rejects(opening, /told to end/)
  assert.equal(setting.clock.pending, 0)
})

/** The certificates of a node that has opened its credential, whose pods' are signed by `authority` at once. */
async function certificatesOf(setting: Setting) {
  const material = new Events<TlsMaterial>()
  const renewed = new Events<true>()
  const pods = new TestAuthority()
  const setup = { failure: null as Error | null, bundle: setting.controller.authority.bundle + pods.bundle }
  const certificates = await Certificates.open({
    nodeCredential: setting.source(),
    requestCertificate: async (csr, identity) => {
      if (setup.failure !== null) throw setup.failure
      return [issueFromRequest(pods.authority, csr, identity, HOUR_MS, setting.clock.now()), setup.bundle]
    },
    validitySeconds: 0,
    clock: setting.clock,
    log: new Logger('certificates', 'info', (line) => setting.lines.push(line)),
    random: () => 1,
    onMaterial: (one) => material.push(one),
    onRemoved: () => {},
    onNodeCredential: () => renewed.push(true),
  })
  setting.certificates = certificates
  return { certificates, material, renewed, pods, setup }
}

test('a node that cannot renew with its old certificate uses its token, as it is by then', async (t) => {
  const setting = await Setting.make(t)
  await setting.mountToken('first')
  await setting.mountRoots()
  const { certificates, renewed, setup } = await certificatesOf(setting)
  const before = certificates.nodeCredential()
  certificates.start()
  setup.failure = new Error('the API server has another root now')
  await setting.mountToken('second')
  setting.clock.advance(HOUR_MS / 2)
  await renewed.next()
  assert.deepEqual(setting.controller.tokens.reviewed, ['first', 'second'])
  assert.notEqual(certificates.nodeCredential().certificateChain, before.certificateChain)
  assert.equal(certificates.nodeCredential().key, before.key)
  const { certificateChain } = certificates.nodeCredential()
  // It is written while it is in use already.
  while ((await readCredentialFiles(setting.directory)).certificateChain !== certificateChain) {
    await new Promise(setImmediate)
  }
})

test('roots that change are followed: at once by what leads to them, by a new certificate for the rest', async (t) => {
  const setting = await Setting.make(t)
  await setting.mountToken('first')
  await setting.mountRoots()
  const { certificates, material, renewed, pods, setup } = await certificatesOf(setting)
  const own = setting.controller.authority.bundle
  certificates.start()
  certificates.setIdentities(new Set([WEB]))
  assert.equal((await material.next()).bundle, own + pods.bundle)
  const change = async (roots: string): Promise<void> => {
    await setting.mountRoots(roots)
    while (setting.clock.nextDelayMs !== 10_000) await new Promise(setImmediate)
    setting.clock.advance(10_000)
  }

  const young = new TestAuthority().bundle
  await change(own + pods.bundle + young)
  await renewed.next()
  const both = await material.next()
  assert.equal(both.bundle, own + pods.bundle + young)
  assert.equal(certificates.nodeCredential().bundle, own + pods.bundle + young)

  // The node's own certificate leads to the roots that are left, the pod's does not.
  setup.bundle = own + pods.bundle
  await change(own)
  await renewed.next()
  const anew = await material.next()
  assert.notEqual(anew.certificateChain, both.certificateChain)
  assert.deepEqual(setting.controller.tokens.reviewed, ['first'])
})

test('roots that cannot be read any more, or are none, change nothing', async (t) => {
  const setting = await Setting.make(t)
  await setting.mountToken('first')
  await setting.mountRoots()
  const { certificates, material } = await certificatesOf(setting)
  certificates.start()
  for (const breakThem of [() => setting.mountRoots('none'), () => rm(join(setting.mounts, 'root-cert.pem'))]) {
    while (setting.clock.nextDelayMs !== 10_000) await new Promise(setImmediate)
    await breakThem()
    setting.clock.advance(10_000)
    await setting.lines.until((line) => line.includes('those in use stay'))
  }
  assert.equal(certificates.nodeCredential().bundle, setting.controller.authority.bundle)
  assert.equal(material.count, 0)
})

test('roots that the API server tells end the wait for a first credential, without a file', async (t) => {
  const setting = await Setting.make(t)
  setting.isFollowing = true
  await setting.mountToken('first')
  const opening = setting.source().open()
  assert.match(await setting.lines.next(), /root-cert\.pem cannot be read/)
  while (setting.clock.pending === 0) await new Promise(setImmediate)
  setting.tell!('no roots')
  assert.match(await setting.lines.next(), /the roots that the API server tells are none, those in use stay/)
  setting.tell!(setting.controller.authority.bundle)
  assert.match((await opening).certificateChain, /BEGIN CERTIFICATE/)
  assert.equal(setting.clock.pending, 0)
  assert.equal(setting.tell, null, 'nobody listens who does not need to')
})

test('roots that come while others are being tried are tried at once', async (t) => {
  const setting = await Setting.make(t)
  setting.isFollowing = true
  await setting.mountToken('first')
  await setting.mountRoots(new TestAuthority().bundle)
  const opening = setting.source().open()
  // Its first request, by the old roots, is under way.
  while (setting.tell === null) await new Promise(setImmediate)
  setting.tell(setting.controller.authority.bundle)
  assert.match((await opening).certificateChain, /BEGIN CERTIFICATE/)
})

test('roots that the API server tells are followed at once, and older ones in the file change nothing any more', async (t) => {
  const setting = await Setting.make(t)
  setting.isFollowing = true
  await setting.mountToken('first')
  await setting.mountRoots()
  const { certificates, renewed } = await certificatesOf(setting)
  certificates.start()
  const own = setting.controller.authority.bundle
  const both = own + new TestAuthority().bundle
  setting.tell!(own)
  assert.equal(renewed.count, 0, 'they are those with which it was opened')
  setting.tell!(both)
  await renewed.next()
  assert.equal(certificates.nodeCredential().bundle, both)
  while (setting.clock.nextDelayMs === 10_000) {
    setting.clock.advance(10_000)
    await new Promise(setImmediate)
  }
  assert.equal(certificates.nodeCredential().bundle, both)
  assert.equal(renewed.count, 0)
  await certificates.stop()
  assert.equal(setting.tell, null)
})
