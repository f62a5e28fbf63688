import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ClientCertificates, clientCertificateFields } from '../../src/proxy/client-certificate-header.ts'
import { workloadOf } from '../support/proxy-objects.ts'

const APP = 'spiffe://cluster.local/ns/shop/sa/cart'
const CALLER = 'spiffe://cluster.local/ns/web/sa/front'

function value(by: string, source: string): string | null {
  return clientCertificateFields(by, source)?.texts[1] ?? null
}

test('an app is told whose request it gets, as the certificates say it', () => {
  assert.deepEqual(clientCertificateFields(APP, CALLER)?.texts, ['x-forwarded-client-cert', `By=${APP};URI=${CALLER}`])
})

test('an identity cannot pass for another element or another key', () => {
  assert.equal(value(APP, 'spiffe://x/ns/a,By=b/sa/c'), `By=${APP};URI="spiffe://x/ns/a,By=b/sa/c"`)
  assert.equal(value(APP, 'spiffe://x/ns/a;URI=b/sa/c'), `By=${APP};URI="spiffe://x/ns/a;URI=b/sa/c"`)
  assert.equal(value(APP, 'spiffe://x/ns/a"/sa/c\\'), `By=${APP};URI="spiffe://x/ns/a\\"/sa/c\\\\"`)
})

test('an identity that cannot stand in a header is not told', () => {
  for (const bad of ['', 'spiffe://x/ns/a b/sa/c', 'spiffe://x/ns/a\r\nb: c/sa/d', 'spiffe://x/ns/\u00e9/sa/c']) {
    assert.equal(value(APP, bad), null)
    assert.equal(value(bad, CALLER), null)
  }
})

test('the header of one caller is made once for each destination, and the memory of it is bounded', () => {
  const certificates = new ClientCertificates(CALLER)
  const [first, second] = [workloadOf('a'), workloadOf('b')]
  assert.equal(certificates.fieldsFor(first), certificates.fieldsFor(first))
  assert.notEqual(certificates.fieldsFor(first), certificates.fieldsFor(second))
  const before = certificates.fieldsFor(first)
  for (let i = 0; i < 64; i++) certificates.fieldsFor(workloadOf(`other-${i}`))
  assert.notEqual(certificates.fieldsFor(first), before)
  assert.deepEqual(certificates.fieldsFor(first)?.texts, before?.texts)
})
