/** Runs the machine's own programs (ip, mount, sysctl...) to their end. Never through a shell, so no quoting. */
import { execFile } from 'node:child_process'
import { WeftError } from '../../base/errors.ts'

/** Longest time for one such program. They all take milliseconds; more means that something hangs. */
const TIMEOUT_MS = 20_000

/** Where these programs live. Fixed, since `ip` and `mount` are where an ordinary user's PATH may not look. */
export const SEARCH_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** Standard output of `program`. Rejects with its standard error when it fails or is not there. */
export function run(program: string, args: readonly string[], input = ''): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { timeout: TIMEOUT_MS, env: { PATH: SEARCH_PATH, LC_ALL: 'C' }, maxBuffer: 16_777_216 }
    const child = execFile(program, args, options, (error, stdout, stderr) => {
      if (error === null) return resolve(stdout)
      const reason = stderr.trim() === '' ? error.message : stderr.trim()
      reject(new WeftError('WEFT_SYSCALL', `"${[program, ...args].join(' ')}" failed: ${reason}`))
    })
    // A program that ends without reading its input is its own business; its exit code tells.
    child.stdin?.on('error', () => {})
    child.stdin?.end(input)
  })
}

/** True when `program` can be started. */
export async function hasProgram(program: string): Promise<boolean> {
  try {
    await run('sh', ['-c', `command -v ${program}`])
    return true
  } catch {
    return false
  }
}
