/** Signals that end a program in order. A terminal that goes away sends the last. */
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** Calls `onSignal` for every such signal until the function returned is called. */
export function onEndSignals(onSignal: (signal: NodeJS.Signals) => void): () => void {
  for (const signal of SIGNALS) process.on(signal, onSignal)
  return () => {
    for (const signal of SIGNALS) process.off(signal, onSignal)
  }
}

/** Resolves with the first such signal. Afterwards they have their default effect: a second one ends at once. */
export function endSignal(): Promise<void> {
  return new Promise((resolve) => {
    const forget = onEndSignals(() => {
      forget()
      resolve()
    })
  })
}

/** What a command does when its user wants it to end. */
export interface Interruption {
  /** Begin to end in order. */
  readonly onFirst: () => void
  /** The user does not want to wait for that: say what is left. The program ends then, by the signal. */
  readonly onSecond: () => void
}

/** Acts on such signals until the function returned is called. */
export function onInterruption({ onFirst, onSecond }: Interruption): () => void {
  let count = 0
  const onSignal = (signal: NodeJS.Signals): void => {
    count++
    if (count === 1) {
      onFirst()
      return
    }
    forget()
    onSecond()
    process.kill(process.pid, signal)
  }
  const forget = onEndSignals(onSignal)
  return forget
}
