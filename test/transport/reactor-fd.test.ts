/** The reactor takes descriptors that others opened. */
import { test } from 'node:test'
import { reactorKind } from '../support/transports.ts'
import { testDescriptors } from './descriptor-suite.ts'

if (reactorKind.skip === false) {
  testDescriptors(reactorKind)
} else test('the reactor', { skip: reactorKind.skip }, () => {})
