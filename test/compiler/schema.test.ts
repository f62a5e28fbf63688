import assert from 'node:assert/strict'
import { test } from 'node:test'
import { formatMessage, type Message, MessageLog, OBJECT_MESSAGES_MAX, quote } from '../../src/compiler/messages.ts'
import {
  Cursor,
  checked,
  closest,
  decimal,
  duration,
  flag,
  integer,
  list,
  map,
  object,
  oneOf,
  parseDuration,
  refused,
  required,
  type Shape,
  text,
  unsupported,
} from '../../src/compiler/schema.ts'
import { parse, tree } from './builders.ts'

interface Reading {
  readonly value: unknown
  /** `severity field: text`. */
  readonly said: string[]
}

function readMessages(shape: Shape<unknown>, value: unknown): Message[] {
  const log = new MessageLog()
  shape.read(value, new Cursor(log, parse(tree('v1', 'Test', 'x', value)), ['spec']))
  return log.sorted()
}

function read(shape: Shape<unknown>, value: unknown): Reading {
  const log = new MessageLog()
  const subject = parse(tree('v1', 'Test', 'x', value))
  const result = shape.read(value, new Cursor(log, subject, ['spec']))
  return { value: result, said: log.sorted().map(({ severity, field, text }) => `${severity} ${field}: ${text}`) }
}

for (const [written, milliseconds] of [
  ['1.5s', 1500],
  ['1h', 3_600_000],
  ['1m', 60_000],
  ['1ms', 1],
  ['0s', 0],
  ['0', 0],
  ['1h2m3s', 3_723_000],
  ['0.1s', 100],
  ['0.3s', 300],
  ['500us', 0.5],
  ['', null],
  ['5', null],
  ['1 s', null],
  ['-1s', null],
  ['1d', null],
  ['1s1', null],
  ['s', null],
  ['1e3s', null],
  ['99999999999h', null],
] as const) {
  test(`duration ${JSON.stringify(written)} is ${milliseconds} ms`, () => {
    assert.equal(parseDuration(written), milliseconds)
  })
}

test('durations are whole milliseconds, and zero only where it means "off"', () => {
  assert.equal(read(duration('zero'), '0s').value, 0)
  assert.equal(read(duration('positive'), '0s').said.length, 1)
  assert.equal(read(duration('positive'), '500us').said.length, 1)
  assert.equal(read(duration('positive'), 5).said.length, 1)
})

for (const [what, shape, value, said] of [
  ['a number for text', text, 8080, 'The value 8080 is not text. Put it in quotes: "8080".'],
  ['an object for text', text, {}, 'The value {...} is not text. Write text.'],
  ['text for a flag', flag, 'yes', 'The value "yes" is of the wrong type or out of range. Write true or false.'],
  [
    'text for a number',
    integer(1, 9),
    '5',
    'The value "5" is of the wrong type or out of range. Write a whole number from 1 to 9.',
  ],
  [
    'a fraction',
    integer(1, 9),
    2.5,
    'The value 2.5 is of the wrong type or out of range. Write a whole number from 1 to 9.',
  ],
  [
    'a number out of range',
    integer(1, 9),
    10,
    'The value 10 is of the wrong type or out of range. Write a whole number from 1 to 9.',
  ],
  [
    'a percentage out of range',
    decimal(0, 100),
    101,
    'The value 101 is of the wrong type or out of range. Write a number from 0 to 100.',
  ],
  [
    'no number at all',
    decimal(0, 100),
    Number.NaN,
    'The value NaN is of the wrong type or out of range. Write a number from 0 to 100.',
  ],
  ['a misspelled word', oneOf(['ALLOW', 'DENY']), 'DENI', '"DENI" is not one of ALLOW, DENY. Did you mean DENY?'],
  ['another word', oneOf(['ALLOW', 'DENY']), 'x', '"x" is not one of ALLOW, DENY. Write one of them.'],
  ['text for a list', list(text), 'a', 'The value "a" is of the wrong type or out of range. Write a list.'],
  ['a list for a map', map(text), [], 'The value [...] is of the wrong type or out of range. Write an object.'],
  ['text for an object', object({}), 'a', 'The value "a" is of the wrong type or out of range. Write an object.'],
] as const) {
  test(`${what} is an error that says what was found and what to write`, () => {
    assert.deepEqual(
      readMessages(shape, value).map((message) => `${message.text} ${message.fix}`),
      [said],
    )
  })
}

test('an object reads to a normal form: null, empty list and empty map where nothing is', () => {
  const shape = object({ name: text, ports: list(integer(1, 9)), labels: map(text), inner: object({ a: text }) })
  const empty = { name: null, ports: [], labels: new Map(), inner: null }
  assert.deepEqual(read(shape, {}), { value: empty, said: [] })
  assert.deepEqual(read(shape, { name: null, ports: null, labels: null, inner: null }), { value: empty, said: [] })
})

test('all errors of an object come at once, each with its field', () => {
  const shape = object({ name: required(text), port: integer(1, 9), rules: list(object({ to: required(text) })) })
  const { said } = read(shape, { port: 0, rules: [{ to: 'a' }, {}, { to: 1, form: 2 }] })
  assert.deepEqual(said, [
    'error spec: The field name is missing.',
    'error spec.port: The value 0 is of the wrong type or out of range.',
    'error spec.rules[1]: The field to is missing.',
    'error spec.rules[2].form: There is no field "form" here.',
    'error spec.rules[2].to: The value 1 is not text.',
  ])
})

test('null in a list is an error, null in a map reads as absent unless a value is required', () => {
  assert.equal(read(list(text), ['a', null]).said.length, 1)
  assert.deepEqual(read(map(text), { a: null }).value, new Map([['a', null]]))
  assert.equal(read(map(required(text)), { a: null }).said.length, 1)
})

test('fields that a prototype would have are unknown fields', () => {
  const { said } = read(object({ name: text }), JSON.parse('{"__proto__": {"x": 1}, "constructor": 1, "name": "a"}'))
  assert.equal(said.length, 2)
})

test('a check runs only on what is right in itself', () => {
  const values: unknown[] = []
  const shape = checked(list(object({ port: required(integer(1, 9)) })), (value) => values.push(value))
  read(shape, [{}])
  assert.deepEqual(values, [])
  read(shape, [{ port: 1 }])
  assert.deepEqual(values, [[{ port: 1 }]])
})

test('fields without effect are warnings, fields that must not be ignored are errors', () => {
  const shape = object({ cors: unsupported('cors', 'nothing happens'), delegate: refused('delegate', 'no target') })
  assert.deepEqual(read(shape, { cors: {}, delegate: {} }).said, [
    'warning spec.cors: cors is not supported yet: nothing happens.',
    'error spec.delegate: delegate is not supported yet: no target.',
  ])
  assert.deepEqual(read(shape, {}).said, [])
})

test('lists and maps have a limit', () => {
  assert.equal(read(list(text, 3), ['a', 'b', 'c', 'd']).said.length, 1)
  const large = Object.fromEntries(Array.from({ length: 5000 }, (_, i) => [`k${i}`, 'v']))
  assert.equal(read(map(text), large).said.length, 1)
})

test('messages about one object are limited, and the object still counts as failed', () => {
  const { said } = read(list(text), Array(4000).fill(1))
  assert.ok(said.length <= 2 * OBJECT_MESSAGES_MAX, `${said.length}`)
})

for (const [word, suggestion] of [
  ['htpp', 'http'],
  ['Http', 'http'],
  ['mirror_percentage', 'mirrorPercentage'],
  ['mirrorpercentage', 'mirrorPercentage'],
  ['rout', 'route'],
  ['xyz', null],
  ['', null],
  ['a'.repeat(100_000), null],
] as const) {
  test(`did you mean: ${word.slice(0, 20)} -> ${suggestion}`, () => {
    assert.equal(closest(word, ['http', 'route', 'mirrorPercentage', 'timeout']), suggestion)
  })
}

test('a message is one line with place, severity, code, object, field, text and fix', () => {
  const position = { file: 'a.yaml', line: 3, column: 5 }
  const message = {
    code: 'IST0106',
    severity: 'error',
    text: 'Bad.',
    fix: 'Fix it.',
    object: 'Pod/a/b',
    field: 'spec',
    position,
  } as const
  assert.equal(formatMessage(message), 'a.yaml:3:5: error IST0106 Pod/a/b spec: Bad. Fix it.')
  assert.equal(formatMessage({ ...message, position: null, field: '', fix: '' }), 'error IST0106 Pod/a/b: Bad.')
})

for (const [value, text] of [
  ['a"b', '"a\\"b"'],
  ['a'.repeat(200), `"${'a'.repeat(80)}"...`],
  [8080, '8080'],
  [null, 'null'],
  [true, 'true'],
  [{ a: 1 }, '{...}'],
  [[1], '[...]'],
] as const) {
  test(`a message repeats ${text}`, () => {
    assert.equal(quote(value), text)
  })
}

test('a message about a missing field points at what encloses it', () => {
  const log = new MessageLog()
  const line = (length: number) => ({ file: 'a.yaml', line: length, column: 1 })
  const subject = {
    ...parse(tree('v1', 'Test', 'x', {})),
    positionOf: (path: readonly unknown[]) => (path.length > 1 ? null : line(path.length)),
  }
  new Cursor(log, subject).at('spec', 'http', 0).reject('Bad.', '')
  assert.equal(log.sorted()[0]!.position?.line, 1)
})
