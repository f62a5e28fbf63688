/**
 * The bounded part of fuzzing: the corpus of every target, and a fixed number of damaged inputs from a fixed seed. It
 * finds again what was found once; `npm run fuzz` looks for more.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { SeededRandom } from '../support/seeded-random.ts'
import { minimise, readCorpus } from './corpus.ts'
import { mutate } from './mutator.ts'
import { bytesOf, loadTarget, TARGET_NAMES, type Target } from './target.ts'

const SEED = 9113

/** Runs one input; a failure shows the input. */
function runOne(target: Target, input: Uint8Array): void {
  try {
    target.run(input)
  } catch (error) {
    throw new Error(`input ${Buffer.from(input).toString('base64')}`, { cause: error })
  }
}

for (const name of TARGET_NAMES) {
  describe(`the fuzz target ${name}`, async () => {
    const target = await loadTarget(name)
    const corpus = readCorpus(name)
    const inputs = [...target.seeds(), ...corpus]

    test('holds its properties for the seeds and for everything in its corpus', () => {
      assert.ok(corpus.length > 0, 'there is a corpus')
      for (const input of inputs) runOne(target, input)
    })

    test('holds them for damaged inputs', () => {
      const random = new SeededRandom(SEED)
      for (let i = 0; i < target.testIterations; i++)
        runOne(target, mutate(target, random, random.pick(inputs), inputs))
    })
  })
}

test('an input is made as small as its property allows', () => {
  const isGood = (input: Uint8Array): boolean => Buffer.from(input).includes('needle')
  const small = minimise(bytesOf(`${'x'.repeat(500)}needle${'y'.repeat(300)}`), isGood)
  assert.equal(Buffer.from(small).toString('latin1'), 'needle')
})

test('mutations are the same for the same seed, and never longer than the target allows', async () => {
  const target = await loadTarget('h1')
  const seeds = target.seeds()
  const [one, other] = [new SeededRandom(1), new SeededRandom(1)]
  for (let i = 0; i < 500; i++) {
    const made = mutate(target, one, one.pick(seeds), seeds)
    assert.deepEqual(mutate(target, other, other.pick(seeds), seeds), made)
    assert.ok(made.length <= target.bytesMax)
  }
})
