/**
 * Remembers undeclared ports whose server speaks first, so that only the first connection to one waits for its client.
 *
 * A port is remembered when its server really spoke before the client did, and forgotten when a client speaks first.
 */

/** Ports that are remembered. Beyond it the oldest goes: the price is one wait of DETECT_TIMEOUT_MS. */
const PORTS_MAX = 4096

export class ServerFirstPorts {
  private readonly ports = new Set<string>()

  has(port: string): boolean {
    return this.ports.has(port)
  }

  /** Somebody spoke first on `port`. */
  note(port: string, isServer: boolean): void {
    if (!isServer) {
      this.ports.delete(port)
      return
    }
    if (this.ports.size >= PORTS_MAX) for (const oldest of this.ports) if (this.ports.delete(oldest)) break
    this.ports.add(port)
  }
}
