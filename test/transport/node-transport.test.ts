/** The node:net transport keeps the rules of plain connections. */
import { nodeKind } from '../support/transports.ts'
import { testPlainConnections } from './plain-suite.ts'

testPlainConnections(nodeKind)
