/** Another build of Weft beside this one: the same sources under another version, for tests of upgrades and downgrades. */
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

const ROOT = join(import.meta.dirname, '../..')

/** A checkout of its own; `close` removes it. */
export class OtherBuild {
  /** What runs its `weft`. */
  readonly program: string
  private readonly directory: string

  constructor(version: string) {
    this.directory = mkdtempSync(join(tmpdir(), 'weft-build-'))
    this.program = join(this.directory, 'src/cli/main.ts')
    for (const part of ['src', 'native/build'])
      cpSync(join(ROOT, part), join(this.directory, part), { recursive: true })
    symlinkSync(join(ROOT, 'node_modules'), join(this.directory, 'node_modules'))
    const description = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as Record<string, unknown>
    writeFileSync(join(this.directory, 'package.json'), JSON.stringify({ ...description, version }))
  }

  close(): void {
    rmSync(this.directory, { recursive: true, force: true })
  }
}
