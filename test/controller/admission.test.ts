import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { atOnce, type Steps } from '../../src/base/steps.ts'
import { compile } from '../../src/compiler/compile.ts'
import { OBJECT_MESSAGES_MAX } from '../../src/compiler/messages.ts'
import type { MeshObject } from '../../src/compiler/object.ts'
import { type AdmissionAnswer, answerReview, reviewOf } from '../../src/controller/admission.ts'
import { analyseCandidate, type CandidateFindings } from '../../src/controller/candidate-analysis.ts'
import {
  authorizationPolicy,
  destinationRule,
  parse,
  peerAuthentication,
  SETTINGS,
  shop,
  type Tree,
  virtualService,
} from '../compiler/builders.ts'

const GOOD = virtualService('cart', { hosts: ['cart'], http: [{ route: [{ destination: { host: 'cart' } }] }] })
const BAD = virtualService('cart', {
  hosts: ['cart'],
  http: [{ rote: [], timeout: '5', route: [{ destination: { host: 'cart' } }] }],
})

function reviewFor(object: unknown, fields: Tree = {}): Tree {
  const request = { uid: 'u-1', operation: 'CREATE', namespace: 'shop', object, oldObject: null, ...fields }
  return { apiVersion: 'admission.k8s.io/v1', kind: 'AdmissionReview', request }
}

/** The answer to a review in a mesh of `trees`. */
function answerIn(trees: readonly unknown[], review: unknown): AdmissionAnswer {
  const objects = trees.map(parse)
  const { messages } = compile(objects, SETTINGS)
  const answer = atOnce(
    answerReview(review, (candidate) => analyseCandidate(candidate, { objects, messages }, SETTINGS)),
  )
  assert.ok(answer !== null)
  return answer
}

describe('an admission review', () => {
  test('of a good object is allowed without a word', () => {
    const answer = answerIn(shop(), reviewFor(GOOD))
    assert.deepEqual(reviewOf(answer), {
      apiVersion: 'admission.k8s.io/v1',
      kind: 'AdmissionReview',
      response: { uid: 'u-1', allowed: true },
    })
  })

  test('of a bad one is refused with all errors at once, each with its field', () => {
    const answer = answerIn(shop(), reviewFor(BAD))
    const { response } = reviewOf(answer) as {
      response: {
        allowed: boolean
        status: { code: number; message: string; details: { causes: { field: string }[] } }
      }
    }
    assert.equal(response.allowed, false)
    assert.equal(response.status.code, 422)
    assert.deepEqual(response.status.message.split('\n'), [
      'spec.http[0].rote: There is no field "rote" here. Did you mean route? (IST0106)',
      'spec.http[0].timeout: The value "5" is of the wrong type or out of range. Write a duration like "1.5s" or "100ms". (IST0106)',
    ])
    const { causes, ...about } = response.status.details
    assert.deepEqual(about, { group: 'networking.istio.io', kind: 'VirtualService', name: 'cart' })
    assert.deepEqual(
      causes.map(({ field }) => field),
      ['spec.http[0].rote', 'spec.http[0].timeout'],
    )
  })

  test('is judged beside the other objects, and what they do not know is a warning', () => {
    const lost = virtualService('cart', {
      hosts: ['cart'],
      http: [{ route: [{ destination: { host: 'cart', subset: 'v9' } }] }],
    })
    const answer = answerIn(shop(), reviewFor(lost))
    assert.equal(answer.isAllowed, true)
    assert.equal(answer.warnings.length, 1)
    assert.match(answer.warnings[0]!, /^spec\.http\[0\]\.route\[0\]\.destination\.subset: .*"v9".*\(IST0101\)$/)
    const subset = destinationRule('cart', { host: 'cart', subsets: [{ name: 'v9', labels: { version: 'v1' } }] })
    assert.deepEqual(answerIn([...shop(), subset], reviewFor(lost)).warnings, [])
  })

  test('takes the place of the object that it changes', () => {
    assert.equal(answerIn([...shop(), BAD], reviewFor(GOOD, { operation: 'UPDATE', oldObject: BAD })).isAllowed, true)
  })

  test('tells what it does to others, and nothing that was so before', () => {
    const older = virtualService('a-first', { ...(GOOD['spec'] as Tree) }, { age: 5 })
    const answer = answerIn([...shop(), older], reviewFor(GOOD))
    assert.equal(answer.isAllowed, true)
    assert.deepEqual(
      answer.warnings.map((warning) => warning.split(' ')[0]),
      ['VirtualService.networking.istio.io/shop/a-first'],
    )
    const known = answerIn([...shop(), older, GOOD], reviewFor(GOOD, { operation: 'UPDATE', oldObject: GOOD }))
    assert.deepEqual(known.warnings, [])
  })

  for (const [what, fields] of [
    ['a deletion', { operation: 'DELETE', object: null, oldObject: BAD }],
    ['a connection', { operation: 'CONNECT' }],
    ['an object that is being deleted', { object: { ...BAD, metadata: { name: 'cart', deletionTimestamp: 'x' } } }],
    ['a change beside the spec of what was wrong before', { operation: 'UPDATE', oldObject: BAD }],
  ] as const) {
    test(`of ${what} is allowed`, () => {
      assert.equal(answerIn(shop(), reviewFor(BAD, fields)).isAllowed, true)
    })
  }

  test('of a change of the spec from one mistake to another is refused', () => {
    const other = virtualService('cart', { hosts: ['cart'] })
    assert.equal(answerIn(shop(), reviewFor(BAD, { operation: 'UPDATE', oldObject: other })).isAllowed, false)
  })

  test('of an unchanged mistake says it as a warning', () => {
    const answer = answerIn(shop(), reviewFor(BAD, { operation: 'UPDATE', oldObject: BAD }))
    assert.equal(answer.warnings.length, 2)
  })

  test('of an object that gets its name later is judged under a name', () => {
    const { metadata, ...rest } = BAD
    const generated = { ...rest, metadata: { ...(metadata as Tree), name: undefined, generateName: 'cart-' } }
    assert.equal(answerIn(shop(), reviewFor(generated)).refusal!.errors.length, 2)
    const nameless = { ...rest, metadata: {} }
    assert.match(answerIn(shop(), reviewFor(nameless)).refusal!.errors[0]!.text, /metadata.name is missing/)
  })

  test('says what was judged, by names that there are', () => {
    const resource = { group: 'networking.istio.io', version: 'v1', plural: 'virtualservices' }
    assert.deepEqual(answerIn(shop(), reviewFor(GOOD)).judged, resource)
    assert.deepEqual(answerIn(shop(), reviewFor(BAD)).judged, resource)
    assert.equal(answerIn(shop(), reviewFor({ ...GOOD, apiVersion: 'networking.istio.io/v9' })).judged, null)
    assert.equal(answerIn(shop(), reviewFor({ ...GOOD, kind: 'X' })).judged, null)
    assert.equal(answerIn(shop(), reviewFor(null, { operation: 'DELETE', oldObject: GOOD })).judged, null)
  })

  test('believes the namespace of the request', () => {
    const policy = peerAuthentication('strict', { mtls: { mode: 'STRICT' } })
    const { metadata: _, ...rest } = policy
    const asked: string[] = []
    const review = reviewFor({ ...rest, metadata: { name: 'strict' } })
    const analyse = function* (candidate: MeshObject): Steps<CandidateFindings> {
      asked.push(candidate.key)
      yield
      return { own: [], others: [] }
    }
    atOnce(answerReview(review, analyse))
    assert.deepEqual(asked, ['PeerAuthentication.security.istio.io/shop/strict'])
  })

  test('has warnings that fit, however much there is to say', () => {
    const rules = Array.from({ length: 40 }, (_, i) => ({
      route: [{ destination: { host: `nobody-${i}-${'x'.repeat(50)}` } }],
      match: [{ uri: { exact: `/${i}` } }],
    }))
    const { warnings } = answerIn(shop(), reviewFor(virtualService('cart', { hosts: ['cart'], http: rules })))
    assert.equal(warnings.length, 16)
    assert.ok(warnings.every((warning) => warning.length <= 240))
    assert.ok(warnings.join('').length <= 4096)
  })

  test('names so many errors and no more', () => {
    const rules = Array.from({ length: 300 }, () => ({ x: 1 }))
    const answer = answerIn(shop(), reviewFor(virtualService('cart', { hosts: ['cart'], http: rules })))
    assert.equal(answer.refusal!.errors.length, OBJECT_MESSAGES_MAX)
  })

  for (const [what, review] of [
    ['a text', 'review'],
    ['nothing', null],
    ['a list', []],
    ['another kind', { ...reviewFor(GOOD), kind: 'Review' }],
    ['an older version', { ...reviewFor(GOOD), apiVersion: 'admission.k8s.io/v1beta1' }],
    ['no request', { apiVersion: 'admission.k8s.io/v1', kind: 'AdmissionReview' }],
    ['a request without uid', reviewFor(GOOD, { uid: '' })],
  ] as const) {
    test(`that is ${what} is none`, () => {
      const answer = atOnce(answerReview(review, () => assert.fail('nothing to analyse')))
      assert.equal(answer, null)
    })
  }

  test('of something that is no object is allowed: there is nothing to judge', () => {
    assert.equal(answerIn(shop(), reviewFor('text')).isAllowed, true)
  })

  test('of a policy that would deny more than it says is refused', () => {
    const policy = authorizationPolicy('a', { action: 'CUSTOM', rules: [{}], provider: { name: 'x' } })
    assert.equal(answerIn(shop(), reviewFor(policy)).isAllowed, false)
  })
})
