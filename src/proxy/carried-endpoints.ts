// Hot path: see ARCHITECTURE.md, "Hot path rules".
/**
 * Which endpoints of a service port get their share of connections from the kernel already (agent/carriage-plan.ts): what
 * comes to the proxy is the share of the others.
 */
import type { Family } from '../base/address.ts'

/** Names a service port in one address family; `scope` is empty for what holds for clients without rules of their own. */
export function carriedKey(scope: string, service: string, port: number, family: Family): string {
  return `${service}|${port}|${family}|${scope}`
}
