/** What the kernel bench makes of its numbers. */
import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { MEASUREMENTS, type Pair, type RowCase, type Target } from '../../bench/kernel/cases.ts'
import { formatTable, isMet, type Measured, rowOf } from '../../bench/kernel/report.ts'

function measured(target: Target | null, ...pairs: readonly (readonly [number, number])[]): Measured {
  const row: RowCase = { name: 'a-case', unit: 'us', peer: 'no mesh', target }
  return { row, pairs: pairs.map(([value, peerValue]): Pair => ({ value, peerValue })) }
}

describe('the kernel bench', () => {
  it('has the cases by which it is known', () => {
    const names = MEASUREMENTS.map(({ rows }) => rows[0]!.name)
    assert.deepEqual(names, [
      'kernel-throughput-1',
      'kernel-throughput-8',
      'kernel-rtt-64',
      'kernel-rtt-4k',
      'kernel-connect-rate',
      'unenrolled-connect',
      'relay-throughput-1',
      'relay-rtt-64',
      'tunnel-throughput-1',
    ])
  })

  it('compares medians, whatever single rounds were', () => {
    const row = rowOf(measured(null, [1, 2], [9, 3], [3, 40]))
    assert.deepEqual(row, { case: 'a-case', unit: 'us', value: 3, peer: 'no mesh', peerValue: 3, ratio: 1 })
  })

  it('judges a ratio and a difference by what the row shows', () => {
    const atLeast: Target = { of: 'ratio', is: 'at least', bound: 0.98 }
    const atMost: Target = { of: 'ratio', is: 'at most', bound: 1.05 }
    const difference: Target = { of: 'difference', is: 'at most', bound: 150 }
    const verdict = (target: Target | null, value: number, peerValue: number) => {
      return isMet(target, rowOf(measured(target, [value, peerValue])))
    }
    assert.deepEqual([verdict(atLeast, 98, 100), verdict(atLeast, 97, 100)], [true, false])
    assert.deepEqual([verdict(atMost, 105, 100), verdict(atMost, 106, 100)], [true, false])
    assert.deepEqual([verdict(difference, 650, 500), verdict(difference, 651, 500)], [true, false])
    assert.equal(verdict(null, 1, 2), null)
  })

  it('shows how far rounds lie apart, and what was to reach', () => {
    const target: Target = { of: 'ratio', is: 'at least', bound: 0.98 }
    const [, line] = formatTable([measured(target, [50, 100], [90, 100], [80, 100])]).split('\n')
    assert.match(line!, /^a-case +us +80 +100 +no mesh +0\.80 +0\.50-0\.90 +>= 0\.98 +missed$/)
  })
})
