/** The reactor keeps the rules of plain connections. */
import { test } from 'node:test'
import { reactorKind } from '../support/transports.ts'
import { testPlainConnections } from './plain-suite.ts'

if (reactorKind.skip === false) {
  testPlainConnections(reactorKind)
} else test('the reactor', { skip: reactorKind.skip }, () => {})
