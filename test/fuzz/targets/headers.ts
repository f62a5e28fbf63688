/**
 * The header list against a plain list of pairs. The input is text: field lines as a peer sends them, an empty line, then
 * one edit per line: `+name: value` adds, `=name: value` sets, `-name` removes, `c` goes on with a clone.
 */
import assert from 'node:assert/strict'
import { latin1Slice } from '../../../src/base/bytes.ts'
import { WeftError } from '../../../src/base/errors.ts'
import { type FieldOutput, HeaderList, NOT_FORWARDED } from '../../../src/http/headers.ts'
import { RecordingServer } from '../../support/h1-recorders.ts'
import { bytesOf, type Target } from '../target.ts'

type Pair = readonly [name: string, value: string]

const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/
// biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what it looks for
const CONTROL = /[\x00-\x08\x0a-\x1f\x7f]/

class TextOutput implements FieldOutput {
  text = ''

  writeBytes(bytes: Uint8Array, offset: number, length: number): void {
    this.text += latin1Slice(bytes, offset, offset + length)
  }

  writeText(text: string): void {
    this.text += text
  }
}

function pairsOf(list: HeaderList): Pair[] {
  return Array.from({ length: list.length }, (_, i) => [list.nameAt(i), list.valueAt(i)])
}

/** The list of a head with these lines; null when the head is refused. */
function parsed(lines: string): HeaderList | null {
  const server = new RecordingServer()
  server.receive(`GET / HTTP/1.1\r\nHost: h\r\n${lines}\r\n`)
  return server.exchanges.length === 1 ? server.last.head.headers : null
}

/** A list and what it should hold. */
class Checked {
  readonly list: HeaderList
  readonly model: Pair[]

  constructor(list: HeaderList, model: Pair[]) {
    this.list = list
    this.model = model
  }

  edit(line: string): string {
    const operation = line[0] ?? ''
    const colon = line.indexOf(':', 1)
    const name = colon < 0 ? line.slice(1) : line.slice(1, colon)
    const value = colon < 0 ? '' : line.slice(colon + 1).trim()
    if (operation === '-') {
      this.list.remove(name)
      this.drop(name)
    } else if (operation === '+' || operation === '=') {
      if (!this.write(operation, name, value)) return 'refused'
      if (operation === '=') this.drop(name)
      this.model.push([name.toLowerCase(), value])
    }
    return operation
  }

  private write(operation: string, name: string, value: string): boolean {
    const isGood = TOKEN.test(name) && !CONTROL.test(value)
    try {
      if (operation === '+') this.list.add(name, value)
      else this.list.set(name, value)
      assert.ok(isGood, `${JSON.stringify([name, value])} was accepted`)
    } catch (error) {
      if (!(error instanceof WeftError) || isGood) throw error
    }
    return isGood
  }

  private drop(name: string): void {
    const kept = this.model.filter(([other]) => other !== name.toLowerCase())
    this.model.splice(0, this.model.length, ...kept)
  }

  check(): void {
    const { list, model } = this
    assert.deepEqual(pairsOf(list), model)
    for (const [name] of model) {
      const values = model.filter(([other]) => other === name).map(([, value]) => value)
      assert.equal(list.get(name), values[0])
      assert.equal(list.getJoined(name), values.join(', '))
      assert.equal(list.has(name), true)
    }
    assert.equal(list.has('x-is-not-there-'), false)
    const forwarded = model.filter(([name]) => !NOT_FORWARDED.has(name))
    const output = new TextOutput()
    list.writeTo(output)
    assert.equal(output.text, forwarded.map(([name, value]) => `${name}: ${value}\r\n`).join(''))
    const fields: string[] = []
    list.appendTo(fields)
    assert.deepEqual(fields, forwarded.flat())
    const again = parsed(output.text)
    if (again !== null) assert.deepEqual(pairsOf(again), forwarded)
    // What a list may hold but a head may not is a matter of number and size only.
    else assert.ok(forwarded.length >= 128 || output.text.length > 60_000, 'the next hop refuses what is written')
  }
}

export const target: Target = {
  sources: ['src/http/headers.ts'],
  bytesMax: 20_000,
  testIterations: 2_000,
  // biome-ignore format: a dense table
  tokens: [
    '\r\n', '\r\n\r\n', '\n', ': ', ':', ' ', '\t', '\0', '\x7f', '\xff', 'A: 1\r\n', 'a:1\r\n', 'B:  2 \r\n', 'c:\r\n', 'Connection: a\r\n',
    '\r\n+a: 1', '\r\n=a: 2', '\r\n-a', '\r\nc', '\r\n+B:3', '\r\n=host: x', '\r\n+te: y', '\r\n-B', '\r\n+Upgrade: z', '\r\n-host',
  ].map(bytesOf),
  seeds: () =>
    [
      'A: 1\r\nB: 2\r\na: 3\r\nC: 4\r\n\r\n=a: new\r\n+b: 5\r\n-c',
      'A:1\r\nBee:  two words \r\nE:\r\n\r\nc\r\n-a\r\n+e: x\r\nc\r\n=BEE: y',
      'A: 1\r\n\r\n+x: 1\r\nc\r\n+y: 2\r\n-x\r\nc\r\n=y: 3',
      '\r\n+connection: close\r\n+host: h\r\n+x: y\r\n=x: z\r\n-host',
    ].map(bytesOf),
  run: (input) => {
    const text = Buffer.from(input).toString('latin1')
    const middle = text.indexOf('\r\n\r\n')
    const start = middle < 0 ? null : parsed(text.slice(0, middle + 2))
    const list = start ?? new HeaderList()
    for (const [name, value] of pairsOf(list)) {
      assert.ok(TOKEN.test(name) && name === name.toLowerCase() && !CONTROL.test(value))
      assert.ok(!NOT_FORWARDED.has(name), `${name} is in the list of a head`)
    }
    let current = new Checked(list, pairsOf(list))
    const all = [current]
    const seen = new Set<string>()
    for (const line of (middle < 0 ? text : text.slice(middle + 4)).split('\r\n').slice(0, 40)) {
      if (line === 'c') {
        current = new Checked(current.list.clone(), [...current.model])
        all.push(current)
      }
      seen.add(current.edit(line))
      current.check()
    }
    // Edits of a clone do not show in its original, nor the other way round.
    for (const one of all) one.check()
    return `${start !== null} ${all.length > 1} ${[...seen]
      .filter((one) => one === 'refused' || /^[-+=]$/.test(one))
      .sort()
      .join('')}`
  },
  mutate: null,
}
