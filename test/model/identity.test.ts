import assert from 'node:assert/strict'
import test from 'node:test'
import {
  formatControllerIdentity,
  formatIdentity,
  formatNodeIdentity,
  parseIdentity,
  parseNodeIdentity,
  principalOf,
} from '../../src/model/identity.ts'

test('an identity is read as it is written', () => {
  const uri = formatIdentity('cluster.local', 'shop', 'reviews')
  assert.equal(uri, 'spiffe://cluster.local/ns/shop/sa/reviews')
  assert.deepEqual(parseIdentity(uri), { trustDomain: 'cluster.local', namespace: 'shop', serviceAccount: 'reviews' })
  assert.equal(principalOf(uri), 'cluster.local/ns/shop/sa/reviews')
})

test('what is not exactly an identity of a workload is none', () => {
  for (const uri of [
    '',
    'cluster.local/ns/shop/sa/reviews',
    'SPIFFE://cluster.local/ns/shop/sa/reviews',
    'spiffe:///ns/shop/sa/reviews',
    'spiffe://cluster.local/ns//sa/reviews',
    'spiffe://cluster.local/ns/shop/sa/',
    'spiffe://cluster.local/ns/shop/sa/reviews/',
    'spiffe://cluster.local/ns/shop/sa/reviews/x',
    'spiffe://cluster.local/sa/shop/ns/reviews',
    'https://cluster.local/ns/shop/sa/reviews',
    formatNodeIdentity('cluster.local', 'node1'),
    formatControllerIdentity('cluster.local'),
  ]) {
    assert.equal(parseIdentity(uri), null, uri)
  }
})

test('a node is a node of its own trust domain only, and no workload is one', () => {
  const uri = formatNodeIdentity('cluster.local', 'node1')
  assert.equal(parseNodeIdentity(uri, 'cluster.local'), 'node1')
  assert.equal(parseNodeIdentity(uri, 'other.domain'), null)
  assert.equal(parseNodeIdentity(uri, 'cluster'), null)
  for (const other of [
    `${uri}/x`,
    'spiffe://cluster.local/node/',
    formatIdentity('cluster.local', 'node', 'node1'),
    formatControllerIdentity('cluster.local'),
  ]) {
    assert.equal(parseNodeIdentity(other, 'cluster.local'), null, other)
  }
})
