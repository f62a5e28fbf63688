/**
 * Lays out the files of Weft's image in a directory: Node.js, the compiled programs, what of node_modules they load, the
 * native part, and the shared libraries that it needs beside glibc. No compiler, no npm, no shell script.
 *
 *      /opt/weft/bin/weft -> ../dist/cli/main.js     the entry point
 *      /opt/weft/bin/node
 *      /opt/weft/{dist,native,node_modules,lib,package.json}
 */
import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, join, relative } from 'node:path'

const REPOSITORY = join(import.meta.dirname, '../..')

/** Comes by its own way: the package holds the program twice, once for each link. */
const NODE_PACKAGE = /^node_modules\/node(\/|$)/

/** Types, maps and documents, which no program loads. */
const NOT_LOADED = /\.(d\.[cm]?ts|map|md|markdown|ts|flow|yml|yaml)$|\/(test|tests|docs|examples?|\.github)$/i

/** Of native/build: the addons, the eBPF programs (but that of tests) and the CNI plugin, which the agent installs. */
const BUILT = /^(?!rejected).*\.(node|bpf\.o)$|^weft-cni$/

/** The base brings these, as part of glibc. */
const GLIBC = /^(ld-linux|libc\.|libm\.|libdl\.|libpthread\.|librt\.|libresolv\.)/

/** The directory must be empty or not exist. Everything that is copied was built before (deploy/setup.sh build). */
export function layOutImage(directory: string): void {
  const home = join(directory, 'opt/weft')
  mkdirSync(join(home, 'bin'), { recursive: true })
  copyPrograms(home)
  copyPackages(home)
  const libraries = copyNative(home)
  copyLibraries(join(home, 'lib'), [join(home, 'bin/node'), ...libraries])
}

function copyPrograms(home: string): void {
  const compiler = join(REPOSITORY, 'node_modules/.bin/tsc')
  const dist = join(home, 'dist')
  execFileSync(compiler, ['-p', join(REPOSITORY, 'tsconfig.build.json'), '--outDir', dist], { stdio: 'pipe' })
  for (const path of readdirSync(join(REPOSITORY, 'src'), { recursive: true, encoding: 'utf8' })) {
    if (path.endsWith('.proto')) cpSync(join(REPOSITORY, 'src', path), join(dist, path))
  }
  cpSync(join(REPOSITORY, 'package.json'), join(home, 'package.json'))
  cpSync(join(REPOSITORY, 'LICENSE'), join(home, 'LICENSE'))
  cpSync(join(REPOSITORY, 'node_modules/node/bin/node'), join(home, 'bin/node'))
  // The kernel finds Node.js without a program `env`, which a base need not have.
  const main = join(dist, 'cli/main.js')
  writeFileSync(main, readFileSync(main, 'utf8').replace(/^#!.*/, '#!/opt/weft/bin/node'))
  chmodSync(main, 0o755)
  symlinkSync('../dist/cli/main.js', join(home, 'bin/weft'))
}

/** What package.json depends on, with all that depends on in turn, in the versions of the lock file. */
function copyPackages(home: string): void {
  const list = execFileSync('npm', ['ls', '--omit=dev', '--all', '--parseable'], {
    cwd: REPOSITORY,
    encoding: 'utf8',
    stdio: 'pipe',
  })
  for (const path of list.trim().split('\n').slice(1)) {
    const name = relative(REPOSITORY, path)
    if (NODE_PACKAGE.test(name)) continue
    cpSync(path, join(home, name), {
      recursive: true,
      filter: (source) => {
        const inside = source.slice(path.length)
        // Packages inside of packages are in the list themselves.
        return !inside.startsWith('/node_modules') && !NOT_LOADED.test(inside)
      },
    })
  }
}

/** Returns the paths of what is linked against shared libraries. */
function copyNative(home: string): readonly string[] {
  const build = join(REPOSITORY, 'native/build')
  const target = join(home, 'native/build')
  mkdirSync(target, { recursive: true })
  const linked: string[] = []
  for (const name of readdirSync(build)) {
    if (!BUILT.test(name)) continue
    cpSync(join(build, name), join(target, name))
    if (name.endsWith('.node')) linked.push(join(target, name))
  }
  if (linked.length === 0) throw new Error('the native part is not built. Run: make -C native')
  return linked
}

function copyLibraries(directory: string, programs: readonly string[]): void {
  mkdirSync(directory)
  for (const program of programs) {
    for (const [, path] of execFileSync('ldd', [program], { encoding: 'utf8' }).matchAll(/ => (\/\S+)/g)) {
      const name = basename(path!)
      if (!GLIBC.test(name)) cpSync(realpathSync(path!), join(directory, name))
    }
  }
}
