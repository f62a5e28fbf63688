/** The reactor keeps the rules of TLS. */
import { test } from 'node:test'
import { reactorKind } from '../support/transports.ts'
import { testTls } from './tls-suite.ts'

if (reactorKind.skip === false) {
  testTls(reactorKind)
} else test('the reactor', { skip: reactorKind.skip }, () => {})
