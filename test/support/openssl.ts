/** The openssl program, as a second opinion on certificates; with a directory of its own for the files it wants. */
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export class Openssl {
  private readonly directory = mkdtempSync(join(tmpdir(), 'weft-openssl-'))

  /** What it printed; throws when it failed. */
  run(...args: readonly string[]): string {
    return execFileSync('openssl', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] })
  }

  /** Path of a new file with `text`, readable by nobody else. */
  file(name: string, text: string): string {
    const path = join(this.directory, name)
    writeFileSync(path, text, { mode: 0o600 })
    return path
  }

  remove(): void {
    rmSync(this.directory, { recursive: true })
  }
}
