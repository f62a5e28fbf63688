import assert from 'node:assert/strict'
import test from 'node:test'
import { type AuthorityMaterial, readMaterial } from '../../src/controller/authority-material.ts'
import { RootRotation } from '../../src/controller/root-rotation.ts'
import { createRoot } from '../../src/security/issue.ts'

const NOW = Date.now()
const ANNOUNCE_MS = 1_000
const OVERLAP_MS = 10_000

function material(name: string, moreRoots = ''): AuthorityMaterial {
  const { certificate, key } = createRoot(name, 365 * 86_400_000, NOW)
  const keyPem = key.export({ format: 'pem', type: 'pkcs8' }).toString()
  return readMaterial({ chain: certificate.pem, key: keyPem, roots: certificate.pem + moreRoots }, NOW)
}

/** The same signer with other roots beside its own. */
function withRoots(one: AuthorityMaterial, ...others: AuthorityMaterial[]): AuthorityMaterial {
  return { ...one, roots: [...one.roots, ...others.flatMap(({ roots }) => roots)] }
}

function pem(...all: AuthorityMaterial[]): string {
  return all.flatMap(({ roots }) => roots.map((root) => root.pem)).join('')
}

function rotation(): RootRotation {
  return new RootRotation({ announceMs: ANNOUNCE_MS, overlapMs: OVERLAP_MS })
}

const [A, B, C] = [material('a'), material('b'), material('c')]

test('the first root is in force at once', () => {
  const roots = rotation()
  roots.offer(A, NOW)
  assert.equal(roots.current, A)
  assert.equal(roots.bundle, pem(A))
  assert.equal(roots.nextChangeAtMs, null)
})

test('another root is trusted first, signs then, and the old one is dropped when none of its certificates lives', () => {
  const roots = rotation()
  roots.offer(A, NOW)
  roots.offer(B, NOW)
  assert.equal(roots.current, A)
  assert.equal(roots.bundle, pem(A, B))
  assert.equal(roots.nextChangeAtMs, NOW + ANNOUNCE_MS)
  roots.advance(NOW + ANNOUNCE_MS - 1)
  assert.equal(roots.current, A)
  roots.advance(NOW + ANNOUNCE_MS)
  assert.equal(roots.current, B)
  assert.equal(roots.bundle, pem(B, A))
  roots.advance(NOW + ANNOUNCE_MS + OVERLAP_MS - 1)
  assert.equal(roots.bundle, pem(B, A))
  roots.advance(NOW + ANNOUNCE_MS + OVERLAP_MS)
  assert.equal(roots.bundle, pem(B))
  assert.equal(roots.nextChangeAtMs, null)
})

test('the same offer again changes nothing', () => {
  const roots = rotation()
  roots.offer(A, NOW)
  roots.offer(B, NOW)
  roots.offer(B, NOW + 500)
  assert.equal(roots.nextChangeAtMs, NOW + ANNOUNCE_MS)
  roots.advance(NOW + ANNOUNCE_MS)
  roots.offer(B, NOW + 2_000)
  assert.equal(roots.current, B)
  assert.equal(roots.bundle, pem(B, A))
})

test('a root that was trusted beside the old one by the operator signs at once', () => {
  const roots = rotation()
  roots.offer(withRoots(A, B), NOW)
  roots.offer(withRoots(B, A), NOW)
  assert.equal(roots.current?.authority, B.authority)
  assert.equal(roots.bundle, pem(B, A))
})

test('a root that the operator drops is trusted as long as its certificates live', () => {
  const roots = rotation()
  roots.offer(withRoots(A, B), NOW)
  roots.offer(A, NOW)
  assert.equal(roots.bundle, pem(A, B))
  roots.advance(NOW + OVERLAP_MS)
  assert.equal(roots.bundle, pem(A))
})

test('an announced root that is taken back stays trusted for a while: others may have signed with it', () => {
  const roots = rotation()
  roots.offer(A, NOW)
  roots.offer(B, NOW)
  roots.offer(A, NOW + 500)
  assert.equal(roots.current, A)
  assert.equal(roots.next, null)
  assert.equal(roots.bundle, pem(A, B))
  roots.advance(NOW + 500 + OVERLAP_MS)
  assert.equal(roots.bundle, pem(A))
})

test('a third root while the second is announced waits its own time', () => {
  const roots = rotation()
  roots.offer(A, NOW)
  roots.offer(B, NOW)
  roots.offer(C, NOW + 500)
  assert.equal(roots.bundle, pem(A, C, B))
  roots.advance(NOW + 1_499)
  assert.equal(roots.current, A)
  roots.advance(NOW + 1_500)
  assert.equal(roots.current, C)
})

test('at once means no announcement and no trust in any other', () => {
  const roots = rotation()
  roots.offer(A, NOW)
  roots.offer(B, NOW)
  roots.offer(C, NOW, true)
  assert.equal(roots.current, C)
  assert.equal(roots.bundle, pem(C))
})

test('after a restart the roots that were retired are trusted until their end, and no longer', () => {
  const before = rotation()
  before.offer(A, NOW)
  before.offer(B, NOW)
  before.advance(NOW + ANNOUNCE_MS)
  const after = rotation()
  after.recall(before.record(), NOW + 5_000)
  after.offer(B, NOW + 5_000)
  assert.equal(after.bundle, pem(B, A))
  assert.equal(after.nextChangeAtMs, NOW + ANNOUNCE_MS + OVERLAP_MS)
})

test('a root that was replaced while nobody ran is trusted for the overlap', () => {
  const before = rotation()
  before.offer(A, NOW)
  const after = rotation()
  after.recall(before.record(), NOW)
  after.offer(B, NOW)
  assert.equal(after.current, B)
  assert.equal(after.bundle, pem(B, A))
  after.advance(NOW + OVERLAP_MS)
  assert.equal(after.bundle, pem(B))
})

test('a recorded end is never believed beyond the overlap, nor when it is past', () => {
  const roots = rotation()
  const [a, b] = [A.roots[0]!.pem, B.roots[0]!.pem]
  roots.recall(
    [
      { pem: a, untilMs: NOW + 100 * OVERLAP_MS },
      { pem: b, untilMs: NOW },
    ],
    NOW,
  )
  roots.offer(C, NOW)
  assert.equal(roots.bundle, pem(C, A))
  roots.advance(NOW + OVERLAP_MS)
  assert.equal(roots.bundle, pem(C))
})

test('what the leader has in use is no news to a replica that has a root', () => {
  const roots = rotation()
  roots.offer(A, NOW)
  roots.recall([{ pem: B.roots[0]!.pem, untilMs: null }], NOW)
  assert.equal(roots.bundle, pem(A))
})

test('no more than sixteen retired roots are trusted', () => {
  const roots = rotation()
  roots.recall(
    Array.from({ length: 20 }, (_, i) => ({ pem: material(`r${i}`).roots[0]!.pem, untilMs: NOW + 1 + i })),
    NOW,
  )
  roots.offer(A, NOW)
  assert.equal(roots.record().length, 17)
  assert.equal(roots.nextChangeAtMs, NOW + 5)
})
