/** A transport on node:net in a program of its own. */
import { nodeKind } from './transports.ts'

export const transport = nodeKind.create()
