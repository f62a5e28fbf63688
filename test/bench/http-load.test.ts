import assert from 'node:assert/strict'
import { test } from 'node:test'
import { parseH2load, parseWrk, percentile } from '../../bench/http/load.ts'
import { cpuUs, parseCpuTicks, parseResident, residentBytes } from '../../bench/http/machine.ts'

test('the result line of wrk is found among what wrk prints itself', () => {
  const text = `Running 2s test @ http://127.0.0.1:1/
  1 threads and 32 connections
Requests/sec:  12.00

RESULT {"requests":24,"durationUs":2000000,"bytes":100,"failed":1,"p50Us":80,"p99Us":300}
`
  const expected = { requests: 24, durationUs: 2_000_000, bytes: 100, failed: 1, p50Us: 80, p99Us: 300 }
  assert.deepEqual(parseWrk(text), expected)
  assert.throws(() => parseWrk('unable to connect to 127.0.0.1:1'), /wrk printed no result: unable to connect/)
})

test('what h2load measured is read from its summary, the percentiles from its log', () => {
  const text = `starting benchmark...

finished in 2.50s, 40.00 req/s, 26.95KB/s
requests: 100 total, 100 started, 100 done, 97 succeeded, 2 failed, 1 errored, 0 timeout
status codes: 97 2xx, 0 3xx, 2 4xx, 0 5xx
traffic: 66.71KB (68310) total, 17.90KB (18330) headers (space savings 0.00%), 45.21KB (46300) data
`
  const log = Array.from({ length: 100 }, (_, index) => `17${index}\t200\t${100 - index}\n`).join('')
  assert.deepEqual(parseH2load(text, log), {
    requests: 97,
    durationUs: 2_500_000,
    bytes: 68_310,
    failed: 3,
    p50Us: 51,
    p99Us: 100,
  })
  assert.throws(() => parseH2load('connect() failed', ''), /h2load printed no result/)
})

test('a percentile of nothing is 0, and one of a single value that value', () => {
  assert.equal(percentile([], 0.99), 0)
  assert.equal(percentile([7], 0.5), 7)
  assert.equal(percentile([1, 2, 3, 4], 0.5), 3)
})

test('CPU time is read behind a program name with spaces and brackets in it', () => {
  const stat = '77 (a (b) c) S 1 77 77 0 -1 4194560 100 0 0 0 12 34 5 6 20 0 1 0 999 0 0'
  assert.equal(parseCpuTicks(stat), 46)
})

test('memory and CPU time of a process that runs are not nothing, and those of two are more than of one', () => {
  assert.equal(parseResident('Name:\tx\nVmHWM:\t 20 kB\nVmRSS:\t      12 kB\n'), 12_288)
  const own = residentBytes([process.pid])
  assert.ok(own > 1_000_000)
  assert.ok(residentBytes([process.pid, process.pid]) > own)
  // Starting Node.js alone takes several ticks.
  assert.ok(cpuUs([process.pid]) >= 10_000)
})
