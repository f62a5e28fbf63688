/**
 * Answers agents about pods that are about to start on their nodes: from the newest objects, compiled or not, and from
 * the API server itself where the watch is behind it. A pod is there before its node can start it, so that whoever asks
 * is told the truth, and in milliseconds: what is published comes only after that.
 *
 * A node is told of its own pods and of nobody else's.
 */
import type { CompileSettings } from '../compiler/compile.ts'
import { Enrolments } from '../compiler/enrolment.ts'
import { MessageLog } from '../compiler/messages.ts'
import type { MeshObject } from '../compiler/object.ts'
import { type Pod, readPod } from '../compiler/pod.ts'
import { failureModeOf } from '../compiler/pod-settings.ts'
import type { Run } from '../compiler/settings.ts'
import { POD_MESHED, POD_OUTSIDE, POD_UNKNOWN, type PodMembership, type StartingPod } from '../model/pod-membership.ts'
import { FAILURE_BY_POLICY } from '../model/workload.ts'
import type { ObjectSearch } from './source.ts'

/** See the head of the file. */
export class PodMemberships {
  private readonly objects: ObjectSearch
  private readonly settings: CompileSettings

  constructor(objects: ObjectSearch, settings: CompileSettings) {
    this.objects = objects
    this.settings = settings
  }

  /** Never rejects: what the API server does not say counts as unseen. */
  async of(starting: StartingPod, node: string): Promise<PodMembership> {
    const { namespace, name } = starting
    const isSought = (object: MeshObject | null): boolean => object !== null && isOnNode(object, starting, node)
    // What is said of these objects is said when they are compiled.
    const run: Run = { settings: this.settings, log: new MessageLog() }
    const [place, object] = await Promise.all([
      this.find('Namespace', '', namespace, (found) => found !== null),
      this.find('Pod', namespace, name, isSought),
    ])
    const inherited = place === null ? FAILURE_BY_POLICY : failureModeOf(place, FAILURE_BY_POLICY, run)
    const pod: Pod | null = object === null || !isSought(object) ? null : readPod(object, run)
    if (pod === null) return { state: POD_UNKNOWN, failureMode: inherited }
    const { isOurs } = new Enrolments(place === null ? [] : [place], run).of(pod, run)
    return { state: isOurs ? POD_MESHED : POD_OUTSIDE, failureMode: failureModeOf(pod.object, inherited, run) }
  }

  /** As it was seen last; when that will not do, as the API server has it now. */
  private async find(
    kind: string,
    namespace: string,
    name: string,
    isSought: (object: MeshObject | null) => boolean,
  ): Promise<MeshObject | null> {
    const seen = this.objects.newest(kind, namespace, name)
    return isSought(seen) ? seen : await this.objects.fetch(kind, namespace, name)
  }
}

/** True for this very pod, scheduled there. Before it was seen to be scheduled it may be anybody's. */
function isOnNode(object: MeshObject, { uid }: StartingPod, node: string): boolean {
  const spec = object.spec as { readonly nodeName?: unknown } | null | undefined
  return (uid === '' || object.uid === '' || object.uid === uid) && spec?.nodeName === node
}
