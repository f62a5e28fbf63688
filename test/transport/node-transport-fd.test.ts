/** The node:net transport takes descriptors that others opened. */
import { nodeKind } from '../support/transports.ts'
import { testDescriptors } from './descriptor-suite.ts'

testDescriptors(nodeKind)
