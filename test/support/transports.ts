/** The transports that open sockets, for suites that every one of them must pass. */
import { existsSync } from 'node:fs'
import { NATIVE_BUILD_DIRECTORY } from '../../src/kernel/addon.ts'
import { loadReactor } from '../../src/kernel/reactor-addon.ts'
import type { Transport } from '../../src/transport/conn.ts'
import { DEFAULT_NODE_TRANSPORT_SETTINGS, type NodeTransportSettings } from '../../src/transport/node-settings.ts'
import { NodeTransport } from '../../src/transport/node-transport.ts'
import { asReactorAddon, type ReactorAddon } from '../../src/transport/reactor-addon.ts'
import { ReactorTransport } from '../../src/transport/reactor-transport.ts'

export interface TransportKind {
  readonly name: 'node' | 'reactor'
  /** Why its tests cannot run here. */
  readonly skip: string | false
  create(settings?: Partial<NodeTransportSettings>): Transport
  /** A module that exports `transport`, for programs of their own. */
  readonly moduleUrl: string
}

export const nodeKind: TransportKind = {
  name: 'node',
  skip: false,
  create: (settings) => new NodeTransport({ ...DEFAULT_NODE_TRANSPORT_SETTINGS, ...settings }),
  moduleUrl: new URL('./node-transport-instance.ts', import.meta.url).href,
}

/** The sanitizer's build, where the sanitizer is loaded: see test/transport/reactor-sanitizers.test.ts. */
export const REACTOR_PATH = process.env['WEFT_TEST_REACTOR'] ?? `${NATIVE_BUILD_DIRECTORY}reactor.node`

/** Null where it is not built; in CI that is an error. */
function loadBuiltReactor(): ReactorAddon | null {
  if (!existsSync(REACTOR_PATH) && process.env['CI'] !== 'true') return null
  return asReactorAddon(loadReactor(REACTOR_PATH))
}

export const reactorAddon: ReactorAddon | null = loadBuiltReactor()

export const reactorKind: TransportKind = {
  name: 'reactor',
  skip: reactorAddon === null ? 'needs native/build: run `make -C native tests`' : false,
  create: (settings) =>
    new ReactorTransport(reactorAddon!, {
      settings: { ...DEFAULT_NODE_TRANSPORT_SETTINGS, ...settings },
      isPoisoning: true,
    }),
  moduleUrl: new URL('./reactor-transport-instance.ts', import.meta.url).href,
}

/** What an agent uses that was told nothing: the reactor where it is built. */
export const defaultKind = reactorKind.skip === false ? reactorKind : nodeKind
