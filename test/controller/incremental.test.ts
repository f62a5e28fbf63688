/**
 * What is made of a change is what all objects together would have been made to from scratch, byte for byte: the state,
 * the messages, and the resources that agents get. Whatever changed, in whatever order, and whoever else was at work.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { atOnce } from '../../src/base/steps.ts'
import { type CompileResult, compile, compileSteps } from '../../src/compiler/compile.ts'
import { CompileMemo } from '../../src/compiler/compile-memo.ts'
import type { MeshObject } from '../../src/compiler/object.ts'
import { analyseCandidate } from '../../src/controller/candidate-analysis.ts'
import { LastGood } from '../../src/controller/last-good.ts'
import { ResourceSet } from '../../src/controller/resource-set.ts'
import { RESOURCE_TYPES } from '../../src/wire/discovery.ts'
import { SETTINGS } from '../compiler/builders.ts'
import { RandomMesh } from '../support/random-mesh.ts'
import { SeededRandom } from '../support/seeded-random.ts'

const SEQUENCES = 400
const CHANGES = 8
const NODES = ['node1', 'node2', 'node3', 'nowhere']

/** The whole result as text: also the order of keys and lists is the same. */
function assertSame(result: CompileResult, expected: CompileResult, where: string): void {
  if (JSON.stringify(result) === JSON.stringify(expected)) return
  assert.deepEqual(result, expected, where)
  assert.fail(`${where}: the same, in another order`)
}

/** Names and versions of all that the agents get. */
function published(set: ResourceSet): unknown {
  return NODES.map((node) =>
    RESOURCE_TYPES.map((type) => [...set.of(type, node)].map(([name, { version }]) => `${name} ${version}`).sort()),
  )
}

test('any sequence of changes compiles and is published as what it has come to', () => {
  let messages = 0
  let traffic = 0
  for (let seed = 0; seed < SEQUENCES; seed++) {
    const random = new SeededRandom(seed)
    const mesh = new RandomMesh(random)
    const memo = new CompileMemo()
    let set = ResourceSet.empty
    for (let round = 0; round < CHANGES; round++) {
      const where = `sequence ${seed}, round ${round}`
      const { objects } = mesh
      const result = atOnce(compileSteps(objects, SETTINGS, memo))
      const expected = compile(objects, SETTINGS)
      assertSame(result, expected, where)
      set = atOnce(set.next(result.state))
      assert.deepEqual(published(set), published(atOnce(ResourceSet.empty.next(expected.state))), where)
      messages += expected.messages.length
      traffic += expected.state.traffic.length
      for (let i = random.integer(0, 2); i >= 0; i--) mesh.change()
    }
  }
  // The sequences are about something.
  assert.ok(messages > SEQUENCES * CHANGES && traffic > SEQUENCES, `${messages} messages, ${traffic} traffic`)
})

test('reviews between the steps of a run, and runs that are given up, leave no trace', () => {
  for (let seed = 1000; seed < 1100; seed++) {
    const random = new SeededRandom(seed)
    const mesh = new RandomMesh(random)
    const memo = new CompileMemo()
    let present: { objects: readonly MeshObject[]; messages: CompileResult['messages'] } = { objects: [], messages: [] }
    for (let round = 0; round < 5; round++) {
      const where = `sequence ${seed}, round ${round}`
      const { objects } = mesh
      const steps = compileSteps(objects, SETTINGS, memo)
      const review = analyseCandidate(mesh.candidate(), present, SETTINGS, memo)
      const given = compileSteps(objects.slice(random.integer(0, 3)), SETTINGS, memo)
      // All three get on by turns; the third never comes to its end.
      for (let i = random.integer(1, 40); i > 0; i--) given.next()
      given.return(undefined as never)
      for (let i = random.integer(1, 60); i > 0; i--) review.next()
      let result: CompileResult | null = null
      while (result === null) {
        const step = steps.next()
        if (step.done === true) result = step.value
        else review.next()
      }
      atOnce(review)
      assertSame(result, compile(objects, SETTINGS), where)
      present = { objects, messages: result.messages }
      const candidate = mesh.candidate()
      assert.deepEqual(
        atOnce(analyseCandidate(candidate, present, SETTINGS, memo)),
        atOnce(analyseCandidate(candidate, present, SETTINGS)),
        where,
      )
      mesh.change()
    }
  }
})

test('the last good versions in force are those that somebody without a memory would have', () => {
  for (let seed = 2000; seed < 2060; seed++) {
    const mesh = new RandomMesh(new SeededRandom(seed))
    const lastGood = new LastGood(SETTINGS)
    let good: ReadonlyMap<string, MeshObject> = new Map()
    for (let round = 0; round < 6; round++) {
      const { objects } = mesh
      const { state, messages } = lastGood.compile(objects)
      // One that begins with what was good, and has compiled nothing yet.
      const fresh = new LastGood(SETTINGS, [...good.values()])
      const expected = fresh.compile(objects)
      assertSame({ state, messages }, expected, `sequence ${seed}, round ${round}`)
      good = new Map(lastGood.objects.map((object) => [object.key, object]))
      assert.deepEqual([...good.keys()], [...fresh.objects.map(({ key }) => key)])
      mesh.change()
    }
  }
})
