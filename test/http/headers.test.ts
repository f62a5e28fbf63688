import assert from 'node:assert/strict'
import { test } from 'node:test'
import { latin1Slice } from '../../src/base/bytes.ts'
import { ConstantFields } from '../../src/http/constant-fields.ts'
import { type FieldOutput, HeaderList } from '../../src/http/headers.ts'
import { RecordingServer } from '../support/h1-recorders.ts'
import { SeededRandom } from '../support/seeded-random.ts'

class TextOutput implements FieldOutput {
  text = ''
  pieces = 0

  writeBytes(bytes: Uint8Array, offset: number, length: number): void {
    this.text += latin1Slice(bytes, offset, offset + length)
    this.pieces++
  }

  writeText(text: string): void {
    this.text += text
  }
}

function written(list: HeaderList): string {
  const output = new TextOutput()
  list.writeTo(output)
  return output.text
}

function pairs(list: HeaderList): [string, string][] {
  return Array.from({ length: list.length }, (_, index) => [list.nameAt(index), list.valueAt(index)])
}

/** A list that came from the wire. */
function parsed(...lines: string[]): HeaderList {
  const server = new RecordingServer()
  server.receive(`GET / HTTP/1.1\r\nHost: h\r\n${lines.map((line) => `${line}\r\n`).join('')}\r\n`)
  return server.last.head.headers
}

test('a list from the wire is read by position and by name', () => {
  const list = parsed('Accept: a', 'X-Id: 7', 'ACCEPT:  b ')
  assert.deepEqual(pairs(list), [
    ['accept', 'a'],
    ['x-id', '7'],
    ['accept', 'b'],
  ])
  assert.equal(list.get('accept'), 'a')
  assert.equal(list.getJoined('accept'), 'a, b')
  assert.equal(list.get('x-i'), null)
  assert.equal(list.getJoined('x-none'), null)
  assert.equal(list.has('x-id'), true)
  assert.equal(list.has('x-none'), false)
})

test('an empty list has nothing and writes nothing', () => {
  const list = new HeaderList()
  assert.equal(list.length, 0)
  assert.equal(list.get('a'), null)
  list.remove('a')
  assert.equal(written(list), '')
})

test('set replaces every field of that name and leaves the others in order', () => {
  const list = parsed('A: 1', 'B: 2', 'a: 3', 'C: 4')
  list.set('A', 'new')
  assert.deepEqual(pairs(list), [
    ['b', '2'],
    ['c', '4'],
    ['a', 'new'],
  ])
  list.set('a', 'newer')
  assert.equal(list.getJoined('a'), 'newer')
})

test('add keeps what is there, remove takes all of a name', () => {
  const list = parsed('A: 1', 'B: 2')
  list.add('a', '2')
  list.add('X', '')
  assert.equal(list.getJoined('a'), '1, 2')
  list.remove('A')
  assert.deepEqual(pairs(list), [
    ['b', '2'],
    ['x', ''],
  ])
})

test('a clone shares no edits with its original', () => {
  const list = parsed('A: 1', 'B: 2', 'C: 3')
  list.add('d', '4')
  const copy = list.clone()
  copy.remove('a')
  copy.set('d', '5')
  list.remove('b')
  assert.equal(written(copy), 'b: 2\r\nc: 3\r\nd: 5\r\n')
  assert.equal(written(list), 'a: 1\r\nc: 3\r\nd: 4\r\n')
})

test('lists of different heads do not disturb each other', () => {
  const first = parsed('A: 1', 'B: 2')
  const second = parsed('C: 3', 'D: 4')
  first.remove('a')
  second.remove('c')
  first.add('e', '5')
  assert.equal(written(first), 'b: 2\r\ne: 5\r\n')
  assert.equal(written(second), 'd: 4\r\n')
})

test('unedited fields go out as one run of bytes, oddly spaced ones in normal form', () => {
  const output = new TextOutput()
  parsed('A: 1', 'Bee: two words').writeTo(output)
  assert.equal(output.text, 'a: 1\r\nbee: two words\r\n')
  assert.equal(output.pieces, 1)
  assert.equal(
    written(parsed('A:1', 'B: 2', 'C:\t3', 'D: 4 ', 'E:', 'F: ', 'G: 7')),
    'a: 1\r\nb: 2\r\nc: 3\r\nd: 4\r\ne: \r\nf: \r\ng: 7\r\n',
  )
})

test('names that concern one connection are never written, however they came into the list', () => {
  const list = HeaderList.of([
    ['Connection', 'close'],
    ['keep-alive', 'x'],
    ['proxy-connection', 'x'],
    ['te', 'gzip'],
    ['transfer-encoding', 'chunked'],
    ['upgrade', 'h2c'],
    ['host', 'evil'],
    ['content-length', '7'],
    ['expect', '100-continue'],
    ['x-stays', '1'],
  ])
  assert.equal(written(list), 'x-stays: 1\r\n')
})

test('a value or name that could end a line is refused', () => {
  const list = new HeaderList()
  for (const value of ['a\r\nb: c', 'a\nb', 'a\rb', 'a\0b', 'a\u007f', 'snow \u2603', 'a\u010ab']) {
    assert.throws(() => list.set('x', value), { code: 'WEFT_PROTOCOL' }, JSON.stringify(value))
    assert.throws(() => list.add('x', value), { code: 'WEFT_PROTOCOL' })
    assert.throws(() => HeaderList.of([['x', value]]), { code: 'WEFT_PROTOCOL' })
  }
  for (const name of ['', 'a b', 'a:', 'a\r\n', 'h\u00e9', '\u2603']) {
    assert.throws(() => list.set(name, 'x'), { code: 'WEFT_PROTOCOL' }, JSON.stringify(name))
  }
  assert.equal(list.length, 0)
  list.set('x', 'caf\u00e9\tok')
  assert.equal(list.get('x'), 'caf\u00e9\tok')
})

test('random edits leave what a plain list of pairs would have', () => {
  const random = new SeededRandom(7)
  const names = ['a', 'b', 'c', 'dd', 'ee', 'x-long-name']
  for (let round = 0; round < 200; round++) {
    const start = random.list(8, () => [random.pick(names), String(random.integer(0, 99))] as [string, string])
    const list = parsed(...start.map(([name, value]) => `${name}: ${value}`))
    let model = start
    for (let edit = 0; edit < 10; edit++) {
      const name = random.pick(names)
      const value = String(random.integer(0, 99))
      const choice = random.integer(0, 2)
      if (choice === 0) list.add(name, value)
      else if (choice === 1) list.set(name, value)
      else list.remove(name)
      if (choice !== 0) model = model.filter(([other]) => other !== name)
      if (choice !== 2) model = [...model, [name, value]]
      assert.deepEqual(pairs(list), model)
      const values = model.filter(([other]) => other === name).map((pair) => pair[1])
      assert.equal(list.getJoined(name), values.length === 0 ? null : values.join(', '))
      assert.equal(written(list), model.map(([other, text]) => `${other}: ${text}\r\n`).join(''))
    }
  }
})

test('constant fields come last, are read like all others, and are shared by lists without a copy', () => {
  const constant = new ConstantFields(['x-c', '1', 'x-d', '2'])
  const first = parsed('A: 1')
  const second = new HeaderList()
  for (const list of [first, second]) list.appendConstant(constant)
  first.add('b', '2')
  assert.equal(written(first), 'a: 1\r\nb: 2\r\nx-c: 1\r\nx-d: 2\r\n')
  assert.deepEqual(pairs(second), [
    ['x-c', '1'],
    ['x-d', '2'],
  ])
  assert.equal(first.get('x-d'), '2')
  assert.equal(first.getJoined('x-d'), '2')
  assert.equal(first.get('x-e'), null)
  first.add('x-c', '0')
  assert.equal(first.getJoined('x-c'), '0, 1')
  const fields: string[] = []
  second.appendTo(fields)
  assert.deepEqual(fields, ['x-c', '1', 'x-d', '2'])
})

test('constant fields can be edited in one list; the others keep them', () => {
  const constant = new ConstantFields(['x-c', '1', 'x-d', '2'])
  const list = parsed('A: 1')
  list.appendConstant(constant)
  const copy = list.clone()
  list.remove('X-C')
  list.set('x-d', '3')
  assert.equal(written(list), 'a: 1\r\nx-d: 3\r\n')
  assert.equal(written(copy), 'a: 1\r\nx-c: 1\r\nx-d: 2\r\n')
  assert.deepEqual(constant.texts, ['x-c', '1', 'x-d', '2'])
})

test('constant fields are added to constant fields', () => {
  const first = new ConstantFields(['x-c', '1'])
  const second = new ConstantFields(['x-d', '2'])
  const list = new HeaderList()
  list.appendConstant(first)
  list.appendConstant(second)
  assert.equal(written(list), 'x-c: 1\r\nx-d: 2\r\n')
  assert.equal(second.after(first), second.after(first), 'two that were joined once are not joined again')
  assert.deepEqual(second.after(new ConstantFields(['x-e', '3'])).texts, ['x-e', '3', 'x-d', '2'])
})

test('constant fields that could end a line are refused', () => {
  for (const texts of [
    ['x', 'a\r\nb: c'],
    ['x', 'a\0'],
    ['X', 'a'],
    ['x y', 'a'],
    ['', 'a'],
    ['x', ' a'],
    ['x', 'snow \u2603'],
  ]) {
    assert.throws(() => new ConstantFields(texts), { code: 'WEFT_PROTOCOL' }, JSON.stringify(texts))
  }
})

test('fields are found by the beginning of their name and removed by position', () => {
  const list = parsed('A: 1', 'X-B: 2', 'XC: 3', 'X-D: 4')
  list.add('x-e', '5')
  list.add('f', '6')
  const found: number[] = []
  for (let at = list.indexOfPrefix('x-', 0); at >= 0; at = list.indexOfPrefix('x-', at + 1)) found.push(at)
  assert.deepEqual(found, [1, 3, 4])
  assert.equal(list.nameLengthAt(4), 3)
  assert.equal(list.isNamed(4, 'x-e'), true)
  assert.equal(list.isNamed(1, 'x-b'), true)
  assert.equal(list.isNamed(1, 'x-d'), false)
  list.removeAt(4)
  list.removeAt(1)
  assert.equal(written(list), 'a: 1\r\nxc: 3\r\nx-d: 4\r\nf: 6\r\n')
  assert.equal(list.indexOfPrefix('x-longer-than-any', 0), -1)
})

test('constant fields of one name are all found', () => {
  const list = HeaderList.of([['x-c', '0']])
  list.appendConstant(new ConstantFields(['x-c', '1', 'x-d', '2']))
  list.appendConstant(new ConstantFields(['x-c', '3']))
  assert.equal(list.getJoined('x-c'), '0, 1, 3')
  assert.equal(list.get('x-d'), '2')
  list.remove('x-c')
  assert.equal(list.getJoined('x-c'), null)
})

test('constant fields are joined once with each of the few that come before them', () => {
  const last = new ConstantFields(['x-z', '9'])
  const befores = Array.from({ length: 4 }, (_, index) => new ConstantFields([`x-${index}`, '1']))
  const joined = befores.map((before) => last.after(before))
  for (const [index, before] of befores.entries()) {
    assert.equal(last.after(before) === joined[index], true)
    assert.deepEqual(joined[index]!.texts, [`x-${index}`, '1', 'x-z', '9'])
  }
  const more = last.after(new ConstantFields(['x-5', '1']))
  assert.deepEqual(more.texts, ['x-5', '1', 'x-z', '9'])
  assert.deepEqual(last.after(befores[0]!).texts, joined[0]!.texts)
})
