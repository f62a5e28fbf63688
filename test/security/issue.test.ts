/** Issuing: what OpenSSL says of our roots and leaves, and what the authority refuses to sign. */
import assert from 'node:assert/strict'
import { createPublicKey, generateKeyPairSync } from 'node:crypto'
import { after, describe, test } from 'node:test'
import { parseCertificates } from '../../src/security/certificate.ts'
import { createKey, createSigningRequest } from '../../src/security/csr.ts'
import {
  CLOCK_SKEW_MS,
  createRoot,
  issueFromRequest,
  issueLeaf,
  LEAF_LIFETIME_MS_MIN,
  loadAuthority,
} from '../../src/security/issue.ts'
import { TestAuthority } from '../support/certificates.ts'
import { Openssl } from '../support/openssl.ts'

const IDENTITY = 'spiffe://cluster.local/ns/shop/sa/cart'
const HOUR_MS = 3_600_000
const openssl = new Openssl()
after(() => openssl.remove())

describe('a leaf', () => {
  const authority = new TestAuthority()
  const leaf = authority.leaf('shop', 'cart')
  const leafFile = openssl.file('leaf.pem', leaf.certificateChain)
  const rootFile = openssl.file('root.pem', authority.bundle)

  test('verifies strictly with OpenSSL as server and as client', () => {
    for (const purpose of ['sslserver', 'sslclient']) {
      const output = openssl.run('verify', '-x509_strict', '-purpose', purpose, '-CAfile', rootFile, leafFile)
      assert.match(output, /: OK/)
    }
  })

  test('has no subject, one critical URI, and the extensions of an X.509-SVID', () => {
    const text = openssl.run('x509', '-in', leafFile, '-noout', '-text')
    assert.match(text, /Version: 3/)
    assert.match(text, /Subject: *\n/)
    assert.match(text, /Subject Alternative Name: critical\n +URI:spiffe:\/\/cluster\.local\/ns\/shop\/sa\/cart\n/)
    assert.match(text, /Basic Constraints: critical\n +CA:FALSE/)
    assert.match(text, /Key Usage: critical\n +Digital Signature\n/)
    assert.match(text, /Extended Key Usage: *\n +TLS Web Server Authentication, TLS Web Client Authentication\n/)
    assert.match(text, /Signature Algorithm: ecdsa-with-SHA256/)
    assert.match(text, /NIST CURVE: P-256/)
  })

  test('names its issuer by the key identifier of the root', () => {
    const identifier = (name: string, path: string): string => {
      const match = new RegExp(`${name}: *\\n +(?:keyid:)?([0-9A-F:]+)`).exec(
        openssl.run('x509', '-in', path, '-noout', '-text'),
      )
      return match![1]!
    }
    assert.equal(
      identifier('X509v3 Authority Key Identifier', leafFile),
      identifier('X509v3 Subject Key Identifier', rootFile),
    )
  })

  test('has a positive random serial number of its own', () => {
    const serials = new Set<string>()
    for (let i = 0; i < 20; i++) {
      const [certificate] = parseCertificates(authority.leaf('shop', 'cart').certificateChain, 'leaf')
      assert.match(certificate!.serial, /^[4-7][0-9A-F]{31}$/)
      serials.add(certificate!.serial)
    }
    assert.equal(serials.size, 20)
  })

  test('begins before now by the clock skew and ends with its lifetime', () => {
    const nowMs = Math.floor(Date.now() / 1_000) * 1_000
    const [certificate] = parseCertificates(
      authority.leaf('a', 'b', { nowMs, lifetimeMs: HOUR_MS }).certificateChain,
      'x',
    )
    assert.equal(certificate!.notAfterMs, nowMs + HOUR_MS)
    assert.ok(certificate!.notBeforeMs >= nowMs - CLOCK_SKEW_MS)
    assert.ok(certificate!.notBeforeMs <= nowMs)
  })

  test('never outlives its issuer', () => {
    const nowMs = Math.floor(Date.now() / 1_000) * 1_000
    const short = new TestAuthority('cluster.local', nowMs, HOUR_MS)
    const [certificate] = parseCertificates(
      short.leaf('a', 'b', { nowMs, lifetimeMs: 24 * HOUR_MS }).certificateChain,
      'x',
    )
    assert.equal(certificate!.notAfterMs, nowMs + HOUR_MS)
    assert.equal(certificate!.notBeforeMs, short.authority.certificate.notBeforeMs)
  })

  test('is refused by an authority that has expired, for too short a life, and for a name that is no identity', () => {
    const publicKey = createPublicKey(createKey())
    const nowMs = Date.now()
    const order = { identity: IDENTITY, publicKey, lifetimeMs: HOUR_MS, nowMs }
    const expired = new TestAuthority('cluster.local', nowMs - 2 * HOUR_MS, HOUR_MS).authority
    assert.throws(() => issueLeaf(expired, order), { code: 'WEFT_CERTIFICATE', message: /authority has expired/ })
    for (const lifetimeMs of [0, -1, Number.NaN, LEAF_LIFETIME_MS_MIN - 1]) {
      assert.throws(() => issueLeaf(authority.authority, { ...order, lifetimeMs }), { code: 'WEFT_CERTIFICATE' })
    }
    for (const identity of [
      '',
      'cart',
      'spiffe://cluster.local',
      'spiffe://cluster.local/ns/a b/sa/c',
      'https://x/y',
    ]) {
      assert.throws(() => issueLeaf(authority.authority, { ...order, identity }), { code: 'WEFT_CERTIFICATE' })
    }
  })
})

describe('a root', () => {
  test('is an authority that OpenSSL accepts, also beyond the year 2050', () => {
    const root = createRoot('cluster.local', 40 * 365 * 24 * HOUR_MS, Date.now())
    const path = openssl.file('long.pem', root.certificate.pem)
    const text = openssl.run('x509', '-in', path, '-noout', '-text')
    assert.match(text, /CA:TRUE/)
    assert.match(text, /Key Usage: critical\n +Certificate Sign, CRL Sign\n/)
    assert.match(openssl.run('verify', '-x509_strict', '-CAfile', path, path), /OK/)
    assert.ok(root.certificate.isAuthority)
    assert.equal(root.intermediates, '')
  })
})

describe('an authority from files', () => {
  test('that is an intermediate of somebody else sends its certificate along, and OpenSSL follows the chain', () => {
    const { rootPem, chainPem, keyPem } = foreignIntermediate()
    const authority = loadAuthority(chainPem + rootPem, keyPem)
    const chain = issueLeaf(authority, {
      identity: IDENTITY,
      publicKey: createPublicKey(createKey()),
      lifetimeMs: HOUR_MS,
      nowMs: Date.now(),
    })
    const certificates = parseCertificates(chain, 'chain')
    assert.equal(certificates.length, 2, 'leaf and intermediate, no root')
    assert.deepEqual(certificates[0]!.identities, [IDENTITY])
    const [leafPem, intermediatePem] = certificates.map((one) => one.pem)
    const output = openssl.run(
      ...['verify', '-x509_strict', '-CAfile', openssl.file('foreign-root.pem', rootPem)],
      ...['-untrusted', openssl.file('intermediate.pem', intermediatePem!), openssl.file('foreign-leaf.pem', leafPem!)],
    )
    assert.match(output, /OK/)
  })

  test('signs with RSA when its key is one', () => {
    const { keyPem, certificatePem } = rsaRoot()
    const chain = issueLeaf(loadAuthority(certificatePem, keyPem), {
      identity: IDENTITY,
      publicKey: createPublicKey(createKey()),
      lifetimeMs: HOUR_MS,
      nowMs: Date.now(),
    })
    const root = openssl.file('rsa-root.pem', certificatePem)
    assert.match(openssl.run('verify', '-x509_strict', '-CAfile', root, openssl.file('rsa-leaf.pem', chain)), /OK/)
  })

  test('is refused without certificate, with a foreign key, with an unreadable one, and when it is a leaf', () => {
    const { authority, bundle } = new TestAuthority()
    const keyPem = authority.key.export({ format: 'pem', type: 'pkcs8' }).toString()
    const other = new TestAuthority().leaf('a', 'b')
    const cases = [
      ['', keyPem, /no PEM certificate/],
      [bundle, other.key, /does not belong/],
      [bundle, 'no key', /cannot be read/],
      [other.certificateChain, other.key, /not one of a CA/],
    ] as const
    for (const [chain, key, message] of cases) {
      assert.throws(() => loadAuthority(chain, key), { code: 'WEFT_CERTIFICATE', message })
    }
  })
})

describe('issuing from a request', () => {
  test('takes the key of the request and the name of the order', () => {
    const { authority } = new TestAuthority()
    const key = createKey()
    const request = createSigningRequest(key, 'spiffe://cluster.local/ns/wished/sa/for')
    const chain = issueFromRequest(authority, request, IDENTITY, HOUR_MS, Date.now())
    const [leaf] = parseCertificates(chain, 'leaf')
    assert.deepEqual(leaf!.identities, [IDENTITY])
    assert.ok(leaf!.x509.checkPrivateKey(key))
  })

  test('accepts a request that OpenSSL made', () => {
    const keyFile = openssl.file(
      'openssl.key',
      openssl.run('genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256'),
    )
    const san = 'subjectAltName=URI:spiffe://cluster.local/ns/a/sa/b'
    const request = openssl.run('req', '-new', '-key', keyFile, '-subj', '/O=x', '-addext', san)
    const chain = issueFromRequest(new TestAuthority().authority, request, IDENTITY, HOUR_MS, Date.now())
    assert.deepEqual(parseCertificates(chain, 'leaf')[0]!.identities, [IDENTITY])
  })
})

const ROOT_USAGE = ['-days', '30', '-addext', 'keyUsage=critical,keyCertSign,cRLSign']

/** A P-384 root and an intermediate with a key identifier of another making, as a company's own authority may have. */
function foreignIntermediate(): { rootPem: string; chainPem: string; keyPem: string } {
  const rootKey = openssl.file(
    'p384.key',
    openssl.run('genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-384'),
  )
  const rootPem = openssl.run('req', '-x509', '-new', '-key', rootKey, '-subj', '/C=DE/O=Corp/CN=Root', ...ROOT_USAGE)
  const keyPem = openssl.run('genpkey', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256')
  const key = openssl.file('intermediate.key', keyPem)
  const request = openssl.file(
    'intermediate.csr',
    openssl.run('req', '-new', '-key', key, '-subj', '/O=Corp/CN=Weft \u00dc'),
  )
  const extensions = openssl.file(
    'intermediate.cnf',
    'basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n' +
      'subjectKeyIdentifier=0102030405\nauthorityKeyIdentifier=keyid\n',
  )
  const root = openssl.file('p384.pem', rootPem)
  const chainPem = openssl.run(
    ...['x509', '-req', '-in', request, '-CA', root, '-CAkey', rootKey, '-CAcreateserial', '-days', '20'],
    ...['-extfile', extensions],
  )
  return { rootPem, chainPem, keyPem }
}

function rsaRoot(): { keyPem: string; certificatePem: string } {
  const keyPem = generateKeyPairSync('rsa', { modulusLength: 2_048 })
    .privateKey.export({ format: 'pem', type: 'pkcs8' })
    .toString()
  const key = openssl.file('rsa.key', keyPem)
  return { keyPem, certificatePem: openssl.run('req', '-x509', '-new', '-key', key, '-subj', '/O=rsa', ...ROOT_USAGE) }
}
