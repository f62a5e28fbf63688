/** The node:net transport keeps the rules of TLS. */
import { nodeKind } from '../support/transports.ts'
import { testTls } from './tls-suite.ts'

testTls(nodeKind)
