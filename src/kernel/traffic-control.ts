/**
 * Netlink messages that attach programs to an interface by traffic control. A filter is the interface's: it stays when
 * the agent ends, until it is deleted or the interface goes.
 *
 * Numbers are of linux/rtnetlink.h and linux/pkt_sched.h; all fields are in the machine's order but for the protocol.
 */
import { IS_LITTLE_ENDIAN } from './maps.ts'
import { Message } from './netlink.ts'

const RTM_NEWQDISC = 36
const RTM_DELQDISC = 37
const RTM_NEWTFILTER = 44
const RTM_DELTFILTER = 45
const RTM_GETTFILTER = 46

const NLM_F_REQUEST = 0x001
const NLM_F_ACK = 0x004
const NLM_F_DUMP = 0x300
const NLM_F_EXCL = 0x200
const NLM_F_CREATE = 0x400

const TCA_KIND = 1
const TCA_OPTIONS = 2
const TCA_BPF_CLASSID = 3
const TCA_BPF_FD = 6
const TCA_BPF_NAME = 7
const TCA_BPF_FLAGS = 8
/** The program's result is the verdict (direct-action). */
const TCA_BPF_FLAG_ACT_DIRECT = 1

/** The queueing discipline that only holds filters, and its two places for them. */
const CLSACT_HANDLE = 0xffff0000
const CLSACT_PARENT = 0xfffffff1
export const TC_INGRESS = 0xfffffff2
export const TC_EGRESS = 0xfffffff3
export type TcDirection = typeof TC_INGRESS | typeof TC_EGRESS

/** All protocols (ETH_P_ALL), in network order. */
const PROTOCOL_ALL = IS_LITTLE_ENDIAN ? 0x0300 : 0x0003

/** Names our filters, with the priority: "WE" and the number of the agent's first filter. */
const FILTER_HANDLE = 0x57450001
/** Filters with lower numbers come first. One that ends the look-up must not hide packets from us; few use 1 to 9. */
const FILTER_PRIORITY = 7

const KIND_CLSACT = new TextEncoder().encode('clsact\0\0')
const KIND_BPF = new TextEncoder().encode('bpf\0')
/** Bytes of a filter's name, with its end and padding; ours have 13 to 17 letters, which tell them apart. */
const NAME_BYTES = 20
/** Bytes of `struct nlmsghdr`. */
const HEADER_BYTES = 16

/** Makes room for filters; answered with EEXIST when there is. */
export function addClsact(interfaceIndex: number): Uint8Array {
  const message = start(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, interfaceIndex, CLSACT_HANDLE, CLSACT_PARENT, 0)
  message.attribute(TCA_KIND, KIND_CLSACT)
  return message.finish()
}

/** Removes it with all filters, whoever they are. */
export function deleteClsact(interfaceIndex: number): Uint8Array {
  return start(RTM_DELQDISC, 0, interfaceIndex, CLSACT_HANDLE, CLSACT_PARENT, 0).finish()
}

/** What a filter runs. */
export interface TcProgram {
  readonly fd: number
  /** As `tc` shows it. */
  readonly name: string
  /** The program reads it as `tc_classid`. */
  readonly classId: number
}

/** Attaches a program in place of the one that is there, with no moment in between. */
export function replaceFilter(interfaceIndex: number, direction: TcDirection, program: TcProgram): Uint8Array {
  const message = start(RTM_NEWTFILTER, NLM_F_CREATE, interfaceIndex, FILTER_HANDLE, direction, filterInfo())
  message.attribute(TCA_KIND, KIND_BPF)
  const text = new Uint8Array(NAME_BYTES)
  new TextEncoder().encodeInto(program.name.slice(0, NAME_BYTES - 1), text)
  const options = new Message(0, 0)
  options.attributeU32(TCA_BPF_CLASSID, program.classId)
  options.attributeU32(TCA_BPF_FD, program.fd)
  options.attribute(TCA_BPF_NAME, text)
  options.attributeU32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT)
  message.attribute(TCA_OPTIONS, options.finish().subarray(HEADER_BYTES))
  return message.finish()
}

/** Detaches our program; answered with ENOENT or EINVAL when it is not there. */
export function deleteFilter(interfaceIndex: number, direction: TcDirection): Uint8Array {
  return start(RTM_DELTFILTER, 0, interfaceIndex, FILTER_HANDLE, direction, filterInfo()).finish()
}

/** Asks for the filters of a direction; the answer is empty when there are none. */
export function dumpFilters(interfaceIndex: number, direction: TcDirection): Uint8Array {
  return start(RTM_GETTFILTER, NLM_F_DUMP, interfaceIndex, 0, direction, 0).finish()
}

/** Begins with struct tcmsg. */
function start(
  type: number,
  flags: number,
  interfaceIndex: number,
  handle: number,
  parent: number,
  info: number,
): Message {
  // The end of a dump is its acknowledgement.
  const acknowledge = (flags & NLM_F_DUMP) === NLM_F_DUMP ? 0 : NLM_F_ACK
  const message = new Message(type, NLM_F_REQUEST | acknowledge | flags)
  message.bytes(0, 0, 0, 0)
  message.u32(interfaceIndex)
  message.u32(handle)
  message.u32(parent)
  message.u32(info)
  return message
}

function filterInfo(): number {
  return ((FILTER_PRIORITY << 16) | PROTOCOL_ALL) >>> 0
}
