/**
 * Parser fixtures in Markdown: documentation, input and expectation in one place (for HTTP/2 see h2-fixtures.ts).
 *
 * Under each `## title` stands a `bytes` block and an `events` block. Every line of a bytes block ends in CRLF, except
 * one that ends in a backslash, which ends in nothing. Escapes: \r \n \t \0 \\ \xHH. Words after `bytes` are options.
 * `UPDATE=1` writes the events that the code produces into the file; review the difference.
 */
import assert from 'node:assert/strict'
import { Buffer } from 'node:buffer'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..', 'fixtures')

export interface Fixture {
  readonly title: string
  readonly options: readonly string[]
  readonly bytes: Uint8Array
  readonly events: readonly string[]
}

/** The fixtures of `test/fixtures/<name>`; with UPDATE=1 the events become those that `actual` gives. */
export function readFixtures(
  name: string,
  actual: (fixture: Fixture) => readonly string[],
  read: (source: string) => Uint8Array = decode,
): Fixture[] {
  const path = join(root, name)
  const text = readFileSync(path, 'utf8')
  const fixtures: Fixture[] = []
  const pattern = /^## (.+)\n([\s\S]*?)^```bytes ?(.*)\n([\s\S]*?)^```\n\s*^```events\n([\s\S]*?)^```$/gm
  const updated = text.replace(pattern, (...parts: string[]) => {
    const [whole, title, prose, options, source, events] = parts as [string, string, string, string, string, string]
    const fixture: Fixture = {
      title,
      options: options.split(' ').filter((word) => word !== ''),
      bytes: read(source),
      events: events.split('\n').slice(0, -1),
    }
    assert.ok(!prose.includes('\n## '), `fixture ${title} has no blocks`)
    fixtures.push(fixture)
    if (process.env['UPDATE'] !== '1') return whole
    const produced = actual(fixture)
    return `## ${title}\n${prose}\`\`\`bytes${options === '' ? '' : ` ${options}`}\n${source}\`\`\`\n\n\`\`\`events\n${produced.map((line) => `${line}\n`).join('')}\`\`\``
  })
  assert.ok(fixtures.length > 0, `${name} has no fixtures`)
  assert.equal(
    fixtures.length,
    text.split('\n').filter((line) => line.startsWith('## ')).length,
    `${name} is malformed`,
  )
  if (updated !== text) writeFileSync(path, updated)
  return fixtures
}

function decode(source: string): Uint8Array {
  let text = ''
  for (const line of source.split('\n').slice(0, -1)) {
    const isOpen = line.endsWith('\\') && !line.endsWith('\\\\')
    text += resolveEscapes(isOpen ? line.slice(0, -1) : line) + (isOpen ? '' : '\r\n')
  }
  return new Uint8Array(Buffer.from(text, 'latin1'))
}

function resolveEscapes(line: string): string {
  return line.replace(/\\(x[0-9a-f]{2}|[rnt0\\])/g, (_whole, code: string) => {
    if (code.startsWith('x')) return String.fromCharCode(Number.parseInt(code.slice(1), 16))
    return { r: '\r', n: '\n', t: '\t', '0': '\0', '\\': '\\' }[code] ?? ''
  })
}
