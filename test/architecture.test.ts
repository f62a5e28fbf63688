/**
 * The rules of ARCHITECTURE.md that a machine can check: layers, owners of third-party packages, cycles, file length,
 * names, and that the code map tells the truth. Reads the import lines of src/; depends on nothing.
 */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, relative } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const src = join(root, 'src')

/** An import must go to a strictly lower rank; the same folder is free. */
const RANKS: Readonly<Record<string, number>> = {
  agent: 4,
  controller: 4,
  cli: 4,
  proxy: 3,
  dns: 3,
  compiler: 3,
  http: 2,
  transport: 2,
  security: 2,
  kernel: 2,
  kubernetes: 2,
  telemetry: 2,
  wire: 2,
  model: 1,
  base: 0,
}

/** Who may import a package; everything that is not listed may be imported by nobody. */
const PACKAGE_OWNERS: readonly [RegExp, RegExp][] = [
  [/^prom-client$/, /^telemetry\//],
  [/^@grpc\/|^protobufjs/, /^wire\//],
  [/^node-forge$/, /^security\//],
  [/^@kubernetes\//, /^kubernetes\//],
  [/^yaml$/, /^controller\/directory-source\.ts$|^controller\/yaml-.*\.ts$|^cli\/yaml-text\.ts$/],
  [/^node:net$|^node:tls$/, /^transport\/node-.*\.ts$|^wire\/|^agent\/|^controller\/|^cli\//],
  [/^node:(util|buffer)$/, /./],
  [/^node:/, /^(agent|controller|cli|security|telemetry|wire|kernel|kubernetes|transport)\//],
]

/** cli/ is the one program that starts the others, and only these files of it. */
const PROGRAM_IMPORTS = /^cli\/(commands|demo)\//

const LINES_MAX = 600
const BANNED_NAMES = /(^|-)(util|utils|helper|helpers|manager|common|misc)(-|\.|$)/

interface Import {
  readonly file: string
  readonly target: string
  readonly isTypeOnly: boolean
}

function filesBelow(directory: string): string[] {
  return readdirSync(directory, { withFileTypes: true }).flatMap((entry) => {
    const path = join(directory, entry.name)
    if (entry.isDirectory()) return filesBelow(path)
    return entry.name.endsWith('.ts') ? [path] : []
  })
}

const files = filesBelow(src).map((path) => relative(src, path))
const texts = new Map(files.map((file) => [file, readFileSync(join(src, file), 'utf8')]))

const IMPORT = /^(?:import|export)\s+(type\s)?(?:[^'"]*?\sfrom\s+)?['"]([^'"]+)['"]|import\(\s*['"]([^'"]+)['"]\s*\)/gm

const imports: Import[] = files.flatMap((file) =>
  [...texts.get(file)!.matchAll(IMPORT)].map((match) => ({
    file,
    target: match[2] ?? match[3]!,
    isTypeOnly: match[1] !== undefined,
  })),
)

function resolve({ file, target }: Import): string | null {
  return target.startsWith('.') ? normalize(join(dirname(file), target)) : null
}

function folderOf(file: string): string {
  return file.split('/')[0]!
}

test('the checks see the code at all', () => {
  assert.ok(files.length > 80, `${files.length} files`)
  assert.ok(imports.length > 300, `${imports.length} imports`)
})

test('every file lies in a folder that has a rank', () => {
  assert.deepEqual(
    files.filter((file) => RANKS[folderOf(file)] === undefined),
    [],
  )
})

test('an import goes to the same folder or to a strictly lower rank', () => {
  const wrong = imports.filter((entry) => {
    const target = resolve(entry)
    if (target === null) return false
    const [from, to] = [folderOf(entry.file), folderOf(target)]
    if (from === to) return false
    if (PROGRAM_IMPORTS.test(entry.file) && (to === 'agent' || to === 'controller')) return false
    return RANKS[to] === undefined || RANKS[to] >= RANKS[from]!
  })
  assert.deepEqual(wrong, [])
})

test('every imported file exists', () => {
  const missing = imports.filter((entry) => {
    const target = resolve(entry)
    return target !== null && !existsSync(join(src, target))
  })
  assert.deepEqual(missing, [])
})

test('third-party packages and Node modules are imported by their owners only', () => {
  const wrong = imports.filter((entry) => {
    if (entry.target.startsWith('.')) return false
    const rule = PACKAGE_OWNERS.find(([name]) => name.test(entry.target))
    return rule === undefined || !rule[1].test(entry.file)
  })
  assert.deepEqual(wrong, [])
})

test('http/, proxy/ and dns/ import no package and nothing of Node', () => {
  const wrong = imports.filter(({ file, target }) => /^(http|proxy|dns)\//.test(file) && !target.startsWith('.'))
  assert.deepEqual(wrong, [])
})

test('the environment is read in three files only', () => {
  const readers = files.filter((file) => /process\.env\b/.test(texts.get(file)!))
  const allowed = new Set(['agent/config.ts', 'controller/config.ts', 'cli/main.ts'])
  assert.deepEqual(
    readers.filter((file) => !allowed.has(file)),
    [],
  )
})

test('no import that remains at run time is part of a cycle', () => {
  const edges = new Map<string, string[]>()
  for (const entry of imports) {
    const target = resolve(entry)
    if (target === null || entry.isTypeOnly) continue
    edges.set(entry.file, [...(edges.get(entry.file) ?? []), target])
  }
  const done = new Set<string>()
  const path: string[] = []
  const visit = (file: string): void => {
    const start = path.indexOf(file)
    assert.equal(start, -1, `cycle: ${[...path.slice(start), file].join(' -> ')}`)
    if (done.has(file)) return
    path.push(file)
    for (const next of edges.get(file) ?? []) visit(next)
    path.pop()
    done.add(file)
  }
  for (const file of files) visit(file)
})

test(`no file is longer than ${LINES_MAX} lines, generated ones excepted`, () => {
  const long = files.filter((file) => !file.includes('.generated.') && texts.get(file)!.split('\n').length > LINES_MAX)
  assert.deepEqual(long, [])
})

test('file names are kebab-case and say what is in them', () => {
  const wrong = files.filter((file) =>
    file
      .split('/')
      .some((part) => !/^[a-z0-9]+(-[a-z0-9]+)*(\.generated)?(\.ts)?$/.test(part) || BANNED_NAMES.test(part)),
  )
  assert.deepEqual(wrong, [])
})

test('there are no barrel files', () => {
  assert.deepEqual(
    files.filter((file) => file.endsWith('/index.ts')),
    [],
  )
})

test('every file begins by saying what it is', () => {
  const written = files.filter((file) => !file.includes('.generated.'))
  const silent = written.filter((file) => !/^(\/\/ .*\n)?\/\*\*?/.test(texts.get(file)!.replace(/^#!.*\n/, '')))
  assert.deepEqual(silent, [])
})

test('the code map of ARCHITECTURE.md names every folder, and no file that does not exist', () => {
  const map = readFileSync(join(root, 'ARCHITECTURE.md'), 'utf8')
  for (const folder of Object.keys(RANKS)) assert.match(map, new RegExp(`\\b${folder}/`), folder)
  const named = [...map.matchAll(/`((?:src|native|test|bench|deploy)\/[A-Za-z0-9_./-]+\.[a-z]+)`/g)].map(
    (match) => match[1]!,
  )
  assert.ok(named.length > 20, 'the map names files')
  assert.deepEqual(
    named.filter((file) => !existsSync(join(root, file))),
    [],
  )
})
