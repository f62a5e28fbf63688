import assert from 'node:assert/strict'
import { appendFile, mkdir, rename, rm, symlink, unlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import test, { type TestContext } from 'node:test'
import { silentLog } from '../../src/base/log.ts'
import { DirectorySource } from '../../src/controller/directory-source.ts'
import { readYamlFile } from '../../src/controller/yaml-file.ts'
import { Events, temporaryDirectory } from '../support/control-plane.ts'
import { FakeClock } from '../support/fake-clock.ts'

function namespace(name: string): string {
  return `apiVersion: v1\nkind: Namespace\nmetadata: { name: ${name} }\n`
}

const NOT_YAML = 'apiVersion: v1\nkind: Namespace\nmetadata: { name: [a }\n'

/** A source on a directory of its own; the clock runs on by itself where a test waits for a change. */
class Setting {
  readonly directory: string
  readonly clock = new FakeClock()
  readonly changes = new Events<boolean>()
  readonly source: DirectorySource

  constructor(directory: string) {
    this.directory = directory
    this.source = new DirectorySource({
      directory,
      clock: this.clock,
      log: silentLog,
      onChange: () => this.changes.push(true),
    })
  }

  path(name: string): string {
    return join(this.directory, name)
  }

  names(): string[] {
    return this.source.objects.map((object) => object.name)
  }

  /** Lets time pass until the source reports a change. */
  async change(): Promise<void> {
    let isChanged = false
    const waiting = this.changes.next().then(() => {
      isChanged = true
    })
    while (!isChanged) {
      this.clock.advance(1000)
      await new Promise((resolve) => setImmediate(resolve))
    }
    await waiting
  }
}

async function setUp(t: TestContext, files: Readonly<Record<string, string>> = {}): Promise<Setting> {
  const setting = new Setting(await temporaryDirectory(t))
  for (const [name, text] of Object.entries(files)) await writeFile(setting.path(name), text)
  await setting.source.start()
  t.after(() => setting.source.stop())
  return setting
}

test('reads every YAML file of the directory, in order of their names, and nothing else', async (t) => {
  const setting = await setUp(t, {
    'b.yaml': namespace('b'),
    'a.yml': `${namespace('a1')}---\n${namespace('a2')}---\n# nothing\n---\n`,
    '.hidden.yaml': namespace('hidden'),
    'c.yaml~': namespace('backup'),
    'notes.txt': 'not yaml: [',
  })
  await mkdir(setting.path('sub.yaml'))
  assert.deepEqual(setting.names(), ['a1', 'a2', 'b'])
})

test('a directory that is not there is an error that names it', async (t) => {
  const setting = new Setting(join(await temporaryDirectory(t), 'none'))
  await assert.rejects(setting.source.start(), /the source directory .*none cannot be read/)
})

test('a new file, a changed file and a deleted file are seen', async (t) => {
  const setting = await setUp(t, { 'a.yaml': namespace('a') })
  await writeFile(setting.path('b.yaml'), namespace('b'))
  await setting.change()
  assert.deepEqual(setting.names(), ['a', 'b'])
  await appendFile(setting.path('b.yaml'), `---\n${namespace('c')}`)
  await setting.change()
  assert.deepEqual(setting.names(), ['a', 'b', 'c'])
  await unlink(setting.path('a.yaml'))
  await setting.change()
  assert.deepEqual(setting.names(), ['b', 'c'])
})

test('a rename over a file, as editors save, is seen as its new content', async (t) => {
  const setting = await setUp(t, { 'a.yaml': namespace('old') })
  await writeFile(setting.path('a.yaml.swp'), namespace('new'))
  await rename(setting.path('a.yaml.swp'), setting.path('a.yaml'))
  await setting.change()
  assert.deepEqual(setting.names(), ['new'])
})

test('a change behind a symbolic link is seen when the link is replaced', async (t) => {
  const setting = await setUp(t)
  await mkdir(setting.path('..v1'))
  await mkdir(setting.path('..v2'))
  await writeFile(setting.path('..v1/a.yaml'), namespace('one'))
  await writeFile(setting.path('..v2/a.yaml'), namespace('two'))
  await symlink('..v1', setting.path('..data'))
  await symlink('..data/a.yaml', setting.path('a.yaml'))
  await setting.change()
  assert.deepEqual(setting.names(), ['one'])
  await symlink('..v2', setting.path('..data.new'))
  await rename(setting.path('..data.new'), setting.path('..data'))
  await setting.change()
  assert.deepEqual(setting.names(), ['two'])
})

test('a broken file keeps the objects of its last good version and is reported with its place', async (t) => {
  const setting = await setUp(t, { 'a.yaml': namespace('good'), 'b.yaml': namespace('b') })
  await writeFile(setting.path('a.yaml'), NOT_YAML)
  await setting.change()
  assert.deepEqual(setting.names(), ['good', 'b'])
  const [message] = setting.source.messages
  assert.deepEqual(
    [message?.severity, message?.position?.file, message?.position?.line],
    ['error', setting.path('a.yaml'), 3],
  )
  assert.ok(message!.position!.column > 1)
  await writeFile(setting.path('a.yaml'), namespace('better'))
  await setting.change()
  assert.deepEqual(setting.names(), ['better', 'b'])
  assert.deepEqual(setting.source.messages, [])
})

test('a file that is broken from the start yields nothing and is reported', async (t) => {
  const setting = await setUp(t, { 'a.yaml': NOT_YAML, 'b.yaml': namespace('b') })
  assert.deepEqual(setting.names(), ['b'])
  assert.equal(setting.source.messages[0]?.position?.file, setting.path('a.yaml'))
})

test('a broken file that is deleted takes its last good objects along', async (t) => {
  const setting = await setUp(t, { 'a.yaml': namespace('a') })
  await writeFile(setting.path('a.yaml'), NOT_YAML)
  await setting.change()
  await unlink(setting.path('a.yaml'))
  await setting.change()
  assert.deepEqual(setting.names(), [])
  assert.deepEqual(setting.source.messages, [])
})

test('a file that was just cut to nothing keeps its objects for a moment; left empty, it loses them', async (t) => {
  const setting = await setUp(t, { 'a.yaml': namespace('a') })
  await writeFile(setting.path('a.yaml'), '')
  setting.clock.advance(5000)
  // A scan under way has no timer; its end sets the next one.
  while (setting.clock.pending === 0) await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(setting.names(), ['a'])
  await setting.change()
  assert.deepEqual(setting.names(), [])
})

test('a directory that vanishes changes nothing but is reported; when it is back it counts again', async (t) => {
  const setting = await setUp(t, { 'a.yaml': namespace('a') })
  await rm(setting.directory, { recursive: true })
  await setting.change()
  assert.deepEqual(setting.names(), ['a'])
  assert.match(setting.source.messages[0]!.text, /directory cannot be read/)
  await mkdir(setting.directory)
  await writeFile(setting.path('b.yaml'), namespace('b'))
  await setting.change()
  assert.deepEqual(setting.names(), ['b'])
  assert.deepEqual(setting.source.messages, [])
})

test('changes are found without any event by looking regularly', async (t) => {
  const setting = await setUp(t, { 'a.yaml': namespace('a') })
  // An unwatched change: behind a link, whose target's directory nobody watches.
  const elsewhere = await temporaryDirectory(t)
  await writeFile(join(elsewhere, 'x'), namespace('x1'))
  await symlink(join(elsewhere, 'x'), setting.path('x.yaml'))
  await setting.change()
  await writeFile(join(elsewhere, 'x'), namespace('x2'))
  await setting.change()
  assert.deepEqual(setting.names(), ['a', 'x2'])
})

// --- one file ---

const BAD_FILES: readonly [string, string, number, RegExp][] = [
  ['YAML that does not end', 'a: [1, 2', 1, /not valid YAML/],
  ['a duplicate key', `${namespace('a')}kind: Pod\n`, 4, /not valid YAML.*unique/i],
  ['a tab as indentation', 'a:\n\tb: 1\n', 2, /not valid YAML/],
  ['a list as an object', '- a\n- b\n', 1, /IST0106/],
  ['an object without kind', 'apiVersion: v1\nmetadata: { name: a }\n', 1, /IST0106 kind/],
  [
    'an object without name',
    `${namespace('a')}---\napiVersion: v1\nkind: Pod\nmetadata:\n  labels: {}\n`,
    8,
    /IST0106 metadata\.name/,
  ],
  ['a name that is a number', 'apiVersion: v1\nkind: Namespace\nmetadata:\n  name: 123\n', 4, /IST0106 metadata\.name/],
  ['an alias of nothing', 'a: *b\n', 1, /not valid YAML/],
  ['an unknown tag', 'a: !thing b\n', 1, /not valid YAML/],
]

for (const [what, text, line, pattern] of BAD_FILES) {
  test(`a file with ${what} yields no objects, and its place is told`, () => {
    const { objects, messages } = readYamlFile(text, 'x.yaml')
    assert.deepEqual(objects, [])
    const { code, field, text: said } = messages[0]!
    assert.match(`${code} ${field} ${said}`, pattern)
    assert.deepEqual([messages[0]!.position?.file, messages[0]!.position?.line], ['x.yaml', line])
  })
}

test('a file that would unfold into gigabytes is refused at once', () => {
  let text = 'a0: &a0 [x, x, x, x, x, x, x, x, x]\n'
  for (let i = 1; i < 12; i++) text += `a${i}: &a${i} [${`*a${i - 1}, `.repeat(9)}]\n`
  const { messages } = readYamlFile(text, 'x.yaml')
  assert.match(messages[0]!.text, /not valid YAML.*alias/i)
})

test('every field knows its line and column, in the second document too', () => {
  const text = `${namespace('a')}---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: p\nspec:\n  containers:\n    - name: one\n`
  const { objects } = readYamlFile(text, 'x.yaml')
  const pod = objects[1]!
  assert.deepEqual(pod.positionOf(['spec', 'containers', 0, 'name']), { file: 'x.yaml', line: 11, column: 13 })
  assert.deepEqual(pod.positionOf([]), { file: 'x.yaml', line: 5, column: 1 })
  assert.equal(pod.positionOf(['spec', 'nodeName']), null)
})

test('the items of a List are objects, with places of their own', () => {
  const text =
    'apiVersion: v1\nkind: List\nitems:\n  - apiVersion: v1\n    kind: Namespace\n    metadata: { name: one }\n'
  const { objects } = readYamlFile(text, 'x.yaml')
  assert.deepEqual(objects[0]?.positionOf(['metadata', 'name']), { file: 'x.yaml', line: 6, column: 23 })
})

test('merge keys and anchors are understood', () => {
  const text = `x: &labels { app: web }\n`
  const object = `apiVersion: v1\nkind: Namespace\nmetadata:\n  name: a\n  annotations: &a { one: "1" }\n  labels: { <<: *a, two: "2" }\n`
  assert.equal(readYamlFile(text, 'x.yaml').objects.length, 0)
  assert.deepEqual({ ...readYamlFile(object, 'x.yaml').objects[0]!.labels }, { one: '1', two: '2' })
})
