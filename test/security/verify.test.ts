/** Chains and credentials: what an agent accepts from its authority. */
import assert from 'node:assert/strict'
import { createPublicKey } from 'node:crypto'
import { describe, test } from 'node:test'
import { isMeshIdentity, parseCertificates } from '../../src/security/certificate.ts'
import { Credential } from '../../src/security/credential.ts'
import { createKey } from '../../src/security/csr.ts'
import { issueLeaf } from '../../src/security/issue.ts'
import { verifyChain } from '../../src/security/verify.ts'
import { TestAuthority } from '../support/certificates.ts'

const IDENTITY = 'spiffe://cluster.local/ns/shop/sa/cart'
const HOUR_MS = 3_600_000
const nowMs = Date.now()
const authority = new TestAuthority('cluster.local', nowMs)
const stranger = new TestAuthority('cluster.local', nowMs)

function issue(by = authority, identity = IDENTITY) {
  const key = createKey()
  const order = { identity, publicKey: createPublicKey(key), lifetimeMs: HOUR_MS, nowMs }
  return { key, chain: issueLeaf(by.authority, order) }
}

describe('a chain', () => {
  const leaf = parseCertificates(issue().chain, 'leaf')
  const bundle = parseCertificates(authority.bundle, 'bundle')

  test('is good when it leads to a root of the bundle, whichever', () => {
    assert.equal(verifyChain(leaf, bundle, nowMs), null)
    const both = parseCertificates(stranger.bundle + authority.bundle, 'bundle')
    assert.equal(verifyChain(leaf, both, nowMs), null)
  })

  test('is bad when nobody trusted signed it, though the names are the same', () => {
    assert.match(verifyChain(leaf, parseCertificates(stranger.bundle, 'b'), nowMs) ?? '', /no trusted authority/)
    assert.match(verifyChain([], bundle, nowMs) ?? '', /empty/)
  })

  test('is bad before and after its time', () => {
    assert.match(verifyChain(leaf, bundle, nowMs - 2 * HOUR_MS) ?? '', /valid only from/)
    assert.match(verifyChain(leaf, bundle, nowMs + 2 * HOUR_MS) ?? '', /expired at/)
  })

  test('is bad when an authority poses as a leaf, and when a leaf poses as an authority', () => {
    assert.match(verifyChain(bundle, bundle, nowMs) ?? '', /not a leaf/)
    const [holder] = parseCertificates(issue().chain, 'holder')
    assert.match(verifyChain(leaf, [holder!], nowMs) ?? '', /no trusted authority/)
  })
})

describe('certificates in PEM', () => {
  test('are all read, whatever stands between them', () => {
    const text = `# roots\n${authority.bundle}\nsome words\n${stranger.bundle}`
    assert.equal(parseCertificates(text, 'bundle').length, 2)
  })

  test('are refused when there is none, one is broken, or they are too long', () => {
    const broken = '-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n'
    for (const [pem, message] of [
      ['', /the file holds no PEM certificate/],
      [authority.bundle + broken, /the file \(number 2\) is not a readable certificate/],
      ['x'.repeat(300_000), /longer than/],
    ] as const) {
      assert.throws(() => parseCertificates(pem, 'the file'), { code: 'WEFT_CERTIFICATE', message })
    }
  })

  test('tell identities of workloads and nodes, and nothing else', () => {
    const node = 'spiffe://cluster.local/node/node1'
    assert.deepEqual(parseCertificates(issue(authority, node).chain, 'x')[0]!.identities, [node])
    assert.ok(isMeshIdentity(IDENTITY))
    assert.ok(isMeshIdentity(node))
    for (const uri of [
      'spiffe://cluster.local',
      'spiffe://cluster.local/',
      'spiffe://cluster.local/ns/a/sa',
      'spiffe://cluster.local/ns/a/sa/b/c',
      'spiffe://cluster.local/ns//sa/b',
      'spiffe://cluster.local/ns/../sa/b',
      'spiffe://Cluster.local/ns/a/sa/b',
      'spiffe:///ns/a/sa/b',
      'spiffe://cluster.local/node/',
      'spiffe://cluster.local/node/a/b',
      'spiffe://cluster.local/ns/a/sa/b?x',
      'spiffe://cluster.local:80/ns/a/sa/b',
      'spiffe://cluster.local/ns/a%2f/sa/b',
      'SPIFFE://cluster.local/ns/a/sa/b',
      `spiffe://cluster.local/ns/a/sa/${'b'.repeat(3_000)}`,
    ]) {
      assert.ok(!isMeshIdentity(uri), uri)
    }
  })
})

describe('a credential', () => {
  const { key, chain } = issue()

  test('renews when half of what is left is over, and gives TLS what it needs', () => {
    const credential = new Credential(IDENTITY, key, chain, authority.bundle, nowMs)
    assert.equal(credential.renewAtMs, nowMs + (credential.notAfterMs - nowMs) / 2)
    const material = credential.tlsMaterial('cluster.local')
    assert.equal(material.identity, IDENTITY)
    assert.equal(material.certificateChain, chain)
    assert.match(material.key, /^-----BEGIN PRIVATE KEY-----/)
    assert.equal(material.bundle, authority.bundle)
  })

  test('does not show its key when it is logged', () => {
    const credential = new Credential(IDENTITY, key, chain, authority.bundle, nowMs)
    assert.ok(!JSON.stringify(credential).includes('PRIVATE'))
  })

  test('is refused for another name, another key, another root, and out of time', () => {
    const cases = [
      ['spiffe://cluster.local/ns/shop/sa/other', key, authority.bundle, nowMs, /names .*cart/],
      [IDENTITY, createKey(), authority.bundle, nowMs, /another key/],
      [IDENTITY, key, stranger.bundle, nowMs, /no trusted authority/],
      [IDENTITY, key, authority.bundle, nowMs + 2 * HOUR_MS, /expired/],
    ] as const
    for (const [identity, ownKey, bundle, time, message] of cases) {
      assert.throws(() => new Credential(identity, ownKey, chain, bundle, time), { code: 'WEFT_CERTIFICATE', message })
    }
  })
})
