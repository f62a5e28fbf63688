/**
 * The few netlink messages that steering needs, made as bytes: routing rules, local routes, and a question to sock_diag.
 *
 * Netlink instead of the `ip` program: enrolling a pod starts no process, and a failure is an errno, not a text.
 * Numbers are of linux/rtnetlink.h, linux/fib_rules.h and linux/inet_diag.h; all fields are in the machine's order.
 */
import { FAMILY_IPV6, type Family } from '../base/address.ts'

export const NETLINK_ROUTE = 0
export const NETLINK_SOCK_DIAG = 4

const RTM_NEWROUTE = 24
const RTM_DELROUTE = 25
const RTM_GETROUTE = 26
const RTM_NEWRULE = 32
const RTM_DELRULE = 33
const SOCK_DIAG_BY_FAMILY = 20

const NLM_F_REQUEST = 0x001
const NLM_F_ACK = 0x004
const NLM_F_DUMP = 0x300
const NLM_F_REPLACE = 0x100
const NLM_F_EXCL = 0x200
const NLM_F_CREATE = 0x400

const FRA_PRIORITY = 6
const FRA_FWMARK = 10
const FRA_TABLE = 15
const FR_ACT_TO_TBL = 1

const RTA_DST = 1
const RTA_OIF = 4
const RTA_PRIORITY = 6
const RTA_PREFSRC = 7
const RTA_MARK = 16
const RTN_LOCAL = 2
/** The answer is the route itself, as it was set, with its table, not the way that follows from it. */
const RTM_F_LOOKUP_TABLE = 0x1000
const RTM_F_FIB_MATCH = 0x2000
/** Marks the route as set by a program (RTPROT_STATIC, as `ip route add` does). */
const RTPROT_STATIC = 4
const RT_SCOPE_HOST = 254

const INET_DIAG_REQ_BYTECODE = 1
const INET_DIAG_BC_MARK_COND = 10
const IPPROTO_TCP = 6
const TCP_ESTABLISHED = 1
const TCP_TIME_WAIT = 6
const TCP_CLOSE = 7
const TCP_LISTEN = 10
const TCP_STATES_ALL = 0xfff

/** The two top bits of an attribute's type are flags. */
const ATTRIBUTE_TYPE_MASK = 0x3fff

/** Bytes of `struct nlmsghdr`, and of `struct rtmsg`. */
const HEADER_BYTES = 16
const ROUTE_BYTES = 12
/** Of `struct inet_diag_msg`. */
const SOCKET_BYTES = 72

const IS_LITTLE_ENDIAN = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1

export interface Rule {
  readonly family: Family
  readonly mark: number
  readonly table: number
  readonly priority: number
}

/** `local <destination> dev <interface> src <source> table <table> metric <metric>` */
export interface LocalRoute {
  readonly family: Family
  readonly table: number
  readonly interfaceIndex: number
  readonly metric: number
  /** 4 or 16 bytes: the address that unbound sockets get. */
  readonly source: Uint8Array
  /** The addresses that it is for: all of them when left out. */
  readonly destination?: { readonly address: Uint8Array; readonly length: number }
}

/** Adds a rule; answered with EEXIST when it is there. */
export function addRule(rule: Rule): Uint8Array {
  return ruleMessage(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, rule)
}

/** Deletes a rule; answered with ENOENT when it is not there. */
export function deleteRule(rule: Rule): Uint8Array {
  return ruleMessage(RTM_DELRULE, 0, rule)
}

/** Sets a route, in place of one with the same table and metric. */
export function replaceRoute(route: LocalRoute): Uint8Array {
  return routeMessage(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, route)
}

/** Deletes a route; answered with ESRCH when it is not there. */
export function deleteRoute(route: LocalRoute): Uint8Array {
  return routeMessage(RTM_DELROUTE, 0, route)
}

/** A way that packets would take. */
export interface RouteQuestion {
  readonly family: Family
  /** 4 or 16 bytes. */
  readonly destination: Uint8Array
  readonly mark: number
  /** Of the interface to which the socket is bound; 0 for none. */
  readonly interfaceIndex: number
}

/** Asks which route packets would take; answered with ENETUNREACH when none. */
export function askRoute(question: RouteQuestion): Uint8Array {
  const { family, destination, mark, interfaceIndex } = question
  const message = new Message(RTM_GETROUTE, NLM_F_REQUEST | NLM_F_ACK)
  // struct rtmsg.
  message.bytes(family, destination.length * 8, 0, 0)
  message.bytes(0, 0, 0, 0)
  message.u32(RTM_F_FIB_MATCH | RTM_F_LOOKUP_TABLE)
  message.attribute(RTA_DST, destination)
  message.attributeU32(RTA_MARK, mark)
  if (interfaceIndex !== 0) message.attributeU32(RTA_OIF, interfaceIndex)
  return message.finish()
}

/** True when the answer to `askRoute` is a local route of that table over that interface; and with that source, if given. */
export function isLocalRoute(
  answer: Uint8Array,
  table: number,
  interfaceIndex: number,
  source: Uint8Array | null = null,
): boolean {
  if (answer.length < HEADER_BYTES + ROUTE_BYTES) return false
  if (answer[HEADER_BYTES + 4] !== table || answer[HEADER_BYTES + 7] !== RTN_LOCAL) return false
  const attributes = answer.subarray(HEADER_BYTES + ROUTE_BYTES)
  const index = attributeOf(attributes, RTA_OIF)
  if (index === null || new DataView(index.buffer, index.byteOffset).getUint32(0, IS_LITTLE_ENDIAN) !== interfaceIndex)
    return false
  if (source === null) return true
  const given = attributeOf(attributes, RTA_PREFSRC)
  return given !== null && given.length === source.length && given.every((byte, i) => byte === source[i])
}

/** The value of the first attribute of that type; null when there is none, or what is there is cut off. */
export function attributeOf(attributes: Uint8Array, type: number): Uint8Array | null {
  const view = new DataView(attributes.buffer, attributes.byteOffset, attributes.byteLength)
  for (let at = 0; at + 4 <= attributes.length; ) {
    const length = view.getUint16(at, IS_LITTLE_ENDIAN)
    if (length < 4 || at + length > attributes.length) return null
    if ((view.getUint16(at + 2, IS_LITTLE_ENDIAN) & ATTRIBUTE_TYPE_MASK) === type) {
      return attributes.subarray(at + 4, at + length)
    }
    at += (length + 3) & ~3
  }
  return null
}

/** Asks for the TCP sockets of a family that carry `mark` and are neither listening nor closed. */
export function dumpMarkedSockets(family: Family, mark: number): Uint8Array {
  const message = new Message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP)
  message.bytes(family, IPPROTO_TCP, 0, 0)
  message.u32(TCP_STATES_ALL & ~((1 << TCP_TIME_WAIT) | (1 << TCP_CLOSE) | (1 << TCP_LISTEN)))
  // struct inet_diag_sockid, 48 bytes: not used by a dump.
  for (let i = 0; i < 12; i++) message.u32(0)
  // One instruction of 4 bytes with an operand of 8: go on to the end (12) when the mark is equal, else beyond it (16).
  const condition = new Uint8Array(12)
  const view = new DataView(condition.buffer)
  view.setUint8(0, INET_DIAG_BC_MARK_COND)
  view.setUint8(1, 12)
  view.setUint16(2, 16, IS_LITTLE_ENDIAN)
  view.setUint32(4, mark, IS_LITTLE_ENDIAN)
  view.setUint32(8, 0xffffffff, IS_LITTLE_ENDIAN)
  message.attribute(INET_DIAG_REQ_BYTECODE, condition)
  return message.finish()
}

/** Asks for the established TCP connections of a family. */
export function dumpConnections(family: Family): Uint8Array {
  const message = new Message(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP)
  message.bytes(family, IPPROTO_TCP, 0, 0)
  message.u32(1 << TCP_ESTABLISHED)
  for (let i = 0; i < 12; i++) message.u32(0)
  return message.finish()
}

/** The peers' addresses, 4 or 16 bytes each, in the answer to a dump of sockets. */
export function* remoteAddresses(answer: Uint8Array): Iterable<Uint8Array> {
  const view = new DataView(answer.buffer, answer.byteOffset, answer.byteLength)
  for (let at = 0; at + HEADER_BYTES + SOCKET_BYTES <= answer.length; ) {
    const length = view.getUint32(at, IS_LITTLE_ENDIAN)
    if (length < HEADER_BYTES + SOCKET_BYTES) return
    // struct inet_diag_msg: family, state, timer, retransmits; ports (4 bytes); source, destination (16 bytes each).
    const destination = at + HEADER_BYTES + 24
    yield answer.subarray(destination, destination + (answer[at + HEADER_BYTES] === FAMILY_IPV6 ? 16 : 4))
    at += (length + 3) & ~3
  }
}

function ruleMessage(type: number, flags: number, rule: Rule): Uint8Array {
  const message = new Message(type, NLM_F_REQUEST | NLM_F_ACK | flags)
  // struct fib_rule_hdr. The table is given as attribute: the byte in the header holds only the first 256.
  message.bytes(rule.family, 0, 0, 0)
  message.bytes(0, 0, 0, FR_ACT_TO_TBL)
  message.u32(0)
  message.attributeU32(FRA_PRIORITY, rule.priority)
  message.attributeU32(FRA_FWMARK, rule.mark)
  message.attributeU32(FRA_TABLE, rule.table)
  return message.finish()
}

function routeMessage(type: number, flags: number, route: LocalRoute): Uint8Array {
  const message = new Message(type, NLM_F_REQUEST | NLM_F_ACK | flags)
  // struct rtmsg. Without a destination it is the default route.
  message.bytes(route.family, route.destination?.length ?? 0, 0, 0)
  message.bytes(route.table, RTPROT_STATIC, RT_SCOPE_HOST, RTN_LOCAL)
  message.u32(0)
  if (route.destination !== undefined) message.attribute(RTA_DST, route.destination.address)
  message.attributeU32(RTA_OIF, route.interfaceIndex)
  message.attributeU32(RTA_PRIORITY, route.metric)
  message.attribute(RTA_PREFSRC, route.source)
  return message.finish()
}

/** Longest message made here: a diag request with its filter (88 bytes); a power of two above it. */
const MESSAGE_BYTES_MAX = 128

/** A netlink message while it is written. */
export class Message {
  private readonly buffer = new Uint8Array(MESSAGE_BYTES_MAX)
  private readonly view = new DataView(this.buffer.buffer)
  private length = HEADER_BYTES

  constructor(type: number, flags: number) {
    this.view.setUint16(4, type, IS_LITTLE_ENDIAN)
    this.view.setUint16(6, flags, IS_LITTLE_ENDIAN)
  }

  bytes(a: number, b: number, c: number, d: number): void {
    this.buffer[this.length] = a
    this.buffer[this.length + 1] = b
    this.buffer[this.length + 2] = c
    this.buffer[this.length + 3] = d
    this.length += 4
  }

  u32(value: number): void {
    this.view.setUint32(this.length, value, IS_LITTLE_ENDIAN)
    this.length += 4
  }

  /** A value whose length is a multiple of 4, as all of ours are: there is no padding. */
  attribute(type: number, value: Uint8Array): void {
    this.view.setUint16(this.length, 4 + value.length, IS_LITTLE_ENDIAN)
    this.view.setUint16(this.length + 2, type, IS_LITTLE_ENDIAN)
    this.buffer.set(value, this.length + 4)
    this.length += 4 + value.length
  }

  attributeU32(type: number, value: number): void {
    this.view.setUint16(this.length, 8, IS_LITTLE_ENDIAN)
    this.view.setUint16(this.length + 2, type, IS_LITTLE_ENDIAN)
    this.length += 4
    this.u32(value)
  }

  finish(): Uint8Array {
    this.view.setUint32(0, this.length, IS_LITTLE_ENDIAN)
    return this.buffer.subarray(0, this.length)
  }
}
