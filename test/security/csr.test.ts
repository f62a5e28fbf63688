/** Signing requests: made, read, and refused in every way in which they can be wrong. */
import assert from 'node:assert/strict'
import { createPublicKey, generateKeyPairSync, sign } from 'node:crypto'
import { after, describe, test } from 'node:test'
import {
  createKey,
  createSigningRequest,
  parseSigningRequest,
  SIGNING_REQUEST_LENGTH_MAX,
} from '../../src/security/csr.ts'
import { toPem } from '../../src/security/der.ts'
import { Openssl } from '../support/openssl.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const IDENTITY = 'spiffe://cluster.local/ns/shop/sa/cart'

function derOf(pem: string): Buffer {
  return Buffer.from(pem.replace(/-----[^-]+-----/g, ''), 'base64')
}

const openssl = new Openssl()
after(() => openssl.remove())

/** A new key of OpenSSL's, in a file. */
function newKey(...how: readonly string[]): string {
  return openssl.file('key.pem', openssl.run('genpkey', ...how))
}

describe('a signing request', () => {
  test('gives back the key and the identity that it was made with', () => {
    const key = createKey()
    const request = parseSigningRequest(createSigningRequest(key, IDENTITY))
    assert.deepEqual(request.identities, [IDENTITY])
    assert.ok(request.publicKey.equals(createPublicKey(key)))
  })

  test('is verified by OpenSSL, with the identity as a critical URI', () => {
    const text = openssl.run(
      'req',
      '-in',
      openssl.file('own.csr', createSigningRequest(createKey(), IDENTITY)),
      '-noout',
      '-text',
      '-verify',
    )
    assert.match(text, /Subject Alternative Name: critical\n +URI:spiffe:\/\/cluster\.local\/ns\/shop\/sa\/cart/)
    assert.match(text, /prime256v1/)
  })

  test('of OpenSSL is read: RSA from 2048 bits, with and without names, any SHA-2', () => {
    for (const [bits, digest] of [
      [2_048, 'sha256'],
      [3_072, 'sha512'],
    ] as const) {
      const key = newKey('-algorithm', 'RSA', '-pkeyopt', `rsa_keygen_bits:${bits}`)
      const pem = openssl.run('req', '-new', `-${digest}`, '-key', key, '-subj', '/CN=x')
      const request = parseSigningRequest(pem)
      assert.deepEqual(request.identities, [])
      assert.equal(request.publicKey.asymmetricKeyDetails?.modulusLength, bits)
    }
  })

  test('asks only for identities of the mesh; other names are not looked at', () => {
    const key = newKey('-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-256')
    const names = 'subjectAltName=DNS:x.org,URI:spiffe://cluster.local/ns/a/sa/b,URI:https://c.org/,IP:10.0.0.1'
    const pem = openssl.run('req', '-new', '-key', key, '-subj', '/CN=x', '-addext', names)
    assert.deepEqual(parseSigningRequest(pem).identities, ['spiffe://cluster.local/ns/a/sa/b'])
  })

  test('is refused when it is too long, no PEM, several, or of another kind', () => {
    const good = createSigningRequest(createKey(), IDENTITY)
    for (const bad of [
      '',
      'hello',
      good + good,
      good.replaceAll('CERTIFICATE REQUEST', 'CERTIFICATE'),
      good.replace('-----END', '----END'),
      ' '.repeat(SIGNING_REQUEST_LENGTH_MAX) + good,
      toPem('CERTIFICATE REQUEST', Buffer.of(0x30, 0x00)),
      toPem('CERTIFICATE REQUEST', Buffer.alloc(0)),
      toPem('CERTIFICATE REQUEST', Buffer.alloc(5_000, 0x30)),
    ]) {
      assert.throws(() => parseSigningRequest(bad), { code: 'WEFT_CERTIFICATE' })
    }
  })

  test('is refused with a key that is too weak, too strong or of another kind', () => {
    const refused = [
      ['RSA 1024', '-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:1024'],
      ['secp384r1', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:P-384'],
      ['secp256k1', '-algorithm', 'EC', '-pkeyopt', 'ec_paramgen_curve:secp256k1'],
      ['ed25519', '-algorithm', 'ED25519'],
    ] as const
    for (const [kind, ...how] of refused) {
      const key = newKey(...how)
      const pem = openssl.run('req', '-new', '-key', key, '-subj', '/CN=x')
      assert.throws(() => parseSigningRequest(pem), { code: 'WEFT_CERTIFICATE', message: new RegExp(`key is ${kind}`) })
    }
  })

  test('is refused when signed with SHA-1', () => {
    const key = newKey('-algorithm', 'RSA', '-pkeyopt', 'rsa_keygen_bits:2048')
    const pem = openssl.run('req', '-new', '-sha1', '-key', key, '-subj', '/CN=x')
    assert.throws(() => parseSigningRequest(pem), { message: /signature algorithm is not/ })
  })

  test('is refused when another key signed it', () => {
    const der = derOf(createSigningRequest(createKey(), IDENTITY))
    // At this size the outer sequence has a length of two bytes, and the body in it one of one byte, after 0x81.
    assert.deepEqual([der[1], der[4], der[5]], [0x82, 0x30, 0x81])
    const body = der.subarray(4, 7 + der[6]!)
    const thief = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
    const signature = sign('sha256', body, { key: thief, dsaEncoding: 'der' })
    const algorithm = Buffer.from('300a06082a8648ce3d040302', 'hex')
    const bits = Buffer.concat([Buffer.of(0x03, signature.length + 1, 0), signature])
    const content = Buffer.concat([body, algorithm, bits])
    const forged = Buffer.concat([Buffer.of(0x30, 0x82, content.length >> 8, content.length & 0xff), content])
    assert.throws(() => parseSigningRequest(toPem('CERTIFICATE REQUEST', forged)), {
      code: 'WEFT_CERTIFICATE',
      message: /signature is not by its own key/,
    })
  })

  test('never passes with any one byte changed, cut anywhere, or followed by more', () => {
    const der = derOf(createSigningRequest(createKey(), IDENTITY))
    const random = new SeededRandom(42)
    const refuses = (bytes: Buffer): void => {
      assert.throws(() => parseSigningRequest(toPem('CERTIFICATE REQUEST', bytes)), { code: 'WEFT_CERTIFICATE' })
    }
    for (let i = 0; i < der.length; i++) {
      const changed = Buffer.from(der)
      changed[i]! ^= random.integer(1, 255)
      refuses(changed)
      refuses(der.subarray(0, i))
    }
    refuses(Buffer.concat([der, Buffer.of(0)]))
  })
})
