/**
 * The images of test clusters, built without a registry: a base made of files of this machine, pods' process 1, a test
 * application, and Weft's own. Each is built again only when something that goes into it changed.
 */
import { execFileSync } from 'node:child_process'
import { createHash, type Hash } from 'node:crypto'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { buildContainer } from '../../../deploy/image/container-build.ts'
import { layOutImage } from '../../../deploy/image/layout.ts'
import { CACHE_DIRECTORY, REPOSITORY } from './cluster-files.ts'
import { markUsed, removeUnused } from './unused-files.ts'

export const PAUSE_IMAGE_NAME = 'weft.test/pause:1'
/** test/cluster/app: servers and clients of several kinds. */
export const APP_IMAGE_NAME = 'weft.test/app:1'
/** What is built from this checkout. */
export const WEFT_IMAGE_NAME = 'weft.dev/weft:dev'

export interface Image {
  readonly name: string
  /** A docker-archive. */
  readonly archivePath: string
}

/** Their archives. */
export const IMAGES = join(CACHE_DIRECTORY, 'images')
const SOURCES = join(import.meta.dirname, '../images')
const APP = join(import.meta.dirname, '../app')

/** Packages of Debian whose shared libraries make the base: what `distroless/cc` has, and no shell. */
const BASE_PACKAGES = ['libc6', 'libstdc++6', 'libgcc-s1']

/** Public authorities. */
const CERTIFICATES = '/etc/ssl/certs/ca-certificates.crt'

/** What stays when an image is built: the four of a version and a few before it, which take up to 200 MB each. */
const ARCHIVES_KEPT = { keptCount: 8, keptMs: 3_600_000 }

export interface ImageChoice {
  /** False for clusters in which no mesh is installed. */
  readonly hasWeft: boolean
}

/** All images that nodes of a test cluster are given. */
export function buildImages({ hasWeft }: ImageChoice, say: Say): readonly Image[] {
  const images = [buildPauseImage(say), buildAppImage(say)]
  if (hasWeft) images.push(buildWeftImage(say))
  return images
}

function buildPauseImage(say: Say): Image {
  const source = join(SOURCES, 'pause.c')
  return build({
    kind: 'pause',
    name: PAUSE_IMAGE_NAME,
    containerfile: 'FROM scratch\nCOPY . /\nENTRYPOINT ["/pause"]\n',
    inputs: [source],
    fill: (directory) => {
      const output = join(directory, 'pause')
      execFileSync('gcc', ['-static', '-O1', '-s', '-Wall', '-Wextra', '-Werror', source, '-o', output])
    },
    say,
  })
}

/** Its files are those of the machine that compiled the native part, so the glibc is new enough. */
export function buildBaseImage(say: Say): Image {
  return build({
    kind: 'base',
    name: 'weft.test/base:1',
    containerfile: 'FROM scratch\nCOPY . /\n',
    inputs: [CERTIFICATES, ...BASE_PACKAGES.map((name) => listOfPackage(name))],
    fill: (directory) => {
      for (const name of ['bin', 'sbin', 'lib', 'lib64']) {
        mkdirSync(join(directory, 'usr', name), { recursive: true })
        symlinkSync(`usr/${name}`, join(directory, name))
      }
      for (const name of BASE_PACKAGES) {
        for (const path of readFileSync(listOfPackage(name), 'utf8').split('\n')) {
          if (/\.so[.0-9]*$/.test(path) && !/\/(gconv|audit|gdb)\//.test(path)) copyLibrary(path, directory)
        }
      }
      for (const name of ['etc/ssl/certs', 'tmp', 'home/nonroot']) mkdirSync(join(directory, name), { recursive: true })
      chmodSync(join(directory, 'tmp'), 0o1777)
      cpSync(CERTIFICATES, join(directory, CERTIFICATES))
      const users = ['root:x:0:0:root:/root:/none', 'nonroot:x:65532:65532:nonroot:/home/nonroot:/none']
      writeFileSync(join(directory, 'etc/passwd'), `${users.join('\n')}\n`)
      writeFileSync(join(directory, 'etc/group'), 'root:x:0:\nnonroot:x:65532:\n')
      writeFileSync(join(directory, 'etc/nsswitch.conf'), 'hosts: files dns\n')
    },
    say,
  })
}

function buildAppImage(say: Say): Image {
  const base = buildBaseImage(say)
  return build({
    kind: 'app',
    name: APP_IMAGE_NAME,
    containerfile: `FROM docker-archive:${base.archivePath}\nCOPY . /\nENTRYPOINT ["/usr/bin/node", "/app/main.ts"]\n`,
    inputs: [APP, join(REPOSITORY, 'package-lock.json')],
    fill: (directory) => {
      mkdirSync(join(directory, 'usr/bin'), { recursive: true })
      cpSync(join(REPOSITORY, 'node_modules/node/bin/node'), join(directory, 'usr/bin/node'))
      cpSync(APP, join(directory, 'app'), { recursive: true })
      writeFileSync(join(directory, 'app/package.json'), '{ "type": "module" }\n')
    },
    say,
  })
}

function buildWeftImage(say: Say): Image {
  const base = buildBaseImage(say)
  const native = join(REPOSITORY, 'native/build')
  const built = readdirSync(native).filter((name) => /\.(node|bpf\.o)$|^weft-cni$/.test(name))
  const sources = ['deploy/image', 'src', 'package.json', 'package-lock.json']
  return build({
    kind: 'weft',
    name: WEFT_IMAGE_NAME,
    containerfile: readFileSync(join(REPOSITORY, 'deploy/image/Containerfile'), 'utf8'),
    values: { BASE: `docker-archive:${base.archivePath}` },
    inputs: [...sources.map((path) => join(REPOSITORY, path)), ...built.map((name) => join(native, name))],
    fill: layOutImage,
    say,
  })
}

type Say = (line: string) => void

interface Build {
  readonly kind: string
  readonly name: string
  readonly containerfile: string
  readonly values?: Readonly<Record<string, string>>
  /** Files and directories that decide what the image will be: their hash names the archive. */
  readonly inputs: readonly string[]
  /** Lays out the image's files. */
  readonly fill: (directory: string) => void
  readonly say: Say
}

function build({ kind, name, containerfile, values = {}, inputs, fill, say }: Build): Image {
  const hash = createHash('sha256').update(JSON.stringify([name, containerfile, values]))
  for (const path of inputs) hashTree(hash, path)
  const archivePath = join(IMAGES, `${kind}-${hash.digest('hex').slice(0, 16)}.tar`)
  if (markUsed(archivePath)) return { name, archivePath }
  say(`building the image ${name}`)
  mkdirSync(IMAGES, { recursive: true })
  removeUnused(IMAGES, ARCHIVES_KEPT)
  const scratch = mkdtempSync(join(IMAGES, '.layout-'))
  try {
    const directory = join(scratch, 'files')
    mkdirSync(directory)
    fill(directory)
    const path = join(scratch, 'Containerfile')
    writeFileSync(path, containerfile)
    buildContainer({ name, containerfile: path, directory, values, archivePath })
    return { name, archivePath }
  } finally {
    rmSync(scratch, { recursive: true, force: true })
  }
}

function hashTree(hash: Hash, path: string): void {
  if (statSync(path).isDirectory()) {
    for (const name of readdirSync(path).sort()) hashTree(hash.update(name), join(path, name))
  } else {
    hash.update(readFileSync(path))
  }
}

/** A library at its place, and what it links to. */
function copyLibrary(path: string, directory: string): void {
  const target = join(directory, path.startsWith('/usr') ? path : `/usr${path}`)
  mkdirSync(dirname(target), { recursive: true })
  cpSync(realpathSync(path), target)
}

/** dpkg's list of a package's files; it changes with the package. */
function listOfPackage(name: string): string {
  const directory = '/var/lib/dpkg/info'
  const list = readdirSync(directory).find(
    (file) => file === `${name}.list` || (file.startsWith(`${name}:`) && file.endsWith('.list')),
  )
  if (list === undefined)
    throw new Error(`the base of test images is made of Debian's package ${name}, which is missing`)
  return join(directory, list)
}
