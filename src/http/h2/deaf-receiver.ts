/** Takes a stream's part until its owner has said who does. */
import { ERROR_CANCEL } from './frame.ts'
import type { H2Receiver } from './stream.ts'

/** Receiver of a stream until its owner has said who it is; nothing is reported in between. */
export const DEAF: H2Receiver = {
  onHeaders(): void {},
  onData(): void {},
  onTrailers(): void {},
  onEnd(): void {},
  onDrain(): void {},
  onClosed(stream): void {
    stream.reset(ERROR_CANCEL)
  },
}
