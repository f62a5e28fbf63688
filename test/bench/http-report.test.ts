import assert from 'node:assert/strict'
import { test } from 'node:test'
import { type BenchCase, CASES, type Sample } from '../../bench/http/cases.ts'
import { formatCase, median, round, rowsOf, summarize } from '../../bench/http/report.ts'

function sample(value: number, fields: Partial<Sample> = {}): Sample {
  return { value, requestsPerS: 100, p50Us: 10, p99Us: 20, rssBytes: 2 ** 20, failed: 0, ...fields }
}

function caseNamed(name: string): BenchCase {
  return CASES.find((each) => each.name === name)!
}

test('a median is the middle value, and between the two middle ones of an even number', () => {
  assert.equal(median([9, 1, 5]), 5)
  assert.equal(median([1, 9, 5, 7]), 6)
  assert.equal(median([]), 0)
})

test('a line has the median of its rounds, their extremes, and every failed request', () => {
  const line = summarize('weft', [sample(12, { failed: 1 }), sample(10), sample(30, { failed: 2 })])
  const { value, least, most, rounds, failed } = line
  assert.deepEqual({ value, least, most, rounds, failed }, { value: 12, least: 10, most: 30, rounds: 3, failed: 3 })
})

test('there is a row per peer, and its ratio is ours by theirs', () => {
  const lines = [summarize('weft', [sample(12)]), summarize('envoy', [sample(30)]), summarize('nginx', [sample(10)])]
  assert.deepEqual(rowsOf(caseNamed('h1-cpu'), lines), [
    { case: 'h1-cpu', unit: 'us/request', value: 12, peer: 'envoy', peerValue: 30, ratio: 0.4 },
    { case: 'h1-cpu', unit: 'us/request', value: 12, peer: 'nginx', peerValue: 10, ratio: 1.2 },
  ])
})

test('without a line of our own there is nothing to compare', () => {
  assert.deepEqual(rowsOf(caseNamed('h1-cpu'), [summarize('envoy', [sample(30)])]), [])
})

test('latency is what a proxy adds to the direct way, for the median and for the 99th percentile', () => {
  const lines = [
    summarize('direct', [sample(0, { p50Us: 100, p99Us: 200 })]),
    summarize('weft', [sample(0, { p50Us: 150, p99Us: 260 })]),
    summarize('envoy', [sample(0, { p50Us: 200, p99Us: 320 })]),
  ]
  assert.deepEqual(rowsOf(caseNamed('fixed-rate'), lines), [
    { case: 'fixed-rate-p50', unit: 'us', value: 50, peer: 'envoy', peerValue: 100, ratio: 0.5 },
    { case: 'fixed-rate-p99', unit: 'us', value: 60, peer: 'envoy', peerValue: 120, ratio: 0.5 },
  ])
})

test('a case without peers is held against its limit', () => {
  const rows = rowsOf(caseNamed('h1-allocation'), [summarize('weft', [sample(1024)])])
  assert.deepEqual(rows, [
    { case: 'h1-allocation', unit: 'B/request', value: 1024, peer: 'limit', peerValue: 2048, ratio: 0.5 },
  ])
})

test('three digits of a small number are kept, large ones are whole, and what is no number is 0', () => {
  assert.equal(round(1234.5), 1235)
  assert.equal(round(12.345), 12.3)
  assert.equal(round(0.123456), 0.123)
  assert.equal(round(1 / 0), 0)
})

test('the table names the case, the unit and every system, with the ratio beside each peer', () => {
  const text = formatCase(caseNamed('h1-cpu'), [
    summarize('weft', [sample(12)]),
    summarize('envoy', [sample(30, { failed: 4 })]),
  ])
  const lines = text.split('\n')
  assert.equal(lines[0], 'h1-cpu: us/request')
  assert.match(lines[2]!, /^ {2}weft +12 +12 +12 +100 +10 +20 +1$/)
  assert.match(lines[3]!, /^ {2}envoy +30 +0\.40 +30 +30 +100 +10 +20 +1 +4$/)
})

test('every case has a name of its own and measures Weft', () => {
  assert.equal(new Set(CASES.map(({ name }) => name)).size, CASES.length)
  for (const { name, systems } of CASES) assert.ok(systems.includes('weft'), name)
})
