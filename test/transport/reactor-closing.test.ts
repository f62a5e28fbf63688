/** The reactor keeps the closing states. */
import { test } from 'node:test'
import { reactorKind } from '../support/transports.ts'
import { testClosing } from './closing-suite.ts'

if (reactorKind.skip === false) {
  testClosing(reactorKind)
} else test('the reactor', { skip: reactorKind.skip }, () => {})
