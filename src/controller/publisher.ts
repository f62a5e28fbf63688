/**
 * Publishes generations of the mesh to the agents: keeps the newest one and a session per connected agent.
 *
 * Sessions look their agent's resources up here; the difference between two generations of what every agent gets is
 * computed once, not once per agent.
 */
import { describeError } from '../base/errors.ts'
import type { Logger } from '../base/log.ts'
import { atOnce, type Steps } from '../base/steps.ts'
import type { MeshState } from '../compiler/compile.ts'
import type { ResourceType } from '../wire/discovery.ts'
import type { DiscoveryStream } from '../wire/server.ts'
import { AgentSession, type AgentStatus } from './agent-session.ts'
import { type Difference, differenceOf, type ResourceMap, ResourceSet, type SentMap } from './resource-set.ts'

/** Streams of one node at one time. An agent has one, two while it is replaced; more are left over or hostile. */
const NODE_SESSIONS_MAX = 4

/** Told what goes to agents, and how it is taken. */
export interface PublishObserver {
  /** A response was sent; `type` as metrics call it. */
  pushed(type: string, bytes: number): void
  rejected(type: string): void
  /** An agent is sent the newest generation, so long after it was published. */
  queued(ms: number): void
  /** An agent has everything of the newest generation, so long after its change. */
  converged(ms: number): void
  /** Something of the controller itself went wrong. */
  failed(): void
}

/** All agents' sessions, and the state they are brought to. */
export class Publisher {
  private readonly log: Logger
  private readonly now: () => number
  private readonly sessions = new Set<AgentSession>()
  private set = ResourceSet.empty
  private readonly differences = new WeakMap<SentMap, WeakMap<ResourceMap, Difference>>()

  /** Of the newest generation; convergence is counted from there. */
  private changedAtMs = 0
  private publishedAtMs = 0
  readonly observer: PublishObserver | null

  constructor(log: Logger, now: () => number = Date.now, observer: PublishObserver | null = null) {
    this.log = log
    this.now = now
    this.observer = observer
  }

  get sessionCount(): number {
    return this.sessions.size
  }

  get generation(): number {
    return this.set.generation
  }

  /** Resources of the newest generation that could not be encoded. */
  get problems(): readonly string[] {
    return this.set.problems
  }

  /** Makes `state` the newest generation and tells every agent what changed for it. It changed at `changedAtMs`. */
  publish(state: MeshState, changedAtMs = this.now()): void {
    atOnce(this.publishSteps(state, changedAtMs))
  }

  /**
   * The same, a step at a time. Until all of it is encoded the generation before stays the newest; `onNewest` is called
   * when it is not any more, before an agent is told.
   */
  *publishSteps(state: MeshState, changedAtMs: number, onNewest: () => void = () => {}): Steps<void> {
    const set = yield* this.set.next(state)
    yield
    this.changedAtMs = changedAtMs
    this.publishedAtMs = this.now()
    this.set = set
    onNewest()
    for (const problem of set.problems) {
      this.log.error(`a resource cannot be published, its last good version stays in force: ${problem}`)
    }
    for (const session of [...this.sessions]) {
      yield
      this.pushTo(session)
    }
  }

  /** Serves the agent of `node` on `stream`. */
  accept(stream: DiscoveryStream, node: string): AgentSession {
    const [oldest, ...others] = [...this.sessions].filter((session) => session.node === node)
    if (oldest !== undefined && others.length + 1 >= NODE_SESSIONS_MAX) oldest.end('the node has too many streams')
    const session = new AgentSession({ stream, node, source: this, log: this.log, now: this.now })
    this.sessions.add(session)
    this.log.info('agent connected', { node, peer: stream.peer.address })
    return session
  }

  /** Called by a session that sends a change of the newest generation to an agent which has an earlier one. */
  onSent(): void {
    this.observer?.queued(this.now() - this.publishedAtMs)
  }

  /** Called by a session whose agent has everything of `generation`, which it had not before. */
  onConverged(generation: number): void {
    // Of an older one it is not known any more when it changed; the agent gets the newest next.
    if (generation === this.set.generation) this.observer?.converged(this.now() - this.changedAtMs)
  }

  /** Called by a session whose stream has ended. */
  forget(session: AgentSession): void {
    this.sessions.delete(session)
  }

  /** What the agent of `node` should have of a type. */
  wanted(typeUrl: ResourceType, node: string): ResourceMap {
    return this.set.of(typeUrl, node)
  }

  /** What is to be told to an agent that has `sent` and should have `wanted`. */
  difference(sent: SentMap, wanted: ResourceMap): Difference {
    let byWanted = this.differences.get(sent)
    if (byWanted === undefined) {
      byWanted = new WeakMap()
      this.differences.set(sent, byWanted)
    }
    let difference = byWanted.get(wanted)
    if (difference === undefined) {
      difference = differenceOf(sent, wanted)
      byWanted.set(wanted, difference)
    }
    return difference
  }

  /** One entry per connected agent, by node. */
  status(): readonly AgentStatus[] {
    return [...this.sessions].map((session) => session.status()).sort((a, b) => (a.node < b.node ? -1 : 1))
  }

  private pushTo(session: AgentSession): void {
    try {
      session.push()
    } catch (error) {
      // One agent's session must not keep the others from their update.
      this.observer?.failed()
      this.log.error('publishing to an agent failed', { node: session.node, error: describeError(error) })
    }
  }
}
