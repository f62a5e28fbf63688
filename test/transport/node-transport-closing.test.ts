/** The node:net transport keeps the closing states. */
import { nodeKind } from '../support/transports.ts'
import { testClosing } from './closing-suite.ts'

testClosing(nodeKind)
