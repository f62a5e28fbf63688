import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { chmod, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { silentLog } from '../../src/base/log.ts'
import { CertificateAuthority } from '../../src/controller/authority.ts'
import { issueNodeCredential } from '../../src/controller/node-credential.ts'
import { formatIdentity } from '../../src/model/identity.ts'
import { readCredentialFiles } from '../../src/security/credential-files.ts'
import { TestAuthority } from '../support/certificates.ts'
import { temporaryDirectory } from '../support/control-plane.ts'

const WEB = formatIdentity('cluster.local', 'shop', 'web')
const HOUR_MS = 3_600_000

async function stateOf(t: TestContext): Promise<string> {
  return join(await temporaryDirectory(t), 'state')
}

function open(stateDirectory: string): Promise<CertificateAuthority> {
  return CertificateAuthority.open({ stateDirectory, given: null, trustDomain: 'cluster.local' }, silentLog)
}

/** Writes root certificates and a key as an operator would give them. */
async function give(t: TestContext, roots: string, authority: TestAuthority) {
  const directory = await temporaryDirectory(t)
  const given = { rootFile: join(directory, 'root.pem'), keyFile: join(directory, 'key.pem') }
  await writeFile(given.rootFile, roots)
  const key = authority.authority.key.export({ format: 'pem', type: 'pkcs8' }).toString()
  await writeFile(given.keyFile, key, { mode: 0o600 })
  return { stateDirectory: directory, given, trustDomain: 'cluster.local' }
}

test('the first start makes a root, later ones use it', async (t) => {
  const state = await stateOf(t)
  const first = await open(state)
  const second = await open(state)
  assert.equal(second.bundle, first.bundle)
  assert.ok(new X509Certificate(first.bundle).ca)
})

test('the key is readable by its owner only, in a private directory, and nothing else is left behind', async (t) => {
  const state = await stateOf(t)
  await open(state)
  const modeOf = async (path: string): Promise<number> => (await stat(join(state, path))).mode & 0o777
  assert.equal(await modeOf('.'), 0o700)
  assert.equal(await modeOf('ca'), 0o700)
  assert.equal(await modeOf('ca/key.pem'), 0o600)
  assert.deepEqual(await readdir(state), ['ca'])
  assert.deepEqual((await readdir(join(state, 'ca'))).sort(), ['key.pem', 'root.pem'])
})

test('two that start at once on an empty state end up with one root', async (t) => {
  const state = await stateOf(t)
  const [first, second, third] = await Promise.all([open(state), open(state), open(state)])
  assert.equal(first.bundle, second.bundle)
  assert.equal(second.bundle, third.bundle)
})

test('a key that others can read is refused', async (t) => {
  const state = await stateOf(t)
  await open(state)
  await chmod(join(state, 'ca', 'key.pem'), 0o640)
  await assert.rejects(open(state), /mode 0640: others could read it/)
})

test('a state without its root is an error, not a new root', async (t) => {
  const state = await stateOf(t)
  await mkdir(join(state, 'ca'), { recursive: true })
  await writeFile(join(state, 'ca', 'key.pem'), 'x', { mode: 0o600 })
  await assert.rejects(open(state), /root\.pem cannot be read/)
  assert.deepEqual(await readdir(join(state, 'ca')), ['key.pem'])
})

test('a given root signs, and nothing is generated', async (t) => {
  const given = new TestAuthority()
  const settings = await give(t, given.bundle, given)
  const authority = await CertificateAuthority.open(settings, silentLog)
  const { leaf } = authority.issue(WEB, HOUR_MS)
  assert.ok(leaf.x509.verify(given.authority.certificate.publicKey))
  assert.deepEqual((await readdir(settings.stateDirectory)).sort(), ['key.pem', 'root.pem'])
})

test('a key that does not belong to the first certificate is refused', async (t) => {
  const settings = await give(t, new TestAuthority().bundle, new TestAuthority())
  await assert.rejects(CertificateAuthority.open(settings, silentLog), /does not belong to its certificate/)
})

test('a given file that is missing is named', async (t) => {
  const settings = await give(t, '', new TestAuthority())
  const given = { ...settings.given, rootFile: '/nowhere/root.pem' }
  await assert.rejects(
    CertificateAuthority.open({ ...settings, given }, silentLog),
    /\/nowhere\/root\.pem cannot be read/,
  )
})

test('during a rotation both roots are trusted and the first one signs', async (t) => {
  const [old, young] = [new TestAuthority(), new TestAuthority()]
  const settings = await give(t, young.bundle + old.bundle, young)
  const authority = await CertificateAuthority.open(settings, silentLog)
  const credential = authority.issue(WEB, HOUR_MS)
  assert.ok(credential.leaf.x509.verify(young.authority.certificate.publicKey))
  assert.equal(credential.bundle, young.bundle + old.bundle)
})

test('the credential of a node: three files, the key private, for that node only', async (t) => {
  const stateDirectory = await stateOf(t)
  const outDirectory = join(await temporaryDirectory(t), 'node1')
  const order = { stateDirectory, given: null, trustDomain: 'cluster.local', node: 'node1', outDirectory }
  const files = await issueNodeCredential(order, silentLog)
  assert.equal(files.identity, 'spiffe://cluster.local/node/node1')
  assert.equal((await stat(files.keyFile)).mode & 0o777, 0o600)
  assert.equal((await stat(outDirectory)).mode & 0o777, 0o700)
  const texts = await readCredentialFiles(outDirectory)
  assert.equal(new X509Certificate(texts.certificateChain).subjectAltName, 'URI:spiffe://cluster.local/node/node1')
  assert.equal(texts.bundle, (await open(stateDirectory)).bundle)
  assert.doesNotMatch(await readFile(files.certificateFile, 'utf8'), /PRIVATE/)
})

for (const node of ['', 'a/b', 'a b', '../x', 'ü']) {
  test(`${JSON.stringify(node)} is refused as the name of a node`, async (t) => {
    const stateDirectory = await stateOf(t)
    const order = {
      stateDirectory,
      given: null,
      trustDomain: 'cluster.local',
      node,
      outDirectory: join(stateDirectory, 'out'),
    }
    await assert.rejects(issueNodeCredential(order, silentLog), /cannot be the name of a node/)
  })
}
