// Hot path: see ARCHITECTURE.md, "Hot path rules".
/** Rolls the dice for an injected fault, once per exchange. Delay and abort are independent of each other. */
import type { Fault } from '../model/route.ts'

/** Percentages are parts per million. */
const MILLION = 1_000_000

/** What is to be done to this exchange. One object for all: read it before the next `decideFault`. */
export interface FaultDecision {
  /** 0 is no delay. */
  delayMs: number
  /** Status of the abort; 0 when there is none or when it is a gRPC one. */
  abortStatus: number
  /** gRPC status of the abort; -1 when there is none or when it is an HTTP one. */
  abortGrpcStatus: number
}

const decision: FaultDecision = { delayMs: 0, abortStatus: 0, abortGrpcStatus: -1 }

/** `random` gives [0, 1) and is asked twice, so that a seed always means the same course of events. */
export function decideFault(fault: Fault, random: () => number): FaultDecision {
  const isDelayed = random() * MILLION < fault.delayPpm
  const isAborted = random() * MILLION < fault.abortPpm
  decision.delayMs = isDelayed ? fault.delayMs : 0
  decision.abortStatus = isAborted ? fault.abortStatus : 0
  decision.abortGrpcStatus = isAborted ? (fault.abortGrpcStatus ?? -1) : -1
  return decision
}
