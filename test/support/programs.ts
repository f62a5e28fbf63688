/** Programs that others wrote, run beside a test: found, started, waited for, and ended by their process ids. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'

/** Where deploy/setup.sh puts Envoy. */
const ENVOY_INSTALLED = join(import.meta.dirname, '../../node_modules/.cache/weft-peers/bin/envoy')

/** Long enough for Envoy on a machine that does other things. */
const START_TIMEOUT_MS = 20_000
const END_TIMEOUT_MS = 2000

/** Servers of Debian lie where an ordinary user's PATH does not look. */
const SEARCH_PATH = [process.env['PATH'], '/usr/sbin', '/sbin'].join(delimiter)

/** Full path of a program, `envoy` among them; null when it is not installed. */
export function findProgram(name: string): string | null {
  if (name === 'envoy') {
    for (const path of [process.env['WEFT_ENVOY'], ENVOY_INSTALLED]) {
      if (path !== undefined && existsSync(path)) return path
    }
  }
  try {
    const env = { ...process.env, PATH: SEARCH_PATH }
    return execFileSync('sh', ['-c', 'command -v "$1"', 'sh', name], { encoding: 'utf8', env }).trim()
  } catch {
    return null
  }
}

/** Why a test that needs these programs is skipped: false when all are there. In CI a missing one is an error. */
export function lacks(...names: readonly string[]): string | false {
  const missing = names.filter((name) => findProgram(name) === null)
  if (missing.length === 0) return false
  const reason = `not installed: ${missing.join(', ')}. Run: sh deploy/setup.sh test`
  if (process.env['CI'] === 'true') throw new Error(reason)
  return reason
}

/** A directory for the files of one test file's programs, and its removal. */
export function temporaryDirectory(): { path: string; remove: () => void } {
  const path = mkdtempSync(join(tmpdir(), 'weft-interop-'))
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}

export interface Listening {
  readonly host: string
  readonly port: number
}

/** A server program. It ends with this process, however that ends. */
export class Program {
  readonly child: ChildProcess
  private readonly name: string
  private words = ''

  private constructor(name: string, args: readonly string[], directory: string) {
    const path = findProgram(name)
    if (path === null) throw new Error(`${name} is not installed. Run: sh deploy/setup.sh test`)
    this.name = name
    this.child = spawn('setpriv', ['--pdeathsig', 'KILL', path, ...args], {
      cwd: directory,
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    for (const stream of [this.child.stdout!, this.child.stderr!]) {
      stream.setEncoding('utf8')
      stream.on('data', (text: string) => {
        this.words = (this.words + text).slice(-2000)
      })
    }
    this.child.on('error', () => {})
  }

  /** Resolves when it listens at all of `addresses`; rejects with its own words when it ends before. */
  static async start(
    name: string,
    args: readonly string[],
    directory: string,
    addresses: readonly Listening[],
  ): Promise<Program> {
    const program = new Program(name, args, directory)
    try {
      for (const address of addresses) await program.listening(address)
    } catch (error) {
      await program.end()
      throw error
    }
    return program
  }

  get pid(): number {
    return this.child.pid!
  }

  /** The end of what it wrote. */
  get lastWords(): string {
    return this.words.trim()
  }

  async end(): Promise<void> {
    if (this.hasEnded || this.child.pid === undefined) return
    const ended = once(this.child, 'exit')
    this.child.kill('SIGTERM')
    const hard = setTimeout(() => this.child.kill('SIGKILL'), END_TIMEOUT_MS)
    await ended
    clearTimeout(hard)
  }

  private get hasEnded(): boolean {
    return this.child.exitCode !== null || this.child.signalCode !== null
  }

  private async listening(address: Listening): Promise<void> {
    const deadline = Date.now() + START_TIMEOUT_MS
    while (Date.now() < deadline && !this.hasEnded) {
      if (await isListening(address)) return
      await delay(20)
    }
    throw new Error(`${this.name} does not listen at ${address.host}:${address.port}: ${this.lastWords}`)
  }
}

/** nginx with these `server` blocks, in one process. `preamble` is for the top of its configuration. */
export async function startNginx(
  directory: string,
  servers: string,
  addresses: readonly Listening[],
  preamble = '',
): Promise<Program> {
  const path = join(directory, 'nginx.conf')
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${name};`)
  writeFileSync(
    path,
    `${preamble}
daemon off;
master_process off;
user root;
pid nginx.pid;
events { worker_connections 2048; }
http {
  access_log off;
  default_type application/octet-stream;
  keepalive_requests 1000000;
  ${temporary.join('\n  ')}
  ${servers}
}
`,
  )
  return await Program.start('nginx', ['-p', directory, '-c', path, '-e', 'stderr'], directory, addresses)
}

/** haproxy with these frontends and backends, on one thread. */
export async function startHaproxy(
  directory: string,
  sections: string,
  addresses: readonly Listening[],
): Promise<Program> {
  const path = join(directory, 'haproxy.cfg')
  writeFileSync(
    path,
    `global
  nbthread 1
  tune.bufsize 262144
  tune.maxrewrite 8192
  tune.http.maxhdr 500
defaults
  mode http
  timeout client 60s
  timeout connect 10s
  timeout server 60s
  timeout tunnel 60s
${sections}`,
  )
  return await Program.start('haproxy', ['-db', '-q', '-f', path], directory, addresses)
}

/** Envoy with one worker. */
export async function startEnvoy(directory: string, config: object, addresses: readonly Listening[]): Promise<Program> {
  const path = join(directory, 'envoy.json')
  writeFileSync(path, JSON.stringify(config))
  const args = ['-c', path, '--concurrency', '1', '--disable-hot-restart', '-l', 'error']
  return await Program.start('envoy', args, directory, addresses)
}

async function isListening({ host, port }: Listening): Promise<boolean> {
  const socket = connect(port, host)
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}
