/**
 * `npm run bench -- NAME [options]`: runs one bench. Every file in bench/, bench/macro and bench/micro that is a bench is
 * found by its name; the first sentence of its head comment is what the list says of it.
 */
import { spawnSync } from 'node:child_process'
import { globSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'

/** Files beside the benches that are none. */
const PARTS = new Set(['run.ts', 'measure.ts', 'machine.ts'])

const directory = import.meta.dirname
const files = ['*.ts', 'macro/*.ts', 'micro/*.ts'].flatMap((pattern) => globSync(pattern, { cwd: directory }).sort())
const benches = new Map(
  files.filter((file) => !PARTS.has(basename(file))).map((file) => [basename(file, '.ts'), join(directory, file)]),
)

const [name, ...args] = process.argv.slice(2)
if (name === undefined || name === '--help' || name === '-h') {
  console.log(usage())
  process.exit(name === undefined ? 2 : 0)
}
const file = benches.get(name)
if (file === undefined) {
  console.error(`weft: there is no bench "${name}".\n\n${usage()}`)
  process.exit(2)
}
process.exit(spawnSync(process.execPath, [file, ...args], { stdio: 'inherit' }).status ?? 1)

function usage(): string {
  const lines = [...benches].map(([bench, path]) => `  ${bench.padEnd(14)} ${purposeOf(path)}`)
  return `Usage: npm run bench -- NAME [options]\n\n${lines.join('\n')}\n\nbench/README.md says how to read the numbers.`
}

/** First sentence of the head comment, without an invocation in front of it. */
function purposeOf(path: string): string {
  const comment = /^(?:\/\/.*\n)*\/\*\*([\s\S]*?)\*\//.exec(readFileSync(path, 'utf8'))?.[1] ?? ''
  const text = comment
    .replace(/\n\s*\*/g, ' ')
    .replace(/\s+/g, ' ')
    .trim()
    .replace(/^`[^`]*`: /, '')
  return /^.*?[.](?= |$)/.exec(text)?.[0] ?? text
}
