import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, test } from 'node:test'
import { CONFLIST_FILE, chain, configurationNames } from '../../src/agent/cni-conflist.ts'
import { CniInstall, removeCni } from '../../src/agent/cni-install.ts'
import { Logger } from '../../src/base/log.ts'

const PATHS = { socket: '/run/weft/cni.sock', namespaces: '/var/lib/weft/agent/cni-namespaces' }
const OWN = { type: 'weft-cni', ...PATHS }
const BRIDGE = { cniVersion: '1.0.0', name: 'net', plugins: [{ type: 'bridge', mtu: 1500 }, { type: 'portmap' }] }

let root: string
let conf: string
let bin: string
let program: string
let lines: Record<string, unknown>[]
let install: CniInstall | null

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'weft-cni-'))
  conf = join(root, 'net.d')
  bin = join(root, 'bin')
  program = join(root, 'weft-cni')
  mkdirSync(conf)
  mkdirSync(bin)
  writeFileSync(program, 'program 1')
  lines = []
  install = null
})

afterEach(() => {
  install?.stop()
  rmSync(root, { recursive: true })
})

function start(): CniInstall {
  install = new CniInstall({
    confDirectory: conf,
    binDirectory: bin,
    program,
    paths: PATHS,
    log: new Logger('cni', 'info', (line) => lines.push(JSON.parse(line) as Record<string, unknown>)),
  })
  install.start()
  return install
}

function write(name: string, content: unknown): void {
  const staged = join(root, 'staged')
  writeFileSync(staged, typeof content === 'string' ? content : JSON.stringify(content))
  renameSync(staged, join(conf, name))
}

const ours = (): { plugins: { type: string }[]; name: string; cniVersion: string } | null => {
  try {
    return JSON.parse(readFileSync(join(conf, CONFLIST_FILE), 'utf8'))
  } catch {
    return null
  }
}

const types = (): readonly string[] => ours()?.plugins.map(({ type }) => type) ?? []

async function eventually(what: string, isTrue: () => boolean): Promise<void> {
  for (let tries = 0; tries < 2000; tries++) {
    if (isTrue()) return
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  assert.fail(`${what}: ${JSON.stringify(lines)}`)
}

test('a list keeps everything that it has and gets one plugin more, under its own name', () => {
  const list = { ...BRIDGE, disableCheck: true, cniVersion: '0.3.1' }
  const chained = JSON.parse(chain('10-bridge.conflist', JSON.stringify(list), PATHS))
  assert.deepEqual(chained, { ...list, plugins: [...BRIDGE.plugins, OWN] })
  assert.deepEqual(JSON.parse(chain('10-bridge.conflist', JSON.stringify(chained), PATHS)), chained)
})

test('a file with a single plugin becomes a list', () => {
  const single = { cniVersion: '0.4.0', name: 'flat', type: 'ptp', ipam: { type: 'host-local' } }
  assert.deepEqual(JSON.parse(chain('10-ptp.conf', JSON.stringify(single), PATHS)), {
    cniVersion: '0.4.0',
    name: 'flat',
    plugins: [single, OWN],
  })
})

// biome-ignore format: a table
const BAD: readonly [string, string, RegExp][] = [
  ['no JSON', '{"cniVersion":', /is no JSON \(yet\)/],
  ['an empty file', '', /is no JSON/],
  ['no object', '[]', /is no JSON object/],
  ['no plugins', '{"cniVersion":"1.0.0","name":"a","plugins":[]}', /has no plugins/],
  ['plugins that are none', '{"cniVersion":"1.0.0","name":"a","plugins":[{}]}', /a plugin without a type/],
  ['no name', '{"cniVersion":"1.0.0","plugins":[{"type":"a"}]}', /has no name/],
  ['no version', '{"name":"a","plugins":[{"type":"a"}]}', /has cniVersion undefined/],
  ['a version without chains', '{"cniVersion":"0.2.0","name":"a","type":"a"}', /cniVersion "0.2.0"; plugins can be chained from 0.3.0/],
  ['nothing but ours', `{"cniVersion":"1.0.0","name":"a","plugins":[${JSON.stringify(OWN)}]}`, /has no plugin/],
]
for (const [what, text, problem] of BAD) {
  test(`cannot be chained: ${what}`, () => {
    assert.throws(() => chain('10-a.conflist', text, PATHS), problem)
  })
}

test('a configuration that a runtime would prefer to ours is refused', () => {
  assert.throws(() => chain('!first.conflist', JSON.stringify(BRIDGE), PATHS), /sorts before/)
  for (const name of ['00-multus.conf', '01-x.conf', '05-cilium.conflist', '10-calico.conflist', '000-a.json']) {
    chain(name, JSON.stringify(BRIDGE), PATHS)
  }
})

test('configurations are looked at in the order of runtimes', () => {
  const names = ['b.json', 'a.conflist', 'A.conf', 'x.conflist.bak', '.hidden', CONFLIST_FILE, 'readme', 'a.conf']
  assert.deepEqual(configurationNames(names), ['A.conf', 'a.conf', 'a.conflist', 'b.json'])
})

test('the plugin is installed beside what is there, which stays byte for byte', () => {
  write('10-bridge.conflist', BRIDGE)
  const before = readFileSync(join(conf, '10-bridge.conflist'))
  assert.equal(start().isChained, true)
  assert.deepEqual(types(), ['bridge', 'portmap', 'weft-cni'])
  assert.equal(readFileSync(join(bin, 'weft-cni'), 'utf8'), 'program 1')
  assert.equal(statSync(join(bin, 'weft-cni')).mode & 0o777, 0o755)
  install!.stop()
  assert.deepEqual(types(), ['bridge', 'portmap', 'weft-cni'], 'the end of an agent removes nothing')
  assert.equal(removeCni(conf, bin).length, 2)
  assert.deepEqual(readdirSync(conf), ['10-bridge.conflist'])
  assert.deepEqual(readdirSync(bin), [])
  assert.deepEqual(readFileSync(join(conf, '10-bridge.conflist')), before)
  assert.deepEqual(removeCni(conf, bin), [])
})

test('it follows whoever rewrites the configuration, and keeps the last good one meanwhile', async () => {
  write('10-calico.conflist', BRIDGE)
  start()
  write('10-calico.conflist', '{"cniVersion":"1.0.0","na')
  await eventually('it says so', () => lines.some(({ reason }) => String(reason).includes('is no JSON (yet)')))
  assert.deepEqual(types(), ['bridge', 'portmap', 'weft-cni'])
  write('10-calico.conflist', { ...BRIDGE, plugins: [{ type: 'calico' }] })
  await eventually('it follows', () => types().includes('calico'))
  assert.deepEqual(types(), ['calico', 'weft-cni'])
  write('05-cilium.conflist', { ...BRIDGE, name: 'cilium', plugins: [{ type: 'cilium-cni' }] })
  await eventually('it follows the first one', () => ours()?.name === 'cilium')
})

test('its own file comes back when somebody removes it, and is given up for a while when that goes on', async () => {
  write('10-bridge.conflist', BRIDGE)
  start()
  for (let i = 0; i < 5; i++) {
    renameSync(join(conf, CONFLIST_FILE), join(conf, `${CONFLIST_FILE}.cilium_bak`))
    await eventually('it is back', () => ours() !== null)
  }
  renameSync(join(conf, CONFLIST_FILE), join(conf, `${CONFLIST_FILE}.cilium_bak`))
  await eventually('it says why', () => lines.some(({ reason }) => String(reason).includes('cni.exclusive=false')))
  assert.equal(ours(), null)
})

test('without a network of the node it waits, and its copy of one goes with the original', async () => {
  start()
  assert.equal(install!.isChained, false)
  assert.ok(lines.some(({ reason }) => /there is no CNI configuration/.test(String(reason))))
  write('10-bridge.conflist', BRIDGE)
  await eventually('it is chained', () => types().length === 3)
  rmSync(join(conf, '10-bridge.conflist'))
  await eventually('the copy is gone', () => ours() === null)
})

test('a directory that is made later is found', async () => {
  rmSync(conf, { recursive: true })
  start()
  assert.ok(lines.some(({ reason }) => /ENOENT/.test(String(reason))))
  mkdirSync(conf)
  write('10-bridge.conflist', BRIDGE)
  install!.stop()
  start()
  assert.deepEqual(types(), ['bridge', 'portmap', 'weft-cni'])
})

test('another version replaces the program as a whole, so that a running one is not written to', () => {
  write('10-bridge.conflist', BRIDGE)
  start()
  const { ino } = statSync(join(bin, 'weft-cni'))
  install!.stop()
  start()
  assert.equal(statSync(join(bin, 'weft-cni')).ino, ino, 'the same program is left alone')
  install!.stop()
  writeFileSync(program, 'program 2')
  start()
  assert.notEqual(statSync(join(bin, 'weft-cni')).ino, ino)
  assert.equal(readFileSync(join(bin, 'weft-cni'), 'utf8'), 'program 2')
  assert.deepEqual(readdirSync(bin), ['weft-cni'])
})

test('a configuration of any size is not read', () => {
  write('10-large.conflist', ' '.repeat(1_048_577))
  start()
  assert.ok(lines.some(({ reason }) => /more than 1 MiB/.test(String(reason))))
  assert.equal(ours(), null)
})
