/** The reactor at the limit of open files. */
import { test } from 'node:test'
import { reactorKind } from '../support/transports.ts'
import { testShortages } from './shortage-suite.ts'

if (reactorKind.skip === false) {
  testShortages(reactorKind)
} else test('the reactor', { skip: reactorKind.skip }, () => {})
