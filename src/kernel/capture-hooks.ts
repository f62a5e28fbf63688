/**
 * What the capture consists of in the kernel: the maps that its objects share, and the programs that are attached once, to
 * a cgroup, with the hook of each. The sk_lookup program, which each pod has for itself, is attached by capture-programs.ts.
 */

import { STAMP_MAP } from './map-set.ts'
import { PIECE_GETPEERNAME, PIECE_MESSAGES, PIECE_SOCKOPS } from './optional-pieces.ts'
import { UDP_MAPS } from './udp-edge-map.ts'

// Numbers of `enum bpf_attach_type` in linux/bpf.h.
const BPF_CGROUP_INET4_CONNECT = 10
const BPF_CGROUP_INET6_CONNECT = 11
const BPF_CGROUP_SOCK_OPS = 3
const BPF_CGROUP_UDP4_SENDMSG = 14
const BPF_CGROUP_UDP6_SENDMSG = 15
const BPF_CGROUP_UDP4_RECVMSG = 19
const BPF_CGROUP_UDP6_RECVMSG = 20
const BPF_CGROUP_INET4_GETPEERNAME = 29
const BPF_CGROUP_INET6_GETPEERNAME = 30

/** The maps that the objects share; an object's own constants are not among them. */
export const SHARED_MAPS = [
  STAMP_MAP,
  'pods',
  'own_addresses',
  'listeners',
  'serving_workers',
  'heartbeats',
  'worker_threads',
  'exempt_sockets',
  'steered_sockets',
  'bound_syns',
  'frontends',
  'backends',
  'verdicts',
  'flows',
  'carried_sockets',
  'probed',
  'probing_sockets',
  'edges',
  'edges_accounted',
  'events',
  'dns_pods',
  'resolvers',
  'resolver_addresses',
  'dns_stats',
  'stats',
  'unserved',
  'absences',
  ...UDP_MAPS,
] as const

/**
 * Those of them that an agent of another layout goes on with, if PASSED_HASH is the same. They are about sockets and
 * connections that exist when both agents have programs in force: what the agents have opened themselves, and what is just
 * being connected, must be known to the programs of both. Not what was steered: programs that know no pod yet would undo it.
 */
export const PASSED_MAPS: readonly (typeof SHARED_MAPS)[number][] = [
  'exempt_sockets',
  'bound_syns',
  'flows',
  'dns_pods',
  'resolvers',
  'resolver_addresses',
]

/** A program and the hook of the cgroup it goes to. */
export interface Hook {
  readonly program: string
  readonly attachType: number
  /** What is missing without it, as people call it; null when nothing works without it. */
  readonly piece: string | null
}

/** The object with connect(); it alone has constants of denial. */
export const CONNECT_OBJECT = 'connect.bpf.o'

/** What is attached to the cgroup, by the object that has it. The first has all shared maps. */
export const OBJECTS: readonly { readonly file: string; readonly hooks: readonly Hook[] }[] = [
  {
    file: CONNECT_OBJECT,
    hooks: [
      { program: 'weft_connect4', attachType: BPF_CGROUP_INET4_CONNECT, piece: null },
      { program: 'weft_connect6', attachType: BPF_CGROUP_INET6_CONNECT, piece: null },
      { program: 'weft_getpeername4', attachType: BPF_CGROUP_INET4_GETPEERNAME, piece: PIECE_GETPEERNAME },
      { program: 'weft_getpeername6', attachType: BPF_CGROUP_INET6_GETPEERNAME, piece: PIECE_GETPEERNAME },
    ],
  },
  {
    file: 'sockops.bpf.o',
    hooks: [{ program: 'weft_sockops', attachType: BPF_CGROUP_SOCK_OPS, piece: PIECE_SOCKOPS }],
  },
  {
    file: 'dns.bpf.o',
    hooks: [
      { program: 'weft_sendmsg4', attachType: BPF_CGROUP_UDP4_SENDMSG, piece: PIECE_MESSAGES },
      { program: 'weft_sendmsg6', attachType: BPF_CGROUP_UDP6_SENDMSG, piece: PIECE_MESSAGES },
      { program: 'weft_recvmsg4', attachType: BPF_CGROUP_UDP4_RECVMSG, piece: PIECE_MESSAGES },
      { program: 'weft_recvmsg6', attachType: BPF_CGROUP_UDP6_RECVMSG, piece: PIECE_MESSAGES },
    ],
  },
]
