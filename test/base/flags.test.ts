import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  choiceFlag,
  describeFlags,
  didYouMean,
  durationFlag,
  outputFlag,
  parseArguments,
  parseFlags,
  repeatedFlag,
  switchFlag,
  UsageError,
} from '../../src/base/flags.ts'

const TABLE = {
  duration: durationFlag({ name: 'duration', short: 'd', doc: 'How long.' }, 1000, 3_600_000),
  capture: choiceFlag({ name: 'capture', doc: 'How.' }, ['ebpf', 'loopback', 'auto'] as const, 'auto'),
  clean: switchFlag({ name: 'clean', doc: 'Tidy up.' }),
  output: outputFlag,
}

test('flags take their value from the next argument or after an equals sign, by long or short name', () => {
  for (const args of [
    ['--duration', '20s', '-o', 'json', '--clean'],
    ['--duration=20s', '--output=json', '--clean'],
    ['-d', '20s', '--clean', '-o=json'],
  ]) {
    assert.deepEqual(parseFlags(TABLE, args), { duration: 20_000, capture: 'auto', clean: true, output: 'json' })
  }
})

test('flags that are not given have their default', () => {
  assert.deepEqual(parseFlags(TABLE, []), { duration: null, capture: 'auto', clean: false, output: 'text' })
})

test('durations are read in ms, s, m and h', () => {
  for (const [text, ms] of [
    ['1500ms', 1500],
    ['1.5s', 1500],
    ['2m', 120_000],
    ['1h', 3_600_000],
  ] as const) {
    assert.equal(parseFlags(TABLE, ['-d', text]).duration, ms)
  }
})

test('every mistake is an error that names the flag and says what would be right', () => {
  const mistakes: readonly (readonly [args: readonly string[], message: RegExp])[] = [
    [['--duratoin', '20s'], /^unknown flag --duratoin\. Did you mean --duration\?$/],
    [['--frobnicate'], /^unknown flag --frobnicate$/],
    [['-x'], /^unknown flag -x/],
    [['--duration'], /^flag --duration needs a value: TIME$/],
    [['--duration', '20'], /^flag --duration: "20" is not valid: must be a number with ms, s, m or h, such as 20s$/],
    [['--duration', '-5s'], /--duration/],
    [['--duration', '1ms'], /^flag --duration: "1ms" is not valid: must be between 1s and 1h$/],
    [['--duration', '2h'], /between 1s and 1h/],
    [['--duration='], /--duration: "" is not valid/],
    [
      ['--capture', 'epbf'],
      /^flag --capture: "epbf" is not valid: must be one of ebpf, loopback, auto\. Did you mean ebpf\?$/,
    ],
    [['--output', 'yaml'], /--output: "yaml" is not valid: must be one of text, json/],
    [['--clean=yes'], /^flag --clean takes no value$/],
    [['--clean', '--clean'], /^flag --clean is given twice$/],
    [['now'], /^unexpected argument "now"$/],
    [['-'], /^unexpected argument "-"$/],
    [['--'], /^unknown flag --/],
  ]
  for (const [args, message] of mistakes) {
    assert.throws(
      () => parseFlags(TABLE, args),
      (error: unknown) => error instanceof UsageError && message.test(error.message),
      args.join(' '),
    )
  }
})

test('names of JavaScript objects are no flags', () => {
  for (const name of ['--constructor', '--__proto__', '--toString']) {
    assert.throws(() => parseFlags(TABLE, [name]), UsageError)
  }
})

test('help lists every flag with its value, sentence and default', () => {
  const text = describeFlags(TABLE)
  assert.match(text, /-d, --duration TIME +How long\.\n/)
  assert.match(text, / {4}--capture ebpf\|loopback\|auto +How\. Default: auto\.\n/)
  assert.match(text, / {4}--clean +Tidy up\.\n/)
})

test('a suggestion is made only when a name is near', () => {
  assert.equal(didYouMean('contoller', ['controller', 'agent']), '. Did you mean controller?')
  assert.equal(didYouMean('zzz', ['controller', 'agent']), '')
})

test('a repeatable flag collects its values in their order', () => {
  const table = { set: repeatedFlag({ name: 'set', doc: 'A value.' }, 'NAME=VALUE'), output: outputFlag }
  assert.deepEqual(parseFlags(table, []), { set: [], output: 'text' })
  assert.deepEqual(parseFlags(table, ['--set', 'a=1', '-o', 'json', '--set=b=2']).set, ['a=1', 'b=2'])
  assert.throws(() => parseFlags(table, ['--set=']), /must not be empty/)
  assert.throws(() => parseFlags(table, ['-o', 'json', '-o', 'json']), /given twice/)
})

test('positional arguments are taken up to the number that the command allows, before and after flags', () => {
  const table = { output: outputFlag }
  const { flags, positionals } = parseArguments(table, ['pods', '-o', 'json', 'shop'], 2)
  assert.deepEqual(positionals, ['pods', 'shop'])
  assert.equal(flags.output, 'json')
  assert.throws(() => parseArguments(table, ['pods', 'shop', 'more'], 2), /unexpected argument "more"/)
})
