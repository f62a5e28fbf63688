/** The node:net transport at the limit of open files. */
import { nodeKind } from '../support/transports.ts'
import { testShortages } from './shortage-suite.ts'

testShortages(nodeKind)
