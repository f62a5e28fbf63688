import assert from 'node:assert/strict'
import { beforeEach, describe, it } from 'node:test'
import { MAIN_SILENT_MS, MainWatch } from '../../src/agent/main-watch.ts'
import { VitalSigns } from '../../src/agent/vital-signs.ts'
import { HEARTBEAT_INTERVAL_MS } from '../../src/kernel/layout.generated.ts'

/** Heartbeats of a worker in the time that the main thread may be silent. */
const ALLOWED = MAIN_SILENT_MS / HEARTBEAT_INTERVAL_MS

describe('the watch over the main thread', () => {
  let vitals: VitalSigns
  let reports: string[]
  let watches: MainWatch[]

  beforeEach(() => {
    vitals = new VitalSigns()
    reports = []
    watches = ['first', 'second'].map((name) => new MainWatch(new VitalSigns(vitals.buffer), () => reports.push(name)))
  })

  function check(times: number): void {
    for (let i = 0; i < times; i++) for (const watch of watches) watch.check()
  }

  it('says nothing while it beats, however seldom within the time', () => {
    for (let i = 0; i < 10; i++) {
      assert.equal(vitals.mainBeat(), false)
      check(ALLOWED)
    }
    assert.deepEqual(reports, [])
  })

  it('reports once, by one of the workers, that it stands still, and tells it when it runs again', () => {
    vitals.mainBeat()
    check(ALLOWED)
    assert.deepEqual(reports, [])
    check(10 * ALLOWED)
    assert.deepEqual(reports, ['first'])
    assert.equal(vitals.mainBeat(), true)
    assert.equal(vitals.mainBeat(), false)
    check(ALLOWED + 1)
    assert.deepEqual(reports, ['first', 'first'])
  })

  it('expects nothing before the first beat', () => {
    check(10 * ALLOWED)
    assert.deepEqual(reports, [])
  })
})
