/** The state of an agent that has nothing to tell, for tests of metrics. */
import type { AgentState } from '../../src/telemetry/registry.ts'

export const IDLE_STATE: AgentState = {
  enrolledPods: 0,
  podsNotCaptured: 0,
  captureRepairs: 0,
  outboundCaptured: 0,
  inboundCaptured: 0,
  bypassed: 0,
  silentWorkers: 0,
  refused: 0,
  absences: 0,
  absentSeconds: 0,
  mainStalls: 0,
  mainStalledSeconds: 0,
  openConnections: new Map(),
  certificateExpiryMs: new Map(),
  configVersion: 0,
  configRejected: 0,
}
