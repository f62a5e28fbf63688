/** Workloads with the policies that select them, as agents get them. */
import { STEP_VALUES, type Steps } from '../base/steps.ts'
import type { Workload } from '../model/workload.ts'
import { isSameList } from './compile-memo.ts'
import type { Member } from './inventory.ts'
import { compareText } from './messages.ts'

/** Keys of policies by the uid of the workload, from each of the two kinds of policies. */
export interface PolicyKeys {
  readonly peers: ReadonlyMap<string, readonly string[]>
  readonly selected: ReadonlyMap<string, readonly string[]>
}

/** Workloads, each made of the member at the same place. */
export interface FinishedWorkloads {
  readonly list: readonly Workload[]
  readonly members: readonly Member[]
}

const NO_KEYS: readonly string[] = []

/** The workloads of `members`, which are sorted by uid; a workload that is as in `former` is the very same. */
export function* finishWorkloads(
  members: readonly Member[],
  { peers, selected }: PolicyKeys,
  former: FinishedWorkloads | null,
): Steps<FinishedWorkloads> {
  const list: Workload[] = []
  let at = 0
  for (let i = 0; i < members.length; i++) {
    if ((i + 1) % STEP_VALUES === 0) yield
    const member = members[i]!
    const { uid } = member
    const [ofPeers, ofSelected] = [peers.get(uid) ?? NO_KEYS, selected.get(uid) ?? NO_KEYS]
    const policies = ofPeers.length === 0 ? ofSelected : [...ofPeers, ...ofSelected].sort(compareText)
    // Both lists are sorted: what stands before this one is gone.
    while (former !== null && at < former.members.length && former.members[at]!.uid < uid) at++
    const known = former?.members[at] === member ? former.list[at]! : null
    const isSame = known !== null && isSameList(known.policies, policies)
    list.push(isSame ? known : { ...member.workload, policies })
  }
  return { list, members }
}
