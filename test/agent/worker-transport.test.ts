/** The choice of the transport: what is used, and that it is said. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { chooseTransport, openTransport } from '../../src/agent/worker-transport.ts'
import { Logger } from '../../src/base/log.ts'
import { NodeTransport } from '../../src/transport/node-transport.ts'
import { REACTOR_REVISION } from '../../src/transport/reactor-addon.ts'
import { ReactorTransport } from '../../src/transport/reactor-transport.ts'
import { reactorKind } from '../support/transports.ts'

function listening() {
  const lines: { level: string; message: string; openssl?: string; reason?: string }[] = []
  return { lines, log: new Logger('agent', 'info', (line) => lines.push(JSON.parse(line))) }
}

const loads = (): unknown => ({ revision: REACTOR_REVISION, opensslVersion: 'OpenSSL 3.5.0' })
const fails = (): unknown => {
  throw new Error('undefined symbol: SSL_new')
}

describe('the transport of the workers', () => {
  test('is the reactor where it can be loaded, and the log says with which OpenSSL', () => {
    for (const choice of ['auto', 'reactor'] as const) {
      const { lines, log } = listening()
      assert.equal(chooseTransport(choice, log, loads), 'reactor')
      assert.deepEqual([lines.length, lines[0]!.level, lines[0]!.openssl], [1, 'info', 'OpenSSL 3.5.0'])
      assert.match(lines[0]!.message, /carried by the reactor/)
    }
  })

  test('falls back to node:net with a warning that has the reason, unless the reactor was demanded', () => {
    const { lines, log } = listening()
    assert.equal(chooseTransport('auto', log, fails), 'node')
    assert.deepEqual([lines.length, lines[0]!.level, lines[0]!.reason], [1, 'warn', 'undefined symbol: SSL_new'])
    assert.match(lines[0]!.message, /carried by node:net/)
    assert.throws(() => chooseTransport('reactor', log, fails), /undefined symbol/)
  })

  test('is not a reactor that was built from other sources', () => {
    for (const revision of [REACTOR_REVISION - 1, REACTOR_REVISION + 1, undefined]) {
      const { lines, log } = listening()
      const other = (): unknown => ({ revision, opensslVersion: 'OpenSSL 3.5.0' })
      assert.equal(chooseTransport('auto', log, other), 'node')
      assert.match(lines[0]!.reason!, /built from other sources .* build it with `make -C native`/)
      assert.throws(() => chooseTransport('reactor', log, other), { code: 'WEFT_UNSUPPORTED' })
    }
  })

  test('is node:net when asked for, without loading anything', () => {
    const { lines, log } = listening()
    assert.equal(chooseTransport('node', log, fails), 'node')
    assert.deepEqual([lines.length, lines[0]!.level], [1, 'info'])
    assert.ok(openTransport('node') instanceof NodeTransport)
  })

  test('can be opened by its name', { skip: reactorKind.skip }, () => {
    assert.ok(openTransport('reactor') instanceof ReactorTransport)
  })
})
