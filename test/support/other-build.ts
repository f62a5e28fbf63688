/** Another build of Weft beside this one, for tests of upgrades and downgrades: the same sources under another version. */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const ROOT = join(import.meta.dirname, '../..')

/** What is generated of the layout; it says of which layout a build is. */
const GENERATED = 'src/kernel/layout.generated.ts'

export interface OtherBuildOptions {
  /** True for the fields of `struct pod` in another order: sizes alone would not tell the maps from this build's. */
  readonly hasOtherLayout?: boolean
}

/** A checkout of its own; `close` removes it. */
export class OtherBuild {
  readonly directory: string
  /** What runs its `weft`. */
  readonly program: string

  constructor(version: string, options: OtherBuildOptions = {}) {
    this.directory = mkdtempSync(join(tmpdir(), 'weft-build-'))
    this.program = join(this.directory, 'src/cli/main.ts')
    try {
      this.copy(version)
      if (options.hasOtherLayout === true) this.changeLayout()
    } catch (error) {
      this.close()
      throw error
    }
  }

  /** A module of it, for this process. */
  async load<Module>(path: string): Promise<Module> {
    return (await import(join(this.directory, path))) as Module
  }

  close(): void {
    rmSync(this.directory, { recursive: true, force: true })
  }

  private copy(version: string): void {
    for (const part of ['src', 'test/support', 'native/build']) {
      cpSync(join(ROOT, part), join(this.directory, part), { recursive: true })
    }
    symlinkSync(join(ROOT, 'node_modules'), join(this.directory, 'node_modules'))
    const description = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as Record<string, unknown>
    writeFileSync(join(this.directory, 'package.json'), JSON.stringify({ ...description, version }))
  }

  private changeLayout(): void {
    const native = join(this.directory, 'native')
    for (const part of ['bpf', 'Makefile']) cpSync(join(ROOT, 'native', part), join(native, part), { recursive: true })
    // What depends on it is built anew; addons and programs of tests do not.
    const build = join(native, 'build')
    for (const name of readdirSync(build)) if (/layout|\.bpf\./.test(name)) rmSync(join(build, name))
    const maps = join(native, 'bpf/include/weft/maps.h')
    const [flags, scope] = ['  __u32 flags;\n', '  __u32 scope;\n']
    const text = readFileSync(maps, 'utf8').replace(`struct pod {\n${flags}`, 'struct pod {\n')
    writeFileSync(maps, text.replace(scope, scope + flags))
    const objects = readdirSync(join(ROOT, 'native/bpf')).filter((name) => name.endsWith('.bpf.c'))
    const targets = ['layout.stamp', ...objects.map((name) => name.replace(/c$/, 'o'))]
    execFileSync('make', ['-C', native, '-s', ...targets.map((name) => `build/${name}`)], { stdio: 'pipe' })
    const [own, other] = [ROOT, this.directory].map((root) => readFileSync(join(root, GENERATED), 'utf8'))
    if (own === other) throw new Error('the other build has the same layout; has struct pod changed?')
  }
}
