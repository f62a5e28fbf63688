/**
 * Where the mesh's objects come from: the seam between sources and compiler.
 *
 * A source holds the last state it knows to be whole. What makes it lose sight of the origin (a directory that is gone, an
 * API server that is away) changes nothing but its messages.
 */
import type { Message } from '../compiler/messages.ts'
import type { MeshObject } from '../compiler/object.ts'

/** Single objects, for who cannot wait until all of them are compiled. `namespace` is empty for what has none. */
export interface ObjectSearch {
  /** As it was seen last. */
  newest(kind: string, namespace: string, name: string): MeshObject | null
  /** As the origin has it now; null when it has none, or does not answer. Never rejects. */
  fetch(kind: string, namespace: string, name: string): Promise<MeshObject | null>
}

/** All objects of the mesh, kept in step with their origin. */
export interface Source extends ObjectSearch {
  /** The state now. An object that did not change is the very same one as before. */
  readonly objects: readonly MeshObject[]
  /** What is wrong with the origin, or with objects of it that are not in force. */
  readonly messages: readonly Message[]
  /** Resolves when the first state is whole. Rejects with WeftError when it never will be, or when stopped meanwhile. */
  start(): Promise<void>
  /** No change is told any more. Resolves when nothing is under way. */
  stop(): Promise<void>
  /** For /status. */
  status(): unknown
}
