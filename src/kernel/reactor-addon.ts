/**
 * Loads the reactor (native/addon/reactor*.cc): sockets and TLS of the data path. It is an addon of its own, because
 * it needs what Node.js exports of OpenSSL: where that is missing, the capture still works, and connections go through
 * node:net. What it exports is declared where it is used, in transport/reactor-addon.ts.
 */
import { createRequire } from 'node:module'
import { describeError, WeftError } from '../base/errors.ts'
import { NATIVE_BUILD_DIRECTORY } from './addon.ts'

/** Throws WeftError WEFT_UNSUPPORTED saying why. `path` is for tests of another build. */
export function loadReactor(path: string = `${NATIVE_BUILD_DIRECTORY}reactor.node`): unknown {
  try {
    return createRequire(import.meta.url)(path)
  } catch (error) {
    throw new WeftError(
      'WEFT_UNSUPPORTED',
      `the reactor ${path} cannot be loaded (${describeError(error).split('\n')[0]}); build it with \`make -C native\` on this machine`,
      error,
    )
  }
}
