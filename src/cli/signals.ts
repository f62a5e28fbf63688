/** Signals that end a program in order. A terminal that goes away sends the last. */
const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

/** Calls `onSignal` for every such signal until the function returned is called. */
export function onEndSignals(onSignal: () => void): () => void {
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
