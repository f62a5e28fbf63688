/** Which transport carries the connections of the data workers: the native reactor, or node:net where it cannot load. */
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { loadReactor } from '../kernel/reactor-addon.ts'
import type { Transport } from '../transport/conn.ts'
import { NodeTransport } from '../transport/node-transport.ts'
import { asReactorAddon } from '../transport/reactor-addon.ts'
import { ReactorTransport } from '../transport/reactor-transport.ts'
import type { AgentConfig } from './config.ts'

/** What a worker uses. */
export type TransportName = 'reactor' | 'node'

/**
 * Decides for all workers, and says so in the log. Throws WeftError WEFT_UNSUPPORTED when the reactor is demanded and
 * cannot be loaded. `load` is for tests.
 */
export function chooseTransport(choice: AgentConfig['transport'], log: Logger, load = loadReactor): TransportName {
  if (choice === 'node') {
    log.info('connections are carried by node:net, as --transport asks for')
    return 'node'
  }
  try {
    const { opensslVersion } = asReactorAddon(load())
    log.info('connections are carried by the reactor', { openssl: opensslVersion })
    return 'reactor'
  } catch (error) {
    if (choice === 'reactor') throw error
    log.warn('connections are carried by node:net, which costs more CPU', { reason: describeError(error) })
    return 'node'
  }
}

/** The calling thread's own. */
export function openTransport(name: TransportName): Transport {
  return name === 'reactor' ? new ReactorTransport(asReactorAddon(loadReactor())) : new NodeTransport()
}
