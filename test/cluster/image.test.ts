/** What is in Weft's image, and what is not. */
import assert from 'node:assert/strict'
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { buildBaseImage, buildImages, type Image, WEFT_IMAGE_NAME } from './support/images.ts'
import { needsNodes } from './support/requirements.ts'

const BUILD = join(import.meta.dirname, '../../deploy/image/build.ts')

interface Manifest {
  readonly Layers: readonly string[]
  readonly Config: string
}

describe('the image', needsNodes(), () => {
  const directory = mkdtempSync(join(tmpdir(), 'weft-image-test-'))
  after(() => rmSync(directory, { recursive: true }))
  const archive = (): Image => buildImages({ hasWeft: true }, () => {}).find(({ name }) => name === WEFT_IMAGE_NAME)!

  const unpack = (): { paths: readonly string[]; config: { Entrypoint: readonly string[] } } => {
    execFileSync('tar', ['-C', directory, '-xf', archive().archivePath])
    const read = (name: string): string => execFileSync('cat', [join(directory, name)], { encoding: 'utf8' })
    const [manifest] = JSON.parse(read('manifest.json')) as [Manifest]
    const list = (layer: string): string => execFileSync('tar', ['-tf', join(directory, layer)], { encoding: 'utf8' })
    const { config } = JSON.parse(read(manifest.Config)) as { config: { Entrypoint: readonly string[] } }
    return { paths: manifest.Layers.flatMap((layer) => list(layer).split('\n')), config }
  }

  test('begins with weft, and holds all that agent, controller and CNI need', () => {
    const { paths, config } = unpack()
    assert.deepEqual(config.Entrypoint, ['weft'])
    for (const path of [
      'opt/weft/bin/weft',
      'opt/weft/bin/node',
      'opt/weft/dist/cli/main.js',
      'opt/weft/native/build/weft.node',
      'opt/weft/native/build/reactor.node',
      'opt/weft/native/build/connect.bpf.o',
      'opt/weft/native/build/weft-cni',
      'etc/ssl/certs/ca-certificates.crt',
    ]) {
      assert.ok(paths.includes(path), path)
    }
  })

  test('holds no shell, compiler or package manager, no types, no tests, no package of developers', () => {
    const { paths } = unpack()
    const unwanted = paths.filter(
      (path) =>
        /\/(sh|bash|dash|busybox|cc|gcc|g\+\+|clang|ld|make|apt|dpkg|npm|npx|perl|python3?)$/.test(path) ||
        /\.(d\.ts|tsx?|map)$/.test(path) ||
        /node_modules\/(typescript|@biomejs|node|npm)\//.test(path),
    )
    assert.deepEqual(unwanted, [])
  })

  test('is made by one command, on the base that is asked for', () => {
    const out = join(directory, 'made.tar')
    const { archivePath } = buildBaseImage(() => {})
    const args = [BUILD, '--base', `docker-archive:${archivePath}`, '--tag', 'weft.test/made:1', '--out', out]
    const { status, stderr } = spawnSync(process.execPath, args, { encoding: 'utf8' })
    assert.equal(status, 0, stderr)
    assert.match(stderr, /made\.tar: [0-9]+ MB/)
    const manifest = execFileSync('tar', ['-xOf', out, 'manifest.json'], { encoding: 'utf8' })
    assert.match(manifest, /weft\.test\/made:1/)
    assert.equal(spawnSync(process.execPath, [BUILD, '--bas', 'x'], { encoding: 'utf8' }).status, 2)
    assert.match(spawnSync(process.execPath, [BUILD, '--help'], { encoding: 'utf8' }).stdout, /npm run image/)
  })
})
