/** A transport on the reactor in a program of its own. */
import { reactorKind } from './transports.ts'

export const transport = reactorKind.create()
